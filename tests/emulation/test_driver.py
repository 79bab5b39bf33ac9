"""The driver of one node: a life on the wall clock leaves the records that it leaves on the virtual one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fedsim.emulation.driver import Driver, Life
from fedsim.emulation.pacing import Pacer
from fedsim.errors import ScriptError
from fedsim.experiment.assembly import Assembly
from fedsim.learning.context import Device, Server
from fedsim.runtime.envelopes import Parcel
from fedsim.schedulers.ampere import Ampere
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.schedulers.fedavg import Trained
from fedsim.schedulers.fedoptima import FedOptima
from fedsim.schedulers.pipar import PiPar
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER, Command, Compute, Message, Payload, Quality, Recv, Sleep, recv, sleep
from fedsim.simulation import Ending
from fedsim.testing import DEVICES, toy
from fedsim.trace import Trace
from tests.emulation.clocks import FakeClock


class NoHost:
    """Does nothing; a work takes so many nanoseconds of the clock."""

    def __init__(self, clock: FakeClock, takes: int = 0) -> None:
        self._clock = clock
        self._takes = takes

    def run(self, command: Command) -> None:
        """Take time where it is a work."""
        if self._takes and command.method in ("train", "forward", "backward", "train_step"):
            self._clock.work(self._takes)

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """There is nothing to be measured."""
        raise AssertionError("nothing is learnt here")


class Sorter:
    """Numbers messages as they were numbered before, keeps them, and says when they have landed."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = iter(numbers)
        self.sent: list[tuple[int, int, str, int]] = []

    def number(self) -> int:
        """The next one."""
        return next(self._numbers, -7)

    def send(self, number: int, target: int, message: Message, parcel: Parcel, queued: int) -> None:
        """Keep it."""
        self.sent.append((number, target, parcel.columns[0], queued))


def simulated(assembly: Assembly) -> tuple[Trace, list[tuple[int, int, int, Message, int]]]:
    """A run without learning, and every message that arrived: moment, number, receiver, itself, bytes."""
    simulation, came = assembly.simulation(), []
    record = simulation._transfers.arrived  # no other way to see the messages themselves

    def noting(flight: Any, now: int) -> None:
        number, message, parcel, _, receiver, _, _ = flight
        came.append((now, number, receiver.node, message, parcel.nbytes))
        record(flight, now)

    simulation._transfers.arrived = noting  # type: ignore[method-assign]
    assert simulation.run() is Ending.SERVER
    return simulation.trace, came


def life(assembly: Assembly, node: int, trace: Trace, came: list[Any]) -> tuple[Trace, Sorter]:
    """What the driver makes of a node's script, if messages come and land when they did in a simulation."""
    clock, found = FakeClock(), Trace((), {})
    mine = sorted(row[0] for row in trace.transfers if row[1] == node)
    post, job = Sorter(mine), assembly.job()
    driver = Driver(
        node,
        trace=found,
        clock=clock,
        pacer=Pacer(),
        price=assembly.fleet.clockwork(assembly.seed).price,
        lanes=assembly.fleet.lanes().get(node, 1),
        host=NoHost(clock),
        post=post,
    )
    for moment, number, receiver, message, nbytes in came:
        if receiver == node:
            clock.plan(moment, lambda m=message, n=number, t=moment, b=nbytes: driver.deliver(m, n, t, b))  # type: ignore[misc]
        if message.sender == node:
            clock.plan(moment, lambda n=number, t=moment: driver.landed(n, t))  # type: ignore[misc]
    if node == SERVER:
        devices = assembly.fleet.devices
        made = driver.run(lambda port: assembly.scheduler.server(Server(port, job, devices)), at_once=True)
    else:
        clock.plan(trace.end, driver.stop)
        made = driver.run(lambda port: assembly.scheduler.device(Device(port, job)))
    assert made in (Life.RETURNED, Life.STOPPED)
    return found, post


ALL: list[Any] = [
    *(kind() for kind in SCHEDULERS.values()),
    SplitFed(version=2, order="device"),
    PiPar(micro_batches=4, background=False),
    Ampere(transfer="stream", device_rounds=2),
    FedOptima(admission="fcfs", activation_cap=1, on_denied="wait"),
]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ALL, ids=lambda s: type(s).__name__)
def test_a_life_leaves_the_records_that_it_leaves_in_a_simulation(scheduler: Any) -> None:
    """Spans, waits with what ended them, stays, marks and sends, to the nanosecond, for every node of every system."""
    assembly = toy(scheduler)
    trace, came = simulated(assembly)
    for node in range(SERVER, DEVICES):
        found, post = life(assembly, node, trace, came)
        spans = [span for span in trace.spans if span[0] == node]
        assert [span[:5] for span in found.spans] == [span[:5] for span in spans]
        assert [span[7:] for span in found.spans] == [span[7:] for span in spans]
        assert found.waits == [wait for wait in trace.waits if wait[0] == node]
        assert sorted(found.stays) == sorted(stay for stay in trace.stays if stay[0] == node)
        others = ("join", "memory.peak", "evaluate")
        assert found.marks == [mark for mark in trace.marks if mark[0] == node and mark[2] not in others]
        sent = sorted((row[0], row[2], row[3], row[10]) for row in trace.transfers if row[1] == node)
        assert post.sent == sent


def alone(script: Any, *, host: Any = None, clock: FakeClock | None = None) -> tuple[Life, Trace]:
    """A script without anybody else."""
    clock, trace = clock or FakeClock(), Trace((), {})
    driver = Driver(
        0,
        trace=trace,
        clock=clock,
        pacer=Pacer(),
        price=lambda node, cost, start: 1,
        lanes=1,
        host=host or NoHost(clock),
        post=Sorter([]),
    )
    return driver.run(script, at_once=True), trace


def test_a_sleep_is_recorded() -> None:
    """As long as it was; then the script ends."""

    async def script(port: Any) -> None:
        assert port.now == 0
        await sleep(0.5)
        assert port.now == 0.5

    found, trace = alone(script)
    assert found is Life.RETURNED
    assert trace.waits == [(0, 0, 500_000_000, "sleep", -2, -1)]
    assert [mark[:3] for mark in trace.marks] == [(0, 500_000_000, "end")]


@pytest.mark.parametrize("effect", [Sleep(-1.0), Sleep(float("nan")), Recv((), None, None, None), 7])
def test_a_script_that_breaks_a_rule_is_named(effect: Any) -> None:
    """With the line."""

    class Odd:
        def __await__(self) -> Any:
            yield effect

    async def script(port: Any) -> None:
        await Odd()

    with pytest.raises(ScriptError, match=r"test_driver.py:\d+ in script"):
        alone(script)


def test_work_that_this_host_takes_too_long_for_is_an_overrun_and_made_up_for() -> None:
    """Spans are what came to pass; the ones after it end early until the node is on time."""
    assembly = toy(SplitFed(local_steps=1))
    clock = FakeClock()
    pacer, trace, job = Pacer(), Trace((), {}), assembly.job()
    driver = Driver(
        0,
        trace=trace,
        clock=clock,
        pacer=pacer,
        price=lambda node, cost, start: 10_000_000,
        lanes=1,
        host=NoHost(clock, takes=15_000_000),
        post=Sorter([]),
    )

    async def script(port: Any) -> None:
        me = Device(port, job)
        for batch in me.batches(3):
            work = me.block.forward(batch)
            await Compute((work,), single=True)
            me.block.abandon()

    assert driver.run(script, at_once=True) is Life.RETURNED
    assert [(span[3] // 10**6, span[4] // 10**6) for span in trace.spans] == [(0, 15), (15, 30), (30, 45)]
    assert (pacer.fidelity.works, pacer.fidelity.overruns) == (3, 3)


def test_what_is_stopped_is_cut_off() -> None:
    """A wait goes up to that moment, and the script is closed."""
    closed = []

    async def script(port: Any) -> None:
        try:
            await recv(Trained)
        finally:
            closed.append(port.now)

    clock, found = FakeClock(), Trace((), {})
    driver = Driver(
        0, trace=found, clock=clock, pacer=Pacer(), price=lambda *_: 1, lanes=1, host=NoHost(clock), post=Sorter([])
    )
    clock.plan(1_000, driver.stop)
    assert driver.run(script, at_once=True) is Life.STOPPED
    assert closed == [1e-6]
    assert found.waits == [(0, 0, 1_000, "contribution", -2, -1)]
    assert found.marks == []
