"""Connections that share nothing: every message has its times when it is sent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import ScriptError
from fedsim.hardware.links import Link
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import DeviceGroup, NetworkOptions
from fedsim.script import SERVER

SECOND = 1_000_000_000


def link(up: str = "8 Mbit/s", down: str = "16 Mbit/s", latency: str = "10 ms", rate: str = "goodput") -> Link:
    """A link with round numbers: 1 MB/s up, 2 MB/s down, 10 ms."""
    return Link.model_validate({"up": up, "down": down, "latency": latency, "rate": rate})


FAST = link(up="1 Gbit/s", down="1 Gbit/s", latency="0 s")


class Network(FluidNetwork):
    """Groups of devices, from which `submit` always has an answer."""

    def __init__(self, groups: list[tuple[Link, int]], server: Link = FAST) -> None:
        super().__init__([DeviceGroup(n, one) for one, n in groups], server, options=NetworkOptions(window=None))

    def send(self, now: int, source: int, target: int, nbytes: int) -> tuple[int, int]:
        """Start and arrival."""
        times = self.submit(now, source, target, nbytes, 0)
        assert times is not None
        assert (self.next(), self.step(now), self.under_way()) == (None, [], [])
        return times


def one_device(device: Link, server: Link = FAST) -> Network:
    """A network of one device and the server."""
    return Network([(device, 1)], server)


rates = st.floats(1e2, 1e9)
sizes = st.integers(1, 10**9)
messages = st.lists(st.tuples(st.integers(0, 5 * SECOND), sizes), min_size=1, max_size=20)


def test_a_message_takes_latency_and_bytes_over_the_senders_rate() -> None:
    """1 MB at 1 MB/s with 10 ms of latency starts flowing at 10 ms and is there at 1.01 s."""
    assert one_device(link()).send(0, 0, SERVER, 1_000_000) == (10_000_000, 1_010_000_000)


def test_down_is_the_other_direction() -> None:
    """The same bytes from the server come at the device's down rate, 2 MB/s."""
    assert one_device(link()).send(0, SERVER, 0, 1_000_000) == (10_000_000, 510_000_000)


def test_the_slower_end_sets_the_rate_and_both_ends_latencies_add() -> None:
    """A server that receives at 0.5 MB/s behind 5 ms slows a device of 1 MB/s behind 10 ms."""
    network = one_device(link(), server=link(down="4 Mbit/s", latency="5 ms"))
    assert network.send(0, 0, SERVER, 1_000_000) == (15_000_000, 2_015_000_000)


def test_line_rates_carry_97_percent() -> None:
    """A rate on the wire is multiplied by 0.97; one measured above TCP is not."""
    _, arrived = one_device(link(latency="0 s", rate="line")).send(0, 0, SERVER, 970_000)
    assert arrived == SECOND


def test_messages_sent_back_to_back_pay_latency_once() -> None:
    """Three messages of 1 s each, sent together, arrive 1, 2 and 3 s after one latency."""
    network = one_device(link())
    arrivals = [network.send(0, 0, SERVER, 1_000_000)[1] for _ in range(3)]
    assert arrivals == [1_010_000_000, 2_010_000_000, 3_010_000_000]


def test_directions_do_not_wait_for_each_other() -> None:
    """A message down is not behind a message up."""
    network = one_device(link())
    network.send(0, 0, SERVER, 1_000_000)
    assert network.send(0, SERVER, 0, 1_000_000) == (10_000_000, 510_000_000)


def test_devices_are_numbered_group_by_group() -> None:
    """Two groups of two: devices 0 and 1 have the first link, 2 and 3 the second."""
    network = Network([(link(latency="0 s"), 2), (link(up="4 Mbit/s", latency="0 s"), 2)])
    assert [network.send(0, device, SERVER, 1_000_000)[1] // SECOND for device in range(4)] == [1, 1, 2, 2]


def test_a_device_that_left_waits_behind_nothing_old() -> None:
    """After `reset` a connection is as new, in both directions."""
    network = one_device(link())
    network.send(0, 0, SERVER, 10**9)
    network.send(0, SERVER, 0, 10**9)
    network.reset(SECOND, 0)
    assert network.send(SECOND, 0, SERVER, 1) == (1_010_000_000, 1_010_001_000)
    assert network.send(SECOND, SERVER, 0, 1) == (1_010_000_000, 1_010_000_500)


@pytest.mark.slow
def test_silent_connections_are_forgotten() -> None:
    """100,000 devices that speak one after the other never leave more than a few thousand entries."""
    network = Network([(link(up="8 kbit/s", down="8 kbit/s", latency="0 s"), 100_000)])
    for device in range(100_000):
        network.send(device * 100_000, device, SERVER, 1)
    assert len(network._alone[0].ends) < 10_000


@pytest.mark.parametrize(("source", "target"), [(0, 1), (SERVER, SERVER), (1, 1)])
def test_messages_go_between_the_server_and_a_device(source: int, target: int) -> None:
    """Two devices, or a node and itself, have no connection."""
    with pytest.raises(ScriptError, match="a message goes from a device to the server or back"):
        Network([(FAST, 2)]).send(0, source, target, 1)


def test_no_message_is_empty() -> None:
    """Zero bytes would arrive in no time; every message has at least an envelope."""
    with pytest.raises(AssertionError, match="a message of 0 bytes"):
        one_device(link()).send(0, 0, SERVER, 0)


def test_unknown_devices_are_refused() -> None:
    """A device beyond the last group has no link."""
    with pytest.raises(AssertionError, match="device 1 is not in this network"):
        one_device(link()).send(0, 1, SERVER, 1)


@given(messages)
def test_order_is_kept_and_nothing_overlaps(sent: list[tuple[int, int]]) -> None:
    """On one connection a message starts flowing no earlier than the one before it has arrived."""
    network, last = one_device(link()), 0
    for now, nbytes in sorted(sent):
        started, arrived = network.send(now, 0, SERVER, nbytes)
        assert started >= max(last, now + 10_000_000)
        assert started == last or started == now + 10_000_000
        assert arrived > started
        last = arrived


@given(rates, st.floats(0, 2), sizes)
def test_one_message_follows_the_closed_form(rate: float, latency: float, nbytes: int) -> None:
    """latency + bytes / rate, late by at most two nanoseconds of rounding up."""
    _, arrived = one_device(link(up=f"{rate!r} B/s", latency=f"{latency!r} s")).send(0, 0, SERVER, nbytes)
    exact = (latency + nbytes / min(rate, 125e6)) * 1e9
    assert math.isclose(arrived, exact, rel_tol=1e-12, abs_tol=2)


@given(rates, st.lists(sizes, min_size=1, max_size=20))
def test_a_backlog_follows_the_closed_form(rate: float, backlog: list[int]) -> None:
    """Messages sent together end after latency + all their bytes / rate, but for a nanosecond each."""
    network = one_device(link(up=f"{rate!r} B/s"))
    arrived = [network.send(0, 0, SERVER, nbytes)[1] for nbytes in backlog][-1]
    exact = (0.01 + sum(backlog) / min(rate, 125e6)) * 1e9
    assert math.isclose(arrived, exact, rel_tol=1e-12, abs_tol=len(backlog) + 1)


@given(messages, rates, st.floats(1, 100), st.floats(0, 1))
def test_a_faster_link_is_never_slower(sent: list[tuple[int, int]], rate: float, faster: float, shorter: float) -> None:
    """More rate and less latency let no message of the connection arrive later."""
    slow = one_device(link(up=f"{rate!r} B/s", latency="1 s"))
    fast = one_device(link(up=f"{rate * faster!r} B/s", latency=f"{shorter!r} s"))
    for now, nbytes in sorted(sent):
        assert fast.send(now, 0, SERVER, nbytes)[1] <= slow.send(now, 0, SERVER, nbytes)[1]


@given(st.permutations(range(4)), sizes)
def test_connections_do_not_disturb_each_other(order: list[int], nbytes: int) -> None:
    """Whoever sends first, equal devices take equal times."""
    network = Network([(link(), 4)])
    assert len({network.send(0, device, SERVER, nbytes) for device in order}) == 1
