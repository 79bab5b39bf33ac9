"""A network whose caller lets messages flow itself: it draws delays, takes ends as told, and hands out rates."""

from __future__ import annotations

import pytest

from fedsim.network.fluid import SILENCE, FluidNetwork
from fedsim.network.topology import DeviceGroup, NetworkOptions
from fedsim.script import SERVER
from tests.network.networks import MB, MS, S, link

OPEN_ENDED = 1 << 62


def pair(discipline: str = "fifo") -> FluidNetwork:
    """Two devices of 1 MB/s into a server of 1.5."""
    options = NetworkOptions(discipline=discipline)  # type: ignore[arg-type]
    return FluidNetwork([DeviceGroup(2, link(1, 1, latency=0.01))], link(1.5, 1.5), options=options)


def rates(network: FluidNetwork, now: int) -> dict[int, float]:
    """In MB/s, at a moment."""
    assert network.step(now) == []
    return {number: rate / MB for number, rate in network.rates().items()}


def test_delays_are_those_of_messages() -> None:
    """Drawn in order, they are what `submit` would have drawn: latency, jitter, a slow start after silence."""
    options = NetworkOptions(slow_start=True)
    one, other = (
        FluidNetwork([DeviceGroup(1, link(1, 1, latency=0.01, jitter="5 ms"))], link(9, 9), options=options, seed=3)
        for _ in range(2)
    )
    end = 0
    for moment in (0, 5 * S, 5 * S + 1, 5 * S + S // 2):
        started, arrived = other.submit(moment, 0, SERVER, 1, moment) or (0, 0)
        assert max(end, moment + one.lag(0, SERVER, silent=moment in (0, 5 * S))) == started
        end = arrived
    assert SILENCE == S


def test_a_delay_may_be_given() -> None:
    """Instead of the link's own."""
    network = FluidNetwork([DeviceGroup(1, link(1, 1, latency=0.01))], link(9, 9))
    assert network.submit(0, 0, SERVER, MB, 1, lag=3 * MS) == (3 * MS, 1003 * MS)
    assert network.route(0, SERVER).lag == 10 * MS
    assert network.route(0, SERVER).up
    assert not network.route(SERVER, 0).up


def test_a_message_ends_when_it_is_told() -> None:
    """The next of its connection follows, and the others share what it had."""
    network = pair()
    for number, device in ((1, 0), (2, 0), (3, 1)):
        network.submit(0, device, SERVER, OPEN_ENDED, number)
    assert rates(network, 10 * MS) == {1: 0.75, 3: 0.75}
    network.finish(20 * MS, 0, SERVER, 1)
    assert rates(network, 20 * MS) == {2: 0.75, 3: 0.75}
    network.finish(30 * MS, 0, SERVER, 2)
    assert rates(network, 30 * MS) == {3: 1.0}
    network.finish(40 * MS, 1, SERVER, 3)
    assert network.under_way() == []
    assert network.next() is None


def test_one_that_has_not_begun_may_end() -> None:
    """The first of its connection, or one that waits behind it."""
    network = pair()
    for number in (1, 2, 3):
        network.submit(0, 0, SERVER, OPEN_ENDED, number)
    network.finish(5 * MS, 0, SERVER, 2)
    network.finish(5 * MS, 0, SERVER, 1)
    assert rates(network, 10 * MS) == {3: 1.0}
    network.finish(11 * MS, 0, SERVER, 3)
    network.submit(12 * MS, 0, SERVER, OPEN_ENDED, 4)
    network.finish(13 * MS, 0, SERVER, 4)
    assert network.next() is None


def test_what_is_not_under_way_may_end() -> None:
    """Nothing happens: it has ended already, or a reset has dropped it."""
    network = pair()
    network.finish(0, 0, SERVER, 1)
    network.submit(0, 0, SERVER, MB, 1)
    network.submit(0, 0, SERVER, OPEN_ENDED, 2)
    assert [number for _, number, _ in network.step(2 * S)] == [1]
    network.finish(2 * S, 0, SERVER, 1)
    assert [number for number, _ in network.under_way()] == [2]


@pytest.mark.parametrize("first", [1, 2])
def test_messages_that_share_a_connection(first: int) -> None:
    """`discipline: fair`: each may end, and leaves its share to the other."""
    network = pair("fair")
    for number in (1, 2):
        network.submit(0, 0, SERVER, OPEN_ENDED, number)
    assert rates(network, 10 * MS) == {1: 0.5, 2: 0.5}
    network.finish(20 * MS, 0, SERVER, first)
    assert rates(network, 20 * MS) == {3 - first: 1.0}
    network.finish(30 * MS, 0, SERVER, 3 - first)
    for number in (3, 4):
        network.submit(40 * MS, 0, SERVER, OPEN_ENDED, number)
    network.finish(45 * MS, 0, SERVER, first + 2)
    assert rates(network, 60 * MS) == {5 - first: 1.0}
