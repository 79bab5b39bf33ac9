"""For those who write schedulers: stepping a script by hand, and a conformance suite.

from fedsim.testing import by_hand, check_scheduler

steps = by_hand(Mine(), "server")  # no runtime: see each effect, give each answer
check_scheduler(Mine())  # raises AssertionError naming the rule that is broken
"""

from __future__ import annotations

import random
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsim import seeds
from fedsim.data import DataSet, Quantity, Shards, from_arrays
from fedsim.errors import Deadlock, ScriptError
from fedsim.experiment.assembly import Assembly, Smaller
from fedsim.experiment.building import has_local_loss
from fedsim.experiment.dealing import needs_labels
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.bundles import VARIANT
from fedsim.learning.context import Device, Server
from fedsim.learning.labelling import Labels
from fedsim.learning.optimizers import Sgd, Training
from fedsim.learning.plan import BlockPlan
from fedsim.mailbox import Mailbox
from fedsim.network.topology import NetworkOptions
from fedsim.payload.supports import WHOLE, Axes, Support
from fedsim.report import check_identity
from fedsim.script import SERVER, Command, Effect, Message, Payload, Recv, Role
from fedsim.simulation import Ending, Fault, Inline, Limits, Simulation

if TYPE_CHECKING:
    import torch

    from fedsim.learning.host import Host
    from fedsim.models.measure import ModelMeasure

DEVICES: Final = 4
ROUNDS: Final = 2
_CUT: Final = 1
_SEED: Final = 11
_MOMENTS: Final = 8
_LONG: Final = 60.0  # seconds; the toy run of a system that ends takes less than one


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

    def arrived(self, kind: type[Message]) -> list[Message]:
        """Those of `kind` that were put into `mailbox`, or were the answer to a wait, since this was last asked."""
        return self.mailbox.arrived(kind)

    def outgoing(self, kind: type[Message]) -> int:
        """Nothing: whatever is sent has been delivered."""
        return 0

    def drop(self, message: Message) -> None:
        """Take a message out of `mailbox`."""
        self.mailbox.drop(message)

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

    `effect` is what it awaits now, None once it has returned; `answer(value)` lets it go on, and so does `take()` with
    a message that was put into `port.mailbox`.
    """

    def __init__(self, script: Coroutine[Effect[Any], Any, None], port: Hand) -> None:
        self.port = port
        self.effect: Effect[Any] | None = None
        self._script = script
        self.answer(None)

    def answer(self, value: object) -> Effect[Any] | None:
        """Answer the current effect; returns the next one."""
        if isinstance(value, Message):
            self.port.mailbox.note(value)
        return self._go_on(value)

    def take(self) -> Message:
        """Answer the current wait with the message that it ranks first of those in the port's mailbox.

        Raises:
            AssertionError: it awaits no message, or none of these.
        """
        effect = self.effect
        assert isinstance(effect, Recv), f"the script awaits {effect}, not a message"
        message = self.port.mailbox.take(effect.kinds, effect.source, effect.by)
        assert message is not None, f"none of {[kind.__name__ for kind in effect.kinds]} is in the mailbox"
        self._go_on(message)
        return message

    def _go_on(self, value: object) -> Effect[Any] | None:
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
    job = assembly.job()
    if port.node == SERVER:
        return Steps(assembly.scheduler.server(Server(port, job, devices)), port)
    return Steps(assembly.scheduler.device(Device(port, job)), port)


@cache
def toy_data() -> DataSet:
    """96 generated samples of three classes that a small network can learn."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 96)
    inputs = (rng.normal(size=(96, 6)) + 2 * np.eye(3, 6)[labels]).astype(np.float32)
    return from_arrays(inputs, labels, inputs[:24], labels[:24], name="toy")


@cache
def _shards(devices: int) -> Shards:
    rng = seeds.generator(_SEED, SERVER, "partition")
    return Quantity(min_size=8).deal(toy_data().train.labels, None, devices, rng)


def _labels(devices: int) -> Labels:
    data = toy_data()
    return Labels(data.train.labels, _shards(devices), data.info.classes)


def _network() -> Any:
    from fedsim.models.building import build
    from fedsim.models.options import Mlp

    options = Mlp(hidden=[5, 4])
    return build("mlp", options, input=(6,), classes=3, kind="vector", device="cpu", seed=_SEED)


@cache
def _measured() -> ModelMeasure:
    from fedsim.models.counting import measure

    return measure(_network())


@cache
def _head() -> Any:
    from fedsim.models.auxiliary import build_head
    from fedsim.models.options import Auxiliary

    return build_head(_network(), _CUT, Auxiliary(ratio=0.5), _SEED)


@cache
def _head_measured() -> ModelMeasure:
    measured: ModelMeasure = _head().measure(_network().block(0, _CUT))
    return measured


@cache
def _fleet(devices: int) -> Fleet:
    kinds = (("pi-tier-1", "wifi5"), ("pi-tier-4", "wifi4"), ("jetson-tier-4", "lte"))
    groups = (
        Group(machine(load_profile(profile)), load_link(link), len(range(index, devices, len(kinds))))
        for index, (profile, link) in enumerate(kinds)
    )
    there = tuple(group for group in groups if group.count)
    return Fleet(there, machine(load_profile("cpu-60g")), load_link("ethernet-1g"))


def toy(
    scheduler: Any,
    *,
    devices: int = DEVICES,
    rounds: int | None = ROUNDS,
    participants: int | None = None,
    faults: Sequence[Fault] = (),
    time: float | None = None,
    pruned: bool = False,
    apart: bool = False,
) -> Assembly:
    """A small run of `scheduler`: unequal devices and links, unequal shards of generated data, a tiny network.

    `pruned` gives the first group of devices a variant with fewer weights, and fewer units where the model is not cut.
    With `apart` that variant and the whole model are two models, which only their own devices train.
    """
    fleet = _fleet(devices)
    variants: tuple[Smaller, ...] = ()
    if pruned or apart:
        variants = (_variant(cut=bool(scheduler.splits)),)
    if apart:
        variants += (Smaller(model=_measured(), support=WHOLE, groups=frozenset(range(1, len(fleet.groups)))),)
    return Assembly(
        scheduler=scheduler,
        model=_measured(),
        cut=_CUT,
        training=Training(batch=8, optimizer=Sgd(lr=0.1), channels_last=False),
        fleet=fleet,
        samples=_shards(devices).sizes(),
        participants=devices if participants is None else participants,
        rounds=rounds,
        limits=Limits(time=time),
        head=_head_measured() if has_local_loss(scheduler) else None,
        labels=_labels(devices) if needs_labels(scheduler) else None,
        seed=_SEED,
        network=NetworkOptions(jitter=False, loss="off"),
        faults=faults,
        scenario={"name": "toy", "seed": _SEED},
        variants=variants,
        apart=apart,
    )


def _support(*, cut: bool) -> Support:
    """Three of the five units of the first layer, unless its outputs are the activations; two thirds of its weights."""
    units = None if cut else np.array([0, 2, 3], np.int64)
    mask = np.arange((5 if cut else 3) * 6).reshape(-1, 6) % 3 > 0
    axes: dict[str, Axes] = {}
    if units is not None:
        axes = {"hidden1.1.weight": (units, None), "hidden1.1.bias": (units,), "hidden2.0.weight": (None, units)}
    return Support(axes, {"hidden1.1.weight": mask})


def _smaller(support: Support) -> Any:
    from fedsim.pruning.resizing import sliced

    return sliced(_network(), support)


@cache
def _variant(*, cut: bool) -> Smaller:
    from fedsim.models.counting import measure

    support = _support(cut=cut)
    return Smaller(model=measure(_smaller(support)), support=support, groups=frozenset({0}))


def host(
    assembly: Assembly, blocks: Mapping[str, BlockPlan] | None = None, processor: torch.device | None = None
) -> Host:
    """Whoever trains an assembly of `toy`, on the CPU or another processor; each call gives an independent one."""
    from fedsim.learning.blocks import HOST
    from fedsim.learning.host import Host
    from fedsim.learning.samples import TensorSamples

    blocks = assembly.blocks() if blocks is None else blocks
    rows = np.arange(16) if getattr(assembly.scheduler, "validates", False) else None
    samples = TensorSamples(toy_data(), _shards(assembly.fleet.devices), validation=rows)
    head = _head() if has_local_loss(assembly.scheduler) else None
    names = [name for name in blocks if VARIANT in name]
    networks = [_smaller(variant.support) for variant in assembly.variants]
    variants = dict(zip(names, networks, strict=True))
    return Host(_network(), blocks, samples, assembly.seed, head, variants, processor or HOST)


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
    from fedsim.learning.threads import intra_op_threads

    blocks = assembly.blocks()
    trainer = host(assembly, blocks)
    simulation = assembly.simulation(Inline(trainer), blocks=blocks)
    with intra_op_threads(1):  # as a scenario does by default; more only get in each other's way here
        ending = simulation.run()
    check_identity(simulation.trace)
    weights = None
    if simulation.published is not None:
        weights = {name: tensor.clone() for name, tensor in trainer.model_tensors(simulation.published.model).items()}
    return Outcome(simulation, ending, weights)


def check_scheduler(scheduler: Any) -> None:
    """The conformance suite: rules that every scheduler keeps, on a small generated run.

    It must run from its options alone, end, publish a whole model, and have devices compute; declare its messages;
    draw from no global generator; give the same trace and the same weights twice, and the same trace with learning
    off (unless it says `validates`); account for every nanosecond and every byte; run with some of the devices; and
    end by its own rule when a device leaves, with or without coming back, at its awaits. It runs with devices that
    hold a pruned variant of the model, too, as a part of it and as a model of its own: what the server sends them
    is `me.fit(weights, device)`, and a mean is given its `base`.

    Raises:
        AssertionError: a rule is broken; the message says which.
        RunError: a script misbehaved, such as by awaiting something foreign or waiting for ever.
    """
    _check_declarations(scheduler)
    try:
        _check_runs(scheduler)
    except RuntimeError as error:
        if "event loop" not in str(error):
            raise
        raise AssertionError(
            f"a script calls asyncio ({error}); await only compute, send, recv, sleep, gather and broadcast of fedsim"
        ) from error


def _check_runs(scheduler: Any) -> None:
    learning = bool(getattr(scheduler, "validates", False))  # otherwise most rules show without training anything
    with _no_global_generator():
        first = simulate(toy(scheduler, time=_LONG), learning=learning)
    _check_end(first, f"in {_LONG:g} s; with until.rounds = {ROUNDS} the server's script must return")
    _check_messages(scheduler, first)
    _check_published(scheduler, first)
    _check_computed(first)
    _check_repeatable(scheduler, first, learning=learning)
    some = simulate(toy(scheduler, participants=2, time=_LONG), learning=learning)
    _check_end(some, f"in {_LONG:g} s with 2 of {DEVICES} devices a round")
    length = first.simulation.trace.end / 1e9
    endless = simulate(toy(scheduler, rounds=None, time=3 * length), learning=learning)
    assert endless.ending is Ending.TIME, "without until.rounds the server's script goes on until the run is ended"
    _check_leaving(scheduler, first, length, learning=learning)
    _check_pruned(scheduler)


def _check_pruned(scheduler: Any) -> None:
    """Devices with a pruned variant take part like others; what they have is what the trace charges for."""
    for apart in (False, True):
        try:
            one = simulate(toy(scheduler, time=_LONG, pruned=True, apart=apart))
        except ScriptError as error:
            raise AssertionError(str(error)) from error
        _check_end(one, f"in {_LONG:g} s with pruned devices")
        if not getattr(scheduler, "validates", False):
            timing = simulate(toy(scheduler, time=_LONG, pruned=True, apart=apart), learning=False)
            assert _records(one) == _records(timing), "with pruned devices the trace differs with learning off"


def _check_declarations(scheduler: Any) -> None:
    kind = type(scheduler)
    name = kind.__name__
    parameters = getattr(kind, "__dataclass_params__", None)
    assert parameters is not None and parameters.frozen, (
        f"{name} is not a frozen dataclass; decorate it with @dataclass(frozen=True, kw_only=True)"
    )
    positional = [f.name for f in fields(scheduler) if not f.kw_only]
    assert not positional, f"{name}'s options {positional} are not keyword-only; add kw_only=True to its @dataclass"
    try:
        kind()
    except TypeError as error:
        raise AssertionError(f"{name}() fails, but every option has a default: {error}") from error
    for script in ("device", "server"):
        assert iscoroutinefunction(getattr(scheduler, script, None)), f"{name}.{script} is not an async def"
    assert isinstance(getattr(scheduler, "splits", None), bool), (
        f"{name}.splits is not given; say whether the model is cut, as in splits: ClassVar[bool] = False"
    )
    for message in getattr(scheduler, "messages", ()):
        assert isinstance(message, type) and issubclass(message, Message), (
            f"{message!r} in {name}.messages is no Message"
        )
        frozen = getattr(message, "__dataclass_params__", None)
        assert frozen is not None and frozen.frozen, f"message {message.__name__} is not a frozen dataclass"
        assert isinstance(getattr(message, "role", None), Role), (
            f"message {message.__name__} has no role; add role: ClassVar[Role] = Role.…"
        )


def _check_end(outcome: Outcome, otherwise: str) -> None:
    assert outcome.ending is Ending.SERVER, f"the run did not end {otherwise}"


def _check_messages(scheduler: Any, outcome: Outcome) -> None:
    declared = {kind.__name__ for kind in getattr(scheduler, "messages", ())}
    sent = {transfer[3] for transfer in outcome.simulation.trace.transfers}
    assert sent <= declared, (
        f"{sorted(sent - declared)} are sent, but not declared in {type(scheduler).__name__}.messages"
    )


def _check_published(scheduler: Any, outcome: Outcome) -> None:
    published = outcome.simulation.published
    assert published is not None, "the server never names its global model; call me.publish(...) once it has one"
    blocks = toy(scheduler).blocks()
    sizes, whole = [p.nbytes for p in published.model], [plan.weights.nbytes for plan in blocks.values()]
    assert sizes in (whole, [plan.block.nbytes for plan in blocks.values()]), (
        f"the server published weights of {sizes} bytes, but the model is {' and '.join(blocks)} of {whole}; "
        f"call me.publish({'d, s' if scheduler.splits else 'w'})"
    )


def _check_computed(outcome: Outcome) -> None:
    assert any(node != SERVER for node, *_ in outcome.simulation.trace.spans), (
        "devices compute nothing; me.model.train and its like only describe a work, so await compute(...) of it"
    )


def _check_repeatable(scheduler: Any, first: Outcome, *, learning: bool) -> None:
    with _no_global_generator():
        one = simulate(toy(scheduler, time=_LONG))
    two = simulate(toy(scheduler, time=_LONG))
    assert _records(one) == _records(two), "the same scenario and seed gave two traces; let all follow from the seed"
    if not learning:
        assert _records(one) == _records(first), (
            "the trace differs with learning off; let nothing but evaluation results follow from values"
        )
    assert one.weights is not None and two.weights is not None
    for name, tensor in one.weights.items():
        assert tensor.equal(two.weights[name]), f"the same scenario and seed gave two models ({name} differs)"


def _check_leaving(scheduler: Any, first: Outcome, length: float, *, learning: bool) -> None:
    for device in range(DEVICES):
        for moment in _awaits(first.simulation, device):
            for back in (None, moment + length / 10, moment + length):
                _leave(scheduler, [Fault(device=device, leave=moment, back=back)], learning=learning)
    everyone = [Fault(device=k, leave=length / 2, back=length * (1 + k)) for k in range(DEVICES)]
    _leave(scheduler, everyone, learning=learning)
    _leave(scheduler, [Fault(device=0, leave=_awaits(first.simulation, 0)[-1])], learning=True)


def _leave(scheduler: Any, faults: Sequence[Fault], *, learning: bool) -> None:
    fault = faults[0]
    who = f"device {fault.device}" if len(faults) == 1 else "every device"
    back = "for good" if fault.back is None else f"until {fault.back:g} s"
    try:
        outcome = simulate(toy(scheduler, faults=faults, time=_LONG), learning=learning)
    except Deadlock as error:
        raise AssertionError(
            f"{who} left at {fault.leave:g} s {back}, and the others wait for it; receive Disconnected as well, "
            f"as gather does\n{error}"
        ) from error
    _check_end(outcome, f"in {_LONG:g} s, {who} having left at {fault.leave:g} s {back}")


@contextmanager
def _no_global_generator() -> Iterator[None]:
    """Refuse draws from the generators that every module shares."""
    import torch

    def states() -> dict[str, Any]:
        return {
            "random": random.getstate(),
            "numpy.random": str(np.random.get_state()),
            "torch": torch.get_rng_state().numpy().tobytes(),
        }

    before = states()
    yield
    drawn = [name for name, state in states().items() if state != before[name]]
    assert not drawn, (
        f"the scripts draw from the global generator of {' and '.join(drawn)}; use one of your own with a fixed seed, "
        "such as fedsim.seeds.generator"
    )


def _records(outcome: Outcome) -> tuple[Any, ...]:
    trace = outcome.simulation.trace
    marks = [mark for mark in trace.marks if mark[2] != "evaluate"]
    return trace.spans, trace.transfers, trace.waits, trace.stays, marks, trace.end


def _awaits(simulation: Simulation, device: int) -> list[float]:
    """Moments, in seconds, just after a device's script reached one of its awaits; of many, some from all over."""
    trace = simulation.trace
    starts = {span[3] for span in trace.spans if span[0] == device} | {w[1] for w in trace.waits if w[0] == device}
    found = sorted((start + 1) / 1e9 for start in starts if start < trace.end)
    if len(found) <= _MOMENTS:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, _MOMENTS, dtype=int).tolist()]


__all__ = ["Hand", "Outcome", "Steps", "by_hand", "check_scheduler", "host", "simulate", "toy", "toy_data"]
