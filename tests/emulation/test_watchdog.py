"""The watch over a process's memory, and over a run that may be stuck."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from fedsim.emulation.driver import Driver, Life
from fedsim.emulation.pacing import Pacer
from fedsim.emulation.watchdog import INTERVAL, MemoryWatch, Progress, resident
from fedsim.runtime.conditions import LAST
from fedsim.runtime.coroutines import ANY
from fedsim.runtime.deadlock import Waiting
from fedsim.script import SERVER, Disconnected, recv, send, sleep
from fedsim.trace import Trace
from tests.emulation.clocks import FakeClock
from tests.emulation.test_driver import NoHost, Sorter
from tests.simulation.toys import Ask

MB = 1_000_000
SECOND = 1_000_000_000


class Process:
    """A process whose memory is set by hand."""

    def __init__(self, usable: int = 500 * MB, runtime: int = 100 * MB) -> None:
        self.rss = 300 * MB
        self.time = 0
        self.told: list[int] = []
        self.watch = MemoryWatch(runtime, usable, self.told.append, now=lambda: self.time, sample=lambda: self.rss)

    def at(self, time: int, rss: int) -> int:
        self.time, self.rss = time, rss
        return self.watch.look()


# ------------------------------------------------------------------------------------------------ memory


def test_used_is_the_growth_and_the_runtime() -> None:
    """What the process had before the model counts as the profile says, not as it is here."""
    process = Process()
    assert process.watch.base() == 300 * MB
    assert process.at(1, 340 * MB) == 140 * MB
    assert process.at(2, 290 * MB) == 90 * MB


def test_what_is_too_much_is_told_once() -> None:
    """As soon as it is more than may be used, with what was needed then."""
    process = Process()
    process.watch.base()
    process.at(1, 700 * MB)
    assert process.told == []
    process.at(2, 700 * MB + 1)
    process.at(3, 900 * MB)
    process.at(4, 400 * MB)
    process.at(5, 900 * MB)
    assert process.told == [500 * MB + 1]


def test_the_peak_is_kept() -> None:
    """With its first moment."""
    process = Process()
    process.watch.base()
    for time, rss in enumerate([310, 450, 450, 320]):
        process.at(time, rss * MB)
    assert process.watch.peak == (250 * MB, 1)


@pytest.mark.parametrize(
    ("predicted", "share"),
    [(200, 0.25), (209, None), (250, None), (312, None), (320, -0.21875), (100, 1.5)],
)
def test_a_prediction_may_be_a_fifth_off(predicted: int, share: float | None) -> None:
    """Above and below; the share is of the prediction."""
    process = Process()
    process.watch.base()
    process.at(1, 450 * MB)
    assert process.watch.disagreement(predicted * MB) == (None if share is None else pytest.approx(share))


def test_nothing_is_known_without_a_base() -> None:
    """It is asked for before the model is built, or not at all."""
    with pytest.raises(AssertionError, match="is not known"):
        Process().watch.look()
    with pytest.raises(AssertionError, match="is not known"):
        Process().watch.start()


@pytest.mark.slow
def test_a_real_process_is_watched() -> None:
    """64 MB that are written to exceed 32; the thread ends with the watch."""
    exceeded = threading.Event()
    needed: list[int] = []

    def tell(nbytes: int) -> None:
        needed.append(nbytes)
        exceeded.set()

    watch = MemoryWatch(0, 32 * MB, tell, interval=0.005)
    watch.base()
    watch.start()
    there = np.ones(64 * MB, np.uint8)
    assert exceeded.wait(10)
    watch.close()
    assert watch.peak[0] >= needed[0] > 32 * MB
    assert len(needed) == 1
    assert resident() > there.nbytes
    assert not any(thread.name == "fedsim-memory" for thread in threading.enumerate())
    assert INTERVAL == 0.3


def test_a_watch_that_was_never_started_can_be_closed() -> None:
    """Where a run fails on its way there."""
    Process().watch.close()


# ---------------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize(
    ("dilation", "longest", "limit"),
    [(1.0, 0.1, 60.0), (1.0, 10.0, 200.0), (10.0, 0.1, 6.0), (10.0, 10.0, 200.0), (100.0, 0.01, 0.6)],
)
def test_how_long_nothing_may_happen(dilation: float, longest: float, limit: float) -> None:
    """A minute of the wall, or twenty of the longest works, which the dilation has stretched."""
    clock = FakeClock(dilation)
    progress = Progress(clock.now, dilation, longest)
    assert progress.limit == round(limit * SECOND)
    clock.work(progress.limit)
    assert not progress.check()
    clock.work(1)
    assert progress.check()
    assert not progress.check(progress.limit)


def test_whatever_any_node_does_counts() -> None:
    """From then on."""
    clock = FakeClock()
    progress = Progress(clock.now)
    for node in (3, SERVER, 3, 7):
        clock.work(59 * SECOND)
        progress.beat(node)
    clock.work(60 * SECOND)
    assert not progress.check()
    clock.work(2 * SECOND)
    assert progress.check()


def test_what_ends_by_itself_is_not_stuck() -> None:
    """A sleep of an hour; but one that is over, for it was a wait that a message has ended, hides nothing."""
    clock = FakeClock()
    progress = Progress(clock.now)
    progress.beat(0, until=3600 * SECOND)
    progress.beat(1)
    clock.work(3659 * SECOND)
    assert not progress.check()
    clock.work(2 * SECOND)
    assert progress.check()
    progress.beat(0, until=9000 * SECOND)
    progress.beat(0)
    clock.work(61 * SECOND)
    assert progress.check()


def test_a_wait_without_an_end_is_none_that_ends() -> None:
    """A timeout after 292 years keeps nobody waiting."""
    clock = FakeClock()
    progress = Progress(clock.now)
    progress.beat(0, until=LAST)
    clock.work(61 * SECOND)
    assert progress.check()


def test_the_text_says_who_waits_for_what() -> None:
    """As that of a simulation, but for how it is known."""
    clock = FakeClock(10.0)
    progress = Progress(clock.now, 10.0)
    clock.work(7 * SECOND)
    assert progress.check()
    waits = [
        Waiting(SERVER, "a message (contribution)", ANY, 0, {"Ask": 4}),
        Waiting(1, "a message (model)", SERVER, SECOND // 2, {}),
    ]
    assert progress.text(waits, {"left and not come back": 2, "come to the end of their scripts": 0}).splitlines() == [
        "deadlock at 7 s: no node has completed anything for 7 s (70 s of the wall clock), and nothing was due",
        "  the server waits for a message (contribution) since 0 s; inbox: 4 Ask",
        "  device 1 waits for a message (model) from the server since 0.5 s; inbox: nothing",
        "  devices that have left and not come back: 2",
    ]


def test_a_driver_says_what_it_waits_for() -> None:
    """A first message, a sleep, messages from somebody, the arrival of its own; and nothing while it does something."""
    clock = FakeClock()
    driver = Driver(
        4,
        trace=Trace((), {}),
        clock=clock,
        pacer=Pacer(),
        price=lambda *_: 1,
        lanes=1,
        host=NoHost(clock),
        post=Sorter([]),
    )
    said: list[Waiting | None] = []

    async def script(port: Any) -> None:
        said.append(driver.awaiting)
        await sleep(2)
        await recv(Ask, source=3)
        await send(SERVER, Ask(), blocking=True)

    for second in (1, 3, 5, 7):
        clock.plan(second * SECOND, lambda: said.append(driver.awaiting))
    clock.plan(2 * SECOND, lambda: driver.deliver(Disconnected(9), -1, 2 * SECOND))
    clock.plan(6 * SECOND, lambda: driver.deliver(Ask(sender=3), 8, 6 * SECOND, 64))
    clock.plan(8 * SECOND, driver.stop)
    assert driver.run(script) is Life.STOPPED
    assert said == [
        Waiting(4, "a message (model)", ANY, 0, {}),
        None,
        Waiting(4, "the end of a sleep", ANY, 2 * SECOND, {"Disconnected": 1}),
        Waiting(4, "a message (credit)", 3, 4 * SECOND, {"Disconnected": 1}),
        Waiting(4, "the arrival of what it has sent", SERVER, 6 * SECOND, {"Disconnected": 1}),
    ]
