"""The server's sharing on the wall clock: grants come when they are due, from whichever thread; it ends when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from fedsim.emulation.clock import WallClock
from fedsim.emulation.links.ingress import Ingress
from fedsim.emulation.links.line import frame_size
from fedsim.emulation.links.shaper import Shaper
from fedsim.emulation.links.shaping import Connection, Grant
from fedsim.emulation.links.sharing import Sharing
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import DeviceGroup
from fedsim.script import SERVER
from tests.network.networks import MS, link


def network() -> FluidNetwork:
    """Two devices of 1 MB/s into a server of 1.5."""
    return FluidNetwork([DeviceGroup(2, link(1, 1))], link(1.5, 1.5))


@contextmanager
def granting(clock: WallClock, make: Callable[[], FluidNetwork] = network) -> Iterator[tuple[Ingress, list[Grant]]]:
    """An ingress, and what it has given."""
    given: list[Grant] = []
    ingress = Ingress(Sharing(make(), dilation=clock.dilation), clock, given.append)
    try:
        yield ingress, given
    finally:
        ingress.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "ingress"]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.001)


def test_a_grant_comes_when_the_message_is_ready() -> None:
    """Not at its announcement; from the thread, without anything else being told."""
    clock = WallClock()
    with granting(clock) as (ingress, given):
        ready = clock.now() + 100 * MS
        ingress.announce(0, SERVER, 1, ready)
        assert given == []
        until(lambda: bool(given))
        assert clock.now() >= ready
        assert given == [Grant(0, True, 1, 1e6, ready)]


def test_grants_come_at_once_where_they_can() -> None:
    """In the thread that tells: the other's share, and what it leaves."""
    clock = WallClock()
    with granting(clock) as (ingress, given):
        ingress.announce(0, SERVER, 1, 0)
        assert [(grant.device, grant.rate) for grant in given] == [(0, 1e6)]
        ingress.announce(1, SERVER, 1, 0)
        until(lambda: len(given) == 3)
        assert sorted((grant.device, grant.rate) for grant in given[1:]) == [(0, 0.75e6), (1, 0.75e6)]
        ingress.finish(1, SERVER, 1)
        until(lambda: len(given) == 4)
        assert (given[3].device, given[3].rate) == (0, 1e6)
        ingress.repeat(0)
        assert given[4] == given[3]
        ingress.leave(0)
        ingress.repeat(0)
        assert len(given) == 5


def test_nothing_is_granted_while_time_stands_still() -> None:
    """And nothing after the end."""
    clock = WallClock()
    with granting(clock) as (ingress, given):
        moment = clock.pause()
        ingress.announce(0, SERVER, 1, moment + 2 * MS)
        time.sleep(0.02)
        assert given == []
        clock.resume()
        until(lambda: bool(given))
    ingress.announce(1, SERVER, 1, 0)
    assert len(given) == 1


@pytest.mark.slow
def test_four_flows_on_the_wall_clock() -> None:
    """The golden four flows, a tenth of the bytes, through threads: each within 3 %, the median of three.

    Other work on the machine only makes it worse, so of three medians the best counts.
    """

    def make() -> FluidNetwork:
        return FluidNetwork([DeviceGroup(1, link(rate, 1)) for rate in (1.25, 2.5, 12.5, 12.5)], link(1, 12.5))

    worst: list[float] = []
    while len(worst) < 3 and not (worst and worst[-1] <= 0.03):
        worst.append(sorted(max(map(abs, _four_flows(make))) for _ in range(3))[1])
    assert min(worst) <= 0.03, worst


def _four_flows(make: Callable[[], FluidNetwork]) -> list[float]:
    """The relative errors of their ends."""
    nbytes, expected = 1_250_000, (1.0, 0.5, 2 / 7, 2 / 7)
    clock = WallClock()
    ends: dict[int, int] = {}
    with ExitStack() as stack:
        shapers: list[Shaper[int]] = []
        ingress = Ingress(Sharing(make()), clock, lambda grant: shapers[grant.device].grant(grant))
        stack.callback(ingress.close)

        def ended(device: int, number: int, started: int, end: int) -> None:
            ends[device] = clock.now()
            ingress.finish(device, SERVER, number)

        for device in range(4):
            connection = Connection[int](make(), device, SERVER)
            announce = partial(_announce, ingress, device)
            shapers.append(Shaper(connection, clock, _ignore, announce=announce, ended=partial(ended, device)))
            stack.callback(shapers[-1].close)
        queued = clock.now()
        for shaper, rate in zip(shapers, (1.25e6, 2.5e6, 12.5e6, 12.5e6), strict=True):
            shaper.open(1, nbytes, queued)
            size = frame_size(rate)
            for offset in range(0, nbytes, size):
                shaper.put(offset, min(size, nbytes - offset), last=offset + size >= nbytes)
        for shaper in shapers:
            assert shaper.flush(20)
    return [(ends[device] - queued) / 1e9 / end - 1 for device, end in enumerate(expected)]


def _ignore(frame: int) -> None:
    """A sink."""


def _announce(ingress: Ingress, device: int, number: int, ready: int) -> None:
    ingress.announce(device, SERVER, number, ready)
