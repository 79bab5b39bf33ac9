"""The scenario's time: an origin, a dilation, pauses, and waits that end when they should."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from fedsim.emulation.clock import Clock, WallClock
from tests.emulation.clocks import FakeClock

MS = 1_000_000


class Source:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.wall = 0

    def __call__(self) -> int:
        return self.wall


CLOCKS: dict[str, Callable[[], Clock]] = {
    "wall": WallClock,
    "spinning": lambda: WallClock(spin=True),
    "dilated": lambda: WallClock(dilation=2.5),
    "fake": FakeClock,
}


@pytest.fixture(params=CLOCKS)
def clock(request: pytest.FixtureRequest) -> Clock:
    """Each clock there is, at the start of a run."""
    made: Clock = CLOCKS[request.param]()
    return made


def test_a_wait_ends_at_its_moment(clock: Clock) -> None:
    """Never before it."""
    condition = threading.Condition()
    until = clock.now() + 8 * MS
    with condition:
        while clock.now() < until:
            clock.wait(condition, until)
    assert until <= clock.now()


def test_a_wait_for_what_is_over_is_none(clock: Clock) -> None:
    """Neither for the present moment nor for one that is past."""
    condition = threading.Condition()
    with condition:
        clock.wait(condition, clock.now())
        clock.wait(condition, -5)


def test_a_wait_ends_when_it_is_told(clock: Clock) -> None:
    """By a notification from another thread, with and without a moment until which it lasts."""
    condition = threading.Condition()
    for until in (None, clock.now() + 3600_000 * MS):
        if isinstance(clock, FakeClock) and until is not None:
            continue  # it is there at once
        told: list[bool] = []

        def tell(told: list[bool] = told) -> None:
            with condition:
                told.append(True)
                condition.notify_all()

        thread = threading.Timer(0.005, tell)
        thread.start()
        with condition:
            while not told:
                clock.wait(condition, until)
        thread.join()
        assert until is None or clock.now() < until


def test_time_is_stretched() -> None:
    """At a dilation of 4 a second of the scenario takes four; before the origin time is below 0."""
    source = Source()
    clock = WallClock(1000, 4.0, source=source)
    source.wall = 1000 + 4 * MS
    assert clock.now() == MS
    assert clock.reading(MS) == source.wall
    assert clock.at(source.wall + 8) == MS + 2
    source.wall = 0
    assert WallClock(1000, 4.0, source=source).now() == -250


@pytest.mark.parametrize("dilation", [1.0, 1.5, 3.0, 7.3])
def test_a_moment_has_come_at_its_reading(dilation: float) -> None:
    """And not a nanosecond earlier, whatever the dilation."""
    source = Source()
    for moment in (0, 1, 2, 3, 1001, 10**12 + 7):
        clock = WallClock(17, dilation, source=source)
        source.wall = clock.reading(moment) - 1
        assert clock.now() == moment - 1
        source.wall += 1
        assert clock.now() >= moment


def test_a_pause_is_no_time() -> None:
    """Neither while it lasts nor afterwards; to pause or to resume twice changes nothing."""
    source = Source()
    clock = WallClock(0, source=source)
    source.wall = 100
    assert clock.pause() == 100
    source.wall = 500
    assert clock.pause() == 100
    assert clock.now() == 100
    assert clock.resume() == 400
    source.wall = 550
    assert clock.resume() == 400
    assert clock.now() == 150
    assert clock.paused_for == 400
    assert clock.reading(150) == 550


def test_clocks_agree_after_a_pause() -> None:
    """One that heard of it 3 ns later and of its end 2 ns earlier; it never goes back."""
    source = Source()
    server, device = WallClock(0, source=source), WallClock(0, source=source)
    source.wall = 100
    server.pause()
    source.wall = 103
    device.pause()
    source.wall = 198
    device.resume(100)
    assert device.now() == 103, "its own 98 would be a step back"
    source.wall = 200
    assert server.resume() == 100
    assert (server.now(), device.now()) == (100, 103)
    source.wall = 210
    assert server.now() == device.now() == 110


def test_a_pause_holds_up_those_who_wait() -> None:
    """They wait for as long as it takes, and go on without being told by anybody else."""
    clock = WallClock()
    ends: list[int] = []

    def sleep() -> None:
        clock.sleep(30 * MS)
        ends.append(clock.now())

    sleepers = [threading.Thread(target=sleep) for _ in range(2)]
    sleepers[0].start()  # waits when the pause comes; the other one comes into it
    if clock.pause() >= 30 * MS:
        pytest.skip("this machine took 30 ms to start a thread")
    sleepers[1].start()
    time.sleep(0.05)
    assert not ends
    clock.resume()
    for sleeper in sleepers:
        sleeper.join(10)
    assert len(ends) == 2
    assert min(ends) >= 30 * MS


def test_a_pause_while_waiting_may_end_before_the_wait_looks() -> None:
    """Whoever finds time standing still, and then finds it going again, waits for nobody."""
    clock = WallClock()
    condition = threading.Condition()
    clock.pause()
    waits = threading.Thread(target=clock.sleep, args=(1,))
    with condition:
        waits.start()
    clock.resume()
    waits.join(10)
    assert not waits.is_alive()


def test_what_is_planned_happens_in_order() -> None:
    """The fake: by moment, then by planning; work lets it happen, too."""
    clock, seen = FakeClock(), list[tuple[int, str]]()
    for moment, word in ((7, "c"), (3, "a"), (3, "b"), (20, "d")):
        clock.plan(moment, lambda word=word: seen.append((clock.now(), word)))  # type: ignore[misc]
    condition = threading.Condition()
    with condition:
        clock.wait(condition, 5)
        assert seen == [(3, "a")]
        clock.wait(condition, None)
        clock.wait(condition, 5)
    assert clock.now() == 5
    clock.work(10)
    assert seen == [(3, "a"), (3, "b"), (7, "c")]
    assert clock.now() == 15
