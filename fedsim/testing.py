"""For those who write schedulers: stepping a script by hand, and a conformance suite.

    from fedsim.testing import by_hand, check_scheduler

    steps = by_hand(Mine(), "server")          # no runtime: see each effect, give each answer
    check_scheduler(Mine())                    # raises AssertionError naming the rule that is broken
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from fedsim import seeds
from fedsim.data import DataSet, Quantity, from_arrays
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.profiles import load_profile
from fedsim.learning.context import Device, Job, Server
from fedsim.learning.optimizers import Sgd, Training
from fedsim.mailbox import Mailbox
from fedsim.report import check_identity
from fedsim.script import SERVER, Command, Effect, Message, Payload, Role
from fedsim.simulation import Ending, Inline, Simulation
from fedsim.simulation.engine import Fault, Limits

DEVICES: Final = 4
ROUNDS: Final = 2
_CUT: Final = 1
_SEED: Final = 11


class Hand:
    """The port of a script that is stepped by hand: what it did lies open."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.now = 0.0
        self.absent: Collection[int] = ()
        self.mailbox = Mailbox()
        self.commands: list[Command] = []
        self.marks: list[tuple[str, float, Mapping[str, object] | None]] = []
        self.published: list[tuple[Payload, ...]] = []

    def poll(self, *kinds: type[Message]) -> Message | None:
        """Take the first message that was put into `mailbox`."""
        return self.mailbox.take(kinds)

    def command(self, command: Command) -> None:
        """Note the command."""
        self.commands.append(command)

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Note the mark."""
        self.marks.append((name, value, detail))

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Note the model."""
        self.published.append(model)


class Steps:
    """A script under way, one effect at a time.

    `effect` is what it awaits now, None once it has returned; `answer(value)` lets it go on.
    """

    def __init__(self, script: Coroutine[Effect[Any], Any, None], port: Hand) -> None:
        self.port = port
        self.effect: Effect[Any] | None = None
        self._script = script
        self.answer(None)

    def answer(self, value: object) -> Effect[Any] | None:
        """Answer the current effect; returns the next one."""
        try:
            self.effect = self._script.send(value)
        except StopIteration:
            self.effect = None
        return self.effect

    def close(self) -> None:
        """Close the script, as when its device leaves."""
        self._script.close()


def by_hand(scheduler: Any, node: int | str, *, devices: int = DEVICES, rounds: int | None = ROUNDS) -> Steps:
    """A script of `scheduler` without any runtime: that of a device's number, or of `"server"`."""
    port = Hand(SERVER if node == "server" else int(node))
    assembly = toy(scheduler, devices=devices, rounds=rounds)
    job = Job(
        seed=assembly.seed,
        plans=assembly.blocks(),
        samples=assembly.samples,
        participants=assembly.participants,
        rounds=rounds,
        batch=assembly.training.batch,
    )
    if port.node == SERVER:
        return Steps(scheduler.server(Server(port, job, devices)), port)
    return Steps(scheduler.device(Device(port, job)), port)


def toy_data() -> DataSet:
    """96 generated samples of three classes that a small network can learn."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 96)
    inputs = (rng.normal(size=(96, 6)) + 2 * np.eye(3, 6)[labels]).astype(np.float32)
    return from_arrays(inputs, labels, inputs[:24], labels[:24], name="toy")


def _network() -> Any:
    from fedsim.models.catalogue import Mlp, build

    options = Mlp(hidden=[5, 4])
    return build("mlp", options, input=(6,), classes=3, kind="vector", device="cpu", seed=_SEED)


def toy(
    scheduler: Any,
    *,
    devices: int = DEVICES,
    rounds: int | None = ROUNDS,
    participants: int | None = None,
    faults: Sequence[Fault] = (),
    time: float | None = None,
) -> Assembly:
    """A small run of `scheduler`: unequal devices and links, unequal shards of generated data, a tiny network."""
    from fedsim.models.counting import measure

    data = toy_data()
    shards = Quantity(min_size=8).deal(
        data.train.labels, None, devices, seeds.generator(_SEED, SERVER, "partition")
    )
    kinds = (("pi-tier-1", "wifi5"), ("pi-tier-4", "wifi4"), ("jetson-tier-4", "lte"))
    groups = [
        Group(load_profile(profile), load_link(link), len(range(index, devices, len(kinds))))
        for index, (profile, link) in enumerate(kinds)
    ]
    return Assembly(
        scheduler=scheduler,
        model=measure(_network()),
        cut=_CUT,
        training=Training(batch=8, optimizer=Sgd(lr=0.1), channels_last=False),
        fleet=Fleet(
            tuple(group for group in groups if group.count), load_profile("cpu-60g"), load_link("ethernet-1g")
        ),
        samples=shards.sizes(),
        participants=devices if participants is None else participants,
        rounds=rounds,
        limits=Limits(time=time),
        seed=_SEED,
        faults=faults,
        scenario={"name": "toy", "seed": _SEED},
    )


@dataclass(frozen=True)
class Outcome:
    """A finished toy run; `weights` is None where nothing was learnt."""

    simulation: Simulation
    ending: Ending
    weights: dict[str, Any] | None


def simulate(assembly: Assembly, *, learning: bool = True) -> Outcome:
    """Run an assembly of `toy` on the virtual clock, and check its accounting."""
    if not learning:
        simulation = assembly.simulation()
        ending = simulation.run()
        check_identity(simulation.trace)
        return Outcome(simulation, ending, None)
    from fedsim.learning.host import Host
    from fedsim.learning.samples import TensorSamples

    data = toy_data()
    shards = Quantity(min_size=8).deal(
        data.train.labels, None, assembly.fleet.devices, seeds.generator(_SEED, SERVER, "partition")
    )
    blocks = assembly.blocks()
    host = Host(_network(), blocks, TensorSamples(data, shards), assembly.seed)
    simulation = assembly.simulation(Inline(host), blocks=blocks)
    ending = simulation.run()
    check_identity(simulation.trace)
    weights = None
    if simulation.published is not None:
        weights = {name: tensor.clone() for name, tensor in host.model_tensors(simulation.published.model).items()}
    return Outcome(simulation, ending, weights)


def check_scheduler(scheduler: Any) -> None:
    """The conformance suite: rules that every scheduler keeps, on a small generated run.

    It must run from its options alone, end, and publish a model; declare its messages; give the same trace and the
    same weights twice, and the same trace with learning off; account for every nanosecond and every byte; run with
    some of the devices; and end by its own rule when a device leaves, with or without coming back, at any of its
    awaits.

    Raises:
        AssertionError: a rule is broken; the message says which.
        RunError: a script misbehaved, such as by awaiting something foreign or waiting for ever.
    """
    _check_declarations(scheduler)
    first = simulate(toy(scheduler))
    assert first.ending is Ending.SERVER, f"with until.rounds the server's script returns, but {first.ending.value}"
    assert first.weights, "the server publishes its current global model: me.publish(...)"
    _check_messages(scheduler, first)
    _check_repeatable(scheduler, first)
    assert simulate(toy(scheduler, participants=2), learning=False).ending is Ending.SERVER, "rounds of some devices"
    assert simulate(toy(scheduler, rounds=None, time=0.5), learning=False).ending is Ending.TIME, (
        "without until.rounds the server's script goes on until the run is ended"
    )
    for device in range(DEVICES):
        for moment in _awaits(first.simulation, device):
            for back in (None, moment + 1.0):
                fault = Fault(device=device, leave=moment, back=back)
                left = simulate(toy(scheduler, faults=[fault]), learning=False)
                assert left.ending is Ending.SERVER, f"device {device} left at {moment} s: {left.ending.value}"
    simulate(toy(scheduler, faults=[Fault(device=0, leave=_awaits(first.simulation, 0)[-1])]))


def _check_declarations(scheduler: Any) -> None:
    name = type(scheduler).__name__
    assert getattr(type(scheduler), "__dataclass_params__", None), f"{name} is a frozen dataclass of its options"
    assert type(scheduler).__dataclass_params__.frozen, f"{name} is a frozen dataclass of its options"
    assert all(f.kw_only for f in fields(scheduler)), f"the options of {name} are keyword-only"
    type(scheduler)()  # every option has a default
    assert isinstance(getattr(scheduler, "splits", None), bool), f"{name}.splits says whether the model is cut"
    for kind in scheduler.messages:
        assert issubclass(kind, Message), f"{kind.__name__} is a Message"
        assert isinstance(getattr(kind, "role", None), Role), f"{kind.__name__} declares its role"


def _check_messages(scheduler: Any, outcome: Outcome) -> None:
    declared = {kind.__name__ for kind in scheduler.messages}
    sent = {transfer[3] for transfer in outcome.simulation.trace.transfers}
    assert sent <= declared, f"{sorted(sent - declared)} are sent, but not declared in `messages`"


def _check_repeatable(scheduler: Any, first: Outcome) -> None:
    again = simulate(toy(scheduler))
    assert _records(again) == _records(first), "the same scenario and seed give the same trace"
    assert first.weights is not None and again.weights is not None
    for name, tensor in first.weights.items():
        assert tensor.equal(again.weights[name]), f"the same scenario and seed give the same weights ({name} differs)"
    silent = simulate(toy(scheduler), learning=False)
    assert _records(silent) == _records(first), "learning off gives the same trace, evaluation marks aside"


def _records(outcome: Outcome) -> tuple[Any, ...]:
    trace = outcome.simulation.trace
    marks = [mark for mark in trace.marks if mark[2] != "evaluate"]
    return trace.spans, trace.transfers, trace.waits, marks, trace.end


def _awaits(simulation: Simulation, device: int) -> list[float]:
    """The moments, in seconds, just after a device's script reached each of its awaits."""
    trace = simulation.trace
    starts = {span[3] for span in trace.spans if span[0] == device} | {w[1] for w in trace.waits if w[0] == device}
    return sorted((start + 1) / 1e9 for start in starts if start < trace.end)


__all__ = ["Hand", "Outcome", "Steps", "by_hand", "check_scheduler", "simulate", "toy", "toy_data"]
