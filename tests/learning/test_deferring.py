"""Works of devices are done when somebody reads what they make: never before, in order, with the same result."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.experiment.registry import registry
from fedsim.learning.deferring import MOST, Deferring
from fedsim.learning.host import Host
from fedsim.learning.learners import Batch
from fedsim.learning.plan import MODEL
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER, Command, Payload, Purpose
from fedsim.simulation import Fault, Inline
from fedsim.testing import host, simulate, toy

PLAN = toy(FedAvg()).blocks()[MODEL]


class Noted(Host):
    """A host that notes what it does, and how many payloads of weights are alive meanwhile."""

    def note(self) -> Noted:
        """Begin."""
        self.done: list[tuple[int, str]] = []
        self.alive = 0
        return self

    def run(self, command: Command) -> None:
        """See `Host`."""
        super().run(command)
        self.done.append((command.node, command.method))
        self.alive = max(self.alive, self.held(Purpose.WEIGHTS))


def noted(**more: Any) -> Noted:
    """One for a toy."""
    made: Any = host(toy(FedAvg(), **more))
    made.__class__ = Noted
    found: Noted = made.note()
    return found


def trained(made: Deferring, device: int, number: int = 1) -> Payload:
    """What a device makes of a batch, as a script orders it."""
    out = Payload(device, number, PLAN.weights)
    made.run(Command(device, 1, "open", (MODEL,)))
    made.run(Command(device, 1, "train", ((Batch(0, 0, 8),),)))
    made.run(Command(device, 1, "weights", output=out))
    return out


def test_nothing_is_done_before_it_is_needed() -> None:
    """Then all that the device was told before, in order, and nothing of others."""
    inner = noted()
    made = Deferring(inner)
    wanted, other = trained(made, 0), trained(made, 1)
    assert inner.done == []
    made.value(wanted)
    assert inner.done == [(0, "open"), (0, "train"), (0, "weights")]
    made.value(wanted)
    assert len(inner.done) == 3
    changed = Payload(SERVER, 1, PLAN.weights)
    made.run(Command(SERVER, 7, "mix", (wanted, other, 0.5), changed))
    assert inner.done[3:] == [(1, "open"), (1, "train"), (1, "weights"), (SERVER, "mix")]


def test_members_that_are_early_are_not_computed_yet() -> None:
    """A mean takes them in the order of their numbers; who does not come is not waited for in the end."""
    inner = noted(devices=4)
    made = Deferring(inner)
    outs = [trained(made, device) for device in range(4)]
    names = (MODEL,)
    made.run(Command(SERVER, 5, "mean.open", (names, "weights", (0, 1, 2, 3), None)))
    for member in (2, 3):
        made.run(Command(SERVER, 5, "mean.add", (member, outs[member], 1)))
    assert [node for node, _ in inner.done] == [SERVER]
    made.run(Command(SERVER, 5, "mean.add", (0, outs[0], 1)))
    assert [node for node, method in inner.done if method == "train"] == [0]
    result = Payload(SERVER, 2, PLAN.weights)
    made.run(Command(SERVER, 5, "mean.result", output=result))
    assert [node for node, method in inner.done if method == "train"] == [0, 2, 3], "1 did not come"
    values: Any = [inner.value(outs[k]) for k in (0, 2, 3)]
    mean: Any = inner.value(result)
    assert mean.buffers[0].allclose(sum(value.buffers[0] for value in values) / 3, atol=1e-6)


def test_few_models_are_alive_however_many_devices() -> None:
    """The initial one, the global one, one that is added and the new one; all of them, if works were done in time."""
    most = {}
    for lazily in (False, True):
        inner = noted(devices=11, rounds=2)
        workers = Inline(Deferring(inner) if lazily else inner)
        toy(FedAvg(), devices=11, rounds=2).simulation(workers).run()
        most[lazily] = inner.alive
    assert most[False] >= 8
    assert most[True] <= 4


def test_commands_do_not_pile_up() -> None:
    """A device that nobody asks does its works in time."""
    inner = noted()
    made = Deferring(inner)
    trained(made, 0)
    for step in range(2 * MOST):
        made.run(Command(0, 1, "pace", (step,)))
    assert len(inner.done) >= MOST


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry().schedulers))
@pytest.mark.parametrize("back", [None, 0.25])
def test_nobody_can_tell(name: str, back: float | None) -> None:
    """The same trace and weights, also where devices leave whose messages have arrived."""
    faults = [Fault(device=1, leave=0.05, back=back), Fault(device=3, leave=0.12, back=back)]
    more: dict[str, Any] = {"devices": 6, "faults": faults}
    scheduler = registry().schedulers[name]
    wanted = simulate(toy(scheduler(), **more))
    assembly = toy(scheduler(), **more)
    made = Deferring(host(assembly))
    simulation = assembly.simulation(Inline(made))
    simulation.run()
    assert simulation.trace.marks == wanted.simulation.trace.marks
    assert simulation.trace.spans == wanted.simulation.trace.spans
    if simulation.published is not None:
        weights = made.model_tensors(simulation.published.model)
        assert all(tensor.equal(weights[key]) for key, tensor in (wanted.weights or {}).items())
