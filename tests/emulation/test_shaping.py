"""A shaped connection: messages begin and arrive when the simulation says, frame by frame, with its own draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fedsim.emulation.links.line import BURST
from fedsim.emulation.links.shaping import SMALL, Connection, Grant, check_options
from fedsim.errors import UserError
from fedsim.hardware.traces.rates import RateTrace
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from fedsim.script import SERVER
from tests.emulation.fleet import Fleet
from tests.network.networks import MB, MS, WIDE, Message, S, link, run

MESSAGES = [
    Message(0, 0, nbytes=400_000),
    Message(0, 0, nbytes=64),
    Message(3 * MS, 1, nbytes=1_000_000),
    Message(5 * MS, 0, up=False, nbytes=70_000),
    Message(250 * MS, 0, nbytes=123_457),
    Message(251 * MS, 1, nbytes=1),
    Message(1900 * MS, 0, nbytes=300_000),
    Message(1901 * MS, 1, up=False, nbytes=300_000),
]
TRACE = RateTrace(np.array([0, 0.1, 0.35]), np.array([1e6, 0.0, 3e6]), np.array([2e6, 1e6, 5e5]), 0.4)


def network(**options: Any) -> FluidNetwork:
    """Two devices of 1 and 2.5 MB/s up, 3 MB/s down, that share nothing."""
    latency = options.pop("latency", 0.02)
    more: dict[str, Any] = {"jitter": f"{options.pop('jitter', 0)} s", "loss": options.pop("packets", 0.0)}
    groups = [DeviceGroup(1, link(rate, 3, latency=latency, **more)) for rate in (1, 2.5)]
    return FluidNetwork(groups, WIDE, options=NetworkOptions(**options), seed=5)


def recorded() -> FluidNetwork:
    """The same with a recording, begun at different moments."""
    group = DeviceGroup(2, link(1, 1, latency=0.01), trace=TRACE, offsets=np.array([0.0, 0.17]))
    return FluidNetwork([group], WIDE)


def drawn() -> FluidNetwork:
    """Devices with rates of their own."""
    return FluidNetwork([DeviceGroup(2, link(1, 1), rates=np.array([[1e6, 2e6], [3e5, 7e7]]))], WIDE)


CASES: dict[str, Callable[[], FluidNetwork]] = {
    "latency": network,
    "none": lambda: network(latency=0.0),
    "jitter": lambda: network(jitter=0.03),
    "loss": lambda: network(packets=0.4),
    "slow start": lambda: network(slow_start=True),
    "window": lambda: network(latency=0.3, window=64 * 1024.0),
    "mathis": lambda: network(packets=0.01, loss="mathis"),
    "recorded": recorded,
    "drawn": drawn,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dilation", [1.0, 10.0])
def test_what_is_alone_arrives_as_in_the_simulation(case: str, dilation: float) -> None:
    """Start and arrival of each message, to 2 ns: latency, jitter, loss, limits, rates that vary."""
    make = CASES[case]
    found = Fleet(make, dilation=dilation).play(MESSAGES)
    expected = run(make(), MESSAGES)
    assert np.abs(np.array(found) - np.array(expected)).max() <= 2


def test_frames_arrive_on_the_way() -> None:
    """Each when its last byte has flowed: 400 KB at 1 MB/s, in frames of 16 KiB."""
    fleet = Fleet(network)
    fleet.play(MESSAGES[:1])
    moments = [moment for moment, *_ in fleet.carried]
    assert moments[0] == 20 * MS + 16_384_000
    assert np.diff(moments).tolist() == [16_384_000] * 23 + [(400_000 - 24 * 16_384) * 1000]
    assert sum(nbytes for *_, nbytes in fleet.carried) == 400_000


# ----------------------------------------------------------------------------------------- by hand


def connection(*, shared: bool = False, latency: float = 0.0) -> Connection[str]:
    """From device 0 at 1 MB/s; where it is shared, into a server of 1.5 MB/s that another one sends to."""
    server = link(1.5, 1.5) if shared else WIDE
    return Connection(FluidNetwork([DeviceGroup(2, link(1, 1, latency=latency))], server), 0, SERVER)


def send(to: Connection[str], number: int, sizes: Sequence[int], now: int = 0) -> int | None:
    """A message of frames of these sizes."""
    ready = to.open(now, number, sum(sizes), now)
    for index, size in enumerate(sizes):
        to.put(now, f"{number}.{index}", size, last=index == len(sizes) - 1)
    return ready


def ends(to: Connection[str], now: int = 10 * S) -> list[tuple[str, float]]:
    """What passes by a moment, taken out when it is due, in milliseconds."""
    found: list[tuple[str, float]] = []
    while (moment := to.next()) is not None and moment <= now:
        found += [(frame.frame, frame.ended / MS) for frame in to.advance(moment)]
    return found


def test_who_shares_nothing_announces_nothing() -> None:
    """And flows at its own rate."""
    one = connection()
    assert not one.shared
    assert send(one, 1, [10_000, 10_000]) is None
    assert ends(one) == [("1.0", 10), ("1.1", 20)]


def test_who_shares_waits_for_a_grant() -> None:
    """It is told from when on the message could flow; the grant says since when it has."""
    one = connection(shared=True, latency=0.005)
    assert one.shared
    assert send(one, 1, [10_000, 10_000]) == 5 * MS
    assert one.next() is None
    one.grant(8 * MS, Grant(0, True, 1, 0.5e6, 5 * MS))
    assert ends(one, 40 * MS) == [("1.0", 25)]
    one.grant(41 * MS, Grant(0, True, 1, 1e6, 35 * MS))
    assert ends(one) == [("1.1", 40)]


def test_a_grant_cannot_exceed_the_link() -> None:
    """Which may have changed since."""
    one = connection(shared=True)
    send(one, 1, [10_000])
    one.grant(0, Grant(0, True, 1, 5e6, 0))
    assert ends(one) == [("1.0", 10)]


def test_a_message_right_behind_keeps_the_grant() -> None:
    """One that comes later waits for its own; what was granted to older messages does not count any more."""
    one = connection(shared=True)
    send(one, 1, [10_000])
    send(one, 2, [10_000])
    send(one, 3, [10_000])
    one.grant(0, Grant(0, True, 1, 0.5e6, 0))
    assert ends(one, 35 * MS) == [("1.0", 20)]
    one.grant(35 * MS, Grant(0, True, 2, 1e6, 30 * MS))
    assert ends(one, 100 * MS) == [("2.0", 35), ("3.0", 45)]
    send(one, 4, [10_000], 100 * MS)
    assert one.next() is None
    one.grant(101 * MS, Grant(0, True, 3, 1e6, 100 * MS))
    assert one.next() is None, "that is for a message that has passed"
    one.grant(102 * MS, Grant(0, True, 4, 1e6, 100 * MS))
    assert ends(one) == [("4.0", 110)]


def test_small_messages_do_not_ask() -> None:
    """An Ethernet frame flows at the link's rate; what follows it asks again."""
    one = connection(shared=True)
    assert send(one, 1, [SMALL]) is None
    assert send(one, 2, [SMALL + 1]) == 0
    assert ends(one) == [("1.0", 1.5)]
    assert one.next() is None


def test_a_grant_for_a_message_to_come_waits_for_it() -> None:
    """The server may be ahead: it has seen the last byte of the one before."""
    one = connection(shared=True)
    send(one, 1, [SMALL])
    send(one, 2, [10_000])
    one.grant(0, Grant(0, True, 2, 0.5e6, 0))
    assert ends(one) == [("1.0", 1.5), ("2.0", 21.5)]


def test_the_rest_of_a_message_has_had_its_latency() -> None:
    """After an interruption what remains is opened again, and flows at once."""
    one = connection(latency=0.3)
    send(one, 1, [10_000, 10_000])
    assert ends(one, 315 * MS) == [("1.0", 310)]
    assert one.reset(315 * MS) == ["1.1"]
    assert one.open(500 * MS, 1, 10_000, 0, again=True) is None
    one.put(500 * MS, "again", 10_000, last=True)
    assert ends(one) == [("again", 510)]


def test_a_reset_forgets_grants_and_open_messages() -> None:
    """A message with the same number needs a new grant, even in the place of one that was never complete."""
    one = connection(shared=True)
    one.open(0, 1, 30_000, 0)
    one.put(0, "half", 10_000, last=False)
    one.grant(0, Grant(0, True, 1, 1e6, 0))
    assert one.reset(5 * MS) == ["half"]
    assert send(one, 1, [10_000], 5 * MS) == 5 * MS
    assert one.next() is None
    one.grant(6 * MS, Grant(0, True, 1, 1e6, 5 * MS))
    assert ends(one) == [("1.0", 15)]


def test_frames_have_to_add_up() -> None:
    """And belong to a message; anything else is a mistake of ours."""
    one = connection()
    with pytest.raises(AssertionError, match="a frame without a message"):
        one.put(0, "", 5, last=True)
    one.open(0, 1, 10, 0)
    with pytest.raises(AssertionError, match="message 2 comes into the middle of message 1"):
        one.open(0, 2, 10, 0)
    with pytest.raises(AssertionError, match="message 1: 5 of 10 bytes"):
        one.put(0, "", 5, last=True)


def test_a_late_sender_loses_what_exceeds_the_burst() -> None:
    """Frames that are put 100 ms after the send begin 20 ms before they are put; at a dilation of 10, 2 ms."""
    for dilation in (1.0, 10.0):
        one = Connection[str](network(latency=0.0), 0, SERVER, dilation=dilation)
        one.open(0, 1, 10_000, 0)
        one.put(100 * MS, "", 10_000, last=True)
        burst = round(BURST / dilation)
        assert one.advance(S)[0].ended == 110 * MS - burst
        assert one.lost == 100 * MS - burst


def test_shared_means_what_the_simulation_shares() -> None:
    """Half-duplex links and access points, too, each way by itself."""
    assert not Connection[str](network(), 0, SERVER).shared
    half = FluidNetwork([DeviceGroup(1, link(1, 1, half=True))], WIDE)
    assert Connection[str](half, SERVER, 0).shared
    cell = {"cell": AccessPoint(1.5 * MB, 90 * MB, rate="goodput")}
    behind = FluidNetwork([DeviceGroup(2, link(1, 1), "cell")], WIDE, cell)
    assert Connection[str](behind, 0, SERVER).shared
    assert not Connection[str](behind, SERVER, 0).shared


def test_messages_of_a_connection_cannot_share_it() -> None:
    """`discipline: fair` is refused, with the way out; all else is not."""
    check_options(NetworkOptions(rtt_bias=True, ack_traffic=True, slow_start=True))
    with pytest.raises(UserError, match=r"discipline: fair .* set discipline: fifo, or mode: simulate"):
        check_options(NetworkOptions(discipline="fair"))
