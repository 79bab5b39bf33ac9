"""The shaper's thread: frames leave in order, never before their time; its queue is bounded; it ends when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from fedsim.emulation.clock import WallClock
from fedsim.emulation.links.line import frame_size
from fedsim.emulation.links.shaper import Shaper
from fedsim.emulation.links.shaping import Connection, Grant
from fedsim.hardware.links import Link
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import DeviceGroup
from fedsim.script import SERVER
from tests.network.networks import MS, WIDE, link

KB = 1000


class Sink:
    """Takes frames, with the moments at which they came."""

    def __init__(self, clock: WallClock) -> None:
        self.clock = clock
        self.frames: list[tuple[str, int]] = []
        self.ends: list[tuple[int, int, int]] = []
        self.starts: list[tuple[int, int]] = []

    def __call__(self, frame: str) -> None:
        self.frames.append((frame, self.clock.now()))

    def began(self, number: int, started: int) -> None:
        self.starts.append((number, started))

    def ended(self, number: int, started: int, ended: int) -> None:
        self.ends.append((number, started, ended))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.frames]


@contextmanager
def shaping(
    *,
    rate: float = 1.0,
    latency: float = 0.0,
    server: Link = WIDE,
    deliver: Callable[[str], None] | None = None,
    **more: Any,
) -> Iterator[tuple[Shaper[str], Sink]]:
    """A device's link of so many MB/s in a run that begins now."""
    clock = WallClock()
    network = FluidNetwork([DeviceGroup(2, link(rate, 1, latency=latency))], server)
    sink = Sink(clock)
    shaper = Shaper(
        Connection[str](network, 0, SERVER), clock, deliver or sink, began=sink.began, ended=sink.ended, **more
    )
    try:
        yield shaper, sink
    finally:
        shaper.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "shaper"]


def send(shaper: Shaper[str], number: int, sizes: Sequence[int], queued: int = 0) -> list[bool]:
    """A message of frames of these sizes; answers whether each was queued."""
    shaper.open(number, sum(sizes), queued)
    last = len(sizes) - 1
    return [shaper.put(f"{number}.{index}", size, last=index == last) for index, size in enumerate(sizes)]


def test_frames_leave_when_their_last_byte_has_flowed() -> None:
    """In order, never earlier; two messages of 2 and 1 frames at 1 MB/s, 5 ms away."""
    with shaping(latency=0.005) as (shaper, sink):
        assert send(shaper, 1, [10 * KB, 5 * KB]) == [True, True]
        send(shaper, 2, [3 * KB])
        assert shaper.flush(10)
        assert sink.names == ["1.0", "1.1", "2.0"]
        assert all(moment >= due * MS for (_, moment), due in zip(sink.frames, (15, 20, 23), strict=True))
        passed = shaper.passed
        lost = passed.lost  # 0, unless this machine was busy for more than 20 ms
        assert [end[0] for end in sink.ends] == [1, 2]
        assert sink.starts == [end[:2] for end in sink.ends]
        assert lost or sink.ends == [(1, 5 * MS, 20 * MS), (2, 20 * MS, 23 * MS)]
        assert (passed.messages, passed.frames, passed.nbytes) == (2, 3, 18 * KB)
        assert passed.latest >= 0


def test_nothing_leaves_while_time_stands_still() -> None:
    """A pause holds up frames, and they leave after it."""
    with shaping() as (shaper, sink):
        paused = sink.clock.pause()
        send(shaper, 1, [10 * KB], paused)
        assert not shaper.flush(0.03)
        sink.clock.resume()
        assert shaper.flush(10)
        assert sink.frames[0][1] >= paused + 10 * MS


def test_a_full_queue_holds_up_whoever_puts_frames() -> None:
    """Room for 10 KB beside the 5 that are under way on a link of 1 MB/s and 5 ms: 10 KB behind 15 wait for these."""
    with shaping(latency=0.005, room=10 * KB) as (shaper, sink):
        shaper.open(1, 26 * KB, 0)
        shaper.put("a", 15 * KB, last=False)
        assert not shaper.passed.blocked
        shaper.put("b", 10 * KB, last=False)
        assert sink.names == ["a"]
        assert shaper.passed.blocked > 0
        shaper.put("c", KB, last=True)
        assert shaper.flush(10)


def test_a_frame_larger_than_the_queue_passes() -> None:
    """By itself."""
    with shaping(rate=10.0, room=100) as (shaper, sink):
        send(shaper, 1, [5 * KB, 5 * KB])
        assert shaper.flush(10)
        assert sink.names == ["1.0", "1.1"]


@pytest.mark.parametrize("end", ["reset", "close"])
def test_who_waits_for_room_is_told_of_the_end(end: str) -> None:
    """A put that waits is not queued; what was queued is dropped."""
    with shaping(rate=0.01, room=KB) as (shaper, sink):
        shaper.open(1, 20 * KB, 0)
        shaper.put("a", 10 * KB, last=False)
        found: list[bool] = []
        waiting = threading.Thread(target=lambda: found.append(shaper.put("b", 10 * KB, last=True)))
        waiting.start()
        time.sleep(0.02)
        if end == "close":
            shaper.close()
        else:
            assert shaper.reset() == ["a"]
        waiting.join(10)
        assert found == [False]
        assert sink.names == []


def test_what_belongs_to_the_time_before_a_reset_is_not_queued() -> None:
    """Frames whose sender has not noticed the reset yet neither pass nor get in the way of those that come after it."""
    with shaping() as (shaper, sink):
        before = shaper.epoch
        assert shaper.open(1, 200, 0, epoch=before)
        assert shaper.put("a", 100, last=False, epoch=before)
        assert shaper.flush(10)
        shaper.reset()
        assert not shaper.put("b", 100, last=True, epoch=before)
        assert not shaper.open(2, 100, 0, epoch=before)
        assert shaper.open(1, 100, 0, again=True, epoch=shaper.epoch)
        assert shaper.put("again", 100, last=True, epoch=shaper.epoch)
        assert shaper.flush(10)
        assert sink.names == ["a", "again"]
        assert [number for number, _ in sink.starts] == [1, 1]


def test_after_a_reset_it_goes_on() -> None:
    """The rest of a message flows at once, others as ever; what was in the queue does not count any more."""
    with shaping(rate=0.01, room=KB) as (shaper, sink):
        send(shaper, 1, [10 * KB])
        assert shaper.reset() == ["1.0"]
        assert shaper.reset() == []
        shaper.open(1, 100, 0, again=True)
        assert shaper.put("rest", 100, last=True)
        assert shaper.flush(10)
        assert sink.names == ["rest"]


def test_an_error_of_delivery_belongs_to_whoever_puts() -> None:
    """Frames are kept back until a reset; the thread lives on."""
    broken, got = True, list[str]()

    def deliver(frame: str) -> None:
        if broken:
            raise ConnectionError("the stream is closed")
        got.append(frame)

    with shaping(rate=100.0, deliver=deliver) as (shaper, sink):
        send(shaper, 1, [KB, KB])
        with pytest.raises(ConnectionError, match="the stream is closed"):
            shaper.flush(10)
        with pytest.raises(ConnectionError, match="the stream is closed"):
            shaper.open(2, KB, 0)
        broken = False
        shaper.reset()
        send(shaper, 3, [KB])
        assert shaper.flush(10)
        assert got == ["3.0"]
        assert [number for number, _, _ in sink.ends] == [3]


def test_a_reset_while_a_frame_is_delivered() -> None:
    """That frame may get there; those behind it do not, even if they are due."""
    entered, leave, got = threading.Event(), threading.Event(), list[str]()

    def deliver(frame: str) -> None:
        got.append(frame)
        entered.set()
        leave.wait(10)

    with shaping(rate=1000.0, deliver=deliver) as (shaper, _):
        send(shaper, 1, [KB, KB, KB])
        entered.wait(10)
        shaper.reset()
        leave.set()
        assert shaper.flush(10)
        send(shaper, 2, [KB])
        assert shaper.flush(10)
        assert got == ["1.0", "2.0"]


def test_a_shared_way_is_announced_and_waits_for_a_grant() -> None:
    """Small messages do not; without anybody to announce to, the shaper is not made."""
    told: list[tuple[int, int]] = []
    with shaping(server=link(1, 1.5), announce=lambda number, ready: told.append((number, ready))) as (shaper, sink):
        send(shaper, 1, [100])
        send(shaper, 2, [3 * KB])
        assert not shaper.flush(0.03)
        assert sink.names == ["1.0"]
        assert told == [(2, 0)]
        shaper.grant(Grant(0, True, 2, 0.5e6, sink.clock.now()))
        assert shaper.flush(10)
        assert sink.names == ["1.0", "2.0"]
    with pytest.raises(AssertionError, match="has to announce"), shaping(server=link(1, 1.5)):
        pass


def test_closing_twice_and_from_within() -> None:
    """Is closing; a frame put afterwards is not queued."""
    shapers: list[Shaper[str]] = []
    done = threading.Event()

    def deliver(frame: str) -> None:
        shapers[0].close()
        done.set()

    with shaping(rate=1000.0, deliver=deliver) as (shaper, _):
        shapers.append(shaper)
        send(shaper, 1, [KB])
        assert done.wait(10)
        shaper.close()
        assert send(shaper, 2, [KB]) == [False]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.625, 12.5], ids=["5 Mbit/s", "100 Mbit/s"])
def test_the_rate_on_the_wall_clock(rate: float) -> None:
    """A quarter of a second of frames passes within 3 % of what the rate says: the median of three."""
    seconds = []
    for _ in range(3):
        with shaping(rate=rate) as (shaper, sink):
            total, size = round(rate * 1e6 / 4), frame_size(rate * 1e6)
            sizes = [size] * (total // size) + [total % size]
            queued = sink.clock.now()
            send(shaper, 1, sizes, queued)
            assert shaper.flush(20)
            seconds.append((sink.frames[-1][1] - queued) / 1e9)
    assert sorted(seconds)[1] == pytest.approx(0.25, rel=0.03)
