"""Central sharing, with announcements, grants and shaped links, on a clock moved by hand: as the simulation says.

Announcements, and the grants for devices, take a millisecond.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from fedsim.emulation.links.line import frame_size
from fedsim.emulation.links.shaping import Grant
from fedsim.emulation.links.sharing import INTERVAL, Sharing
from fedsim.hardware.traces.rates import RateTrace
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from fedsim.script import SERVER
from tests.emulation.fleet import Fleet
from tests.network.networks import MB, MS, Message, S, link, run

Make = Callable[[], FluidNetwork]


def four(latencies: Sequence[float] = (0, 0, 0, 0), *, rtt_bias: bool = False) -> Make:
    """10, 20, 100 and 100 Mbit/s into 100."""
    links = [link(rate, 1, latency=delay) for rate, delay in zip((1.25, 2.5, 12.5, 12.5), latencies, strict=True)]
    options = NetworkOptions(rtt_bias=rtt_bias)
    return lambda: FluidNetwork([DeviceGroup(1, one) for one in links], link(1, 12.5), options=options)


def access_point() -> FluidNetwork:
    """Devices 2 and 3 behind 30 Mbit/s, all six into 100."""
    cell = {"cell": AccessPoint(3.75e6, 3.75e6, rate="goodput")}
    rates = (1.25, 2.5, 12.5, 12.5, 12.5, 12.5)
    groups = [DeviceGroup(1, link(rate, 1), "cell" if k in (2, 3) else None) for k, rate in enumerate(rates)]
    return FluidNetwork(groups, link(1, 12.5), cell)


LATENCIES = (0.05, 0.05, 0.01, 0.02)
FOUR = [Message(0, k, nbytes=1_250_000) for k in range(4)]
SIX = [Message(0, k, nbytes=1_250_000) for k in range(6)]
STAGGERED = [Message(k * S // 40, k, nbytes=1_250_000) for k in range(3)]


def staggered() -> FluidNetwork:
    """100, 100 and 20 Mbit/s into 100."""
    return FluidNetwork([DeviceGroup(1, link(rate, 1)) for rate in (12.5, 12.5, 2.5)], link(1, 12.5))


GOLDEN: dict[str, tuple[Make, Sequence[Message], list[float]]] = {  # hardware.md 3.3, a tenth of the bytes
    "four flows": (four(), FOUR, [1.0, 0.5, 0.28571, 0.28571]),
    "an access point": (access_point, SIX, [1.0, 0.5, 0.66667, 0.66667, 0.5, 0.5]),
    "staggered": (staggered, STAGGERED, [0.20625, 0.2375, 0.55]),
    "latencies": (four(LATENCIES), FOUR, [1.05, 0.55, 0.26429, 0.27857]),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_published_figures(case: str) -> None:
    """Each flow within 3 % (they come within 1 %)."""
    make, messages, expected = GOLDEN[case]
    found = [arrival / S for _, arrival in Fleet(make, delay=MS).play(messages)]
    assert found == pytest.approx(expected, rel=0.01)


def test_shares_by_latency() -> None:
    """`rtt_bias`, as the simulation has it."""
    make = four(LATENCIES, rtt_bias=True)
    found = Fleet(make, delay=MS).play(FOUR)
    assert [end for _, end in found] == pytest.approx([end for _, end in run(make(), FOUR)], rel=0.005)


@pytest.mark.parametrize("flows", [3, 10, 40])
def test_flows_are_max_min_fair(flows: int) -> None:
    """Links over two decades into a fifth of them: what each gets, while all flow, within 5 % of its max-min share.

    And all together never more than the server's link by more than grants are late.
    """
    rng = np.random.default_rng(flows)
    caps = np.sort(10 ** rng.uniform(5.5, 7.5, flows))
    capacity = caps.sum() / 5
    level, left = 0.0, capacity
    for index, cap in enumerate(caps):  # water-filling
        level = left / (flows - index)
        if cap > level:
            break
        left -= cap
    shares = np.minimum(caps, level)
    groups = [DeviceGroup(flows, link(1, 1), rates=np.column_stack([caps, caps]))]
    fleet = Fleet(lambda: FluidNetwork(groups, link(1, float(capacity) / MB)), delay=MS)
    fleet.play([Message(0, k, nbytes=int(3 * shares[k])) for k in range(flows)])  # about 3 s each
    carried = np.zeros(flows)
    for moment, device, _, nbytes in fleet.carried:
        if moment <= 2 * S:
            carried[device] += nbytes
    under_way = [frame_size(cap) for cap in caps]
    assert np.all(np.abs(carried - 2 * shares) <= 0.05 * 2 * shares + under_way)
    assert carried.sum() <= 2 * capacity * 1.02


def instance(seed: int, case: str) -> tuple[Make, list[Message]]:
    """Up to eight devices, forty messages of 30 KB to 2 MB either way within a second, what they share by chance."""
    rng = random.Random(seed)
    devices = rng.randint(2, 8)
    points = {
        f"point {k}": AccessPoint(rng.uniform(2, 8) * MB, rng.uniform(2, 8) * MB, rng.random() < 0.5, "goodput")
        for k in range(2 if case in ("access points", "everything") else 0)
    }
    groups = []
    for _ in range(devices):
        one = link(
            10 ** rng.uniform(-0.5, 1.3),
            10 ** rng.uniform(-0.5, 1.3),
            latency=rng.choice([0.001, 0.01, 0.05]),
            half=case in ("half duplex", "everything") and rng.random() < 0.5,
            jitter="5 ms" if case in ("jitter", "everything") else "0 s",
        )
        trace = None
        if case == "recorded":
            steps = rng.randint(2, 6)
            up, down = ([10 ** rng.uniform(5.5, 7.3) for _ in range(steps)] for _ in range(2))
            trace = RateTrace(0.2 * np.arange(steps, dtype=np.float64), np.array(up), np.array(down), steps * 0.2)
        groups.append(DeviceGroup(1, one, rng.choice([None, *points]) if points else None, trace=trace))
    server = link(rng.uniform(3, 20), rng.uniform(3, 20))
    options = NetworkOptions(
        ack_traffic=case == "acknowledgements", rtt_bias=case == "biased", slow_start=case == "slow start"
    )
    messages = [
        Message(int(rng.uniform(0, 1e9)), rng.randrange(devices), rng.random() < 0.5, int(10 ** rng.uniform(4.5, 6.3)))
        for _ in range(rng.randint(3, 40))
    ]
    return lambda: FluidNetwork(groups, server, points, options, seed), messages


@pytest.mark.parametrize(
    "case",
    [
        *("ingress", "half duplex", "access points", "everything"),
        *("jitter", "recorded", "acknowledgements", "biased", "slow start"),
    ],
)
@pytest.mark.parametrize("dilation", [1.0, 5.0])
def test_messages_arrive_as_in_the_simulation(case: str, dilation: float) -> None:
    """Random instances, both ways: half of the messages within 0.01 ms, 98 of 100 within 1.5, all within 8."""
    errors: list[float] = []
    for seed in range(10):
        make, messages = instance(seed, case)
        found = Fleet(make, delay=round(MS / dilation), dilation=dilation).play(messages)
        expected = run(make(), messages)
        errors += [abs(one[1] - other[1]) / MS for one, other in zip(found, expected, strict=True)]
    assert np.median(errors) <= 0.01
    assert np.percentile(errors, 98) <= 1.5
    assert max(errors) <= 8


# ------------------------------------------------------------------------------------------ by hand


def pair(capacity: float = 1.5, **more: float) -> Sharing:
    """Two devices of 1 MB/s into a server of 1.5."""
    return Sharing(FluidNetwork([DeviceGroup(2, link(1, 1))], link(capacity, capacity)), **more)


def test_what_can_be_full_is_asked_for() -> None:
    """Where nothing can, there is nothing to announce: that is a mistake of ours."""
    with pytest.raises(AssertionError, match="0 to -1 shares its way with nobody"):
        pair(2.5).announce(0, 0, SERVER, 1, 0)


def test_grants_are_given_when_messages_flow() -> None:
    """The first alone, from the moment that it is ready; then half of the server's link each; then alone again."""
    sharing = pair()
    sharing.announce(0, 0, SERVER, 1, 10 * MS)
    assert (sharing.grants(0), sharing.next()) == ([], 10 * MS)
    assert sharing.grants(10 * MS) == [Grant(0, True, 1, 1e6, 10 * MS)]
    sharing.announce(100 * MS, 1, SERVER, 1, 100 * MS)
    assert sharing.grants(100 * MS) == [Grant(0, True, 1, 0.75e6, 100 * MS), Grant(1, True, 1, 0.75e6, 100 * MS)]
    sharing.finish(200 * MS, 1, SERVER, 1)
    assert sharing.grants(200 * MS) == [Grant(0, True, 1, 1e6, 200 * MS)]
    sharing.finish(300 * MS, 0, SERVER, 1)
    assert (sharing.grants(300 * MS), sharing.next()) == ([], None)


def test_both_ways_are_shared_by_themselves() -> None:
    """What the server sends takes nothing from what it receives."""
    sharing = pair()
    sharing.announce(0, 0, SERVER, 1, 0)
    sharing.announce(0, SERVER, 0, 1, 0)
    assert sharing.grants(0) == [Grant(0, True, 1, 1e6, 0), Grant(0, False, 1, 1e6, 0)]


def test_what_came_late_counts_from_when_it_was_ready() -> None:
    """An announcement under way for 3 ms costs its message nothing."""
    sharing = pair()
    sharing.announce(3 * MS, 0, SERVER, 1, 0)
    assert sharing.grants(3 * MS) == [Grant(0, True, 1, 1e6, 0)]


def test_a_connection_gets_a_grant_every_five_milliseconds() -> None:
    """A change that comes sooner waits, and says since when it holds; one that is taken back in time is never told."""
    sharing = pair()
    sharing.announce(0, 0, SERVER, 1, 0)
    sharing.grants(0)
    sharing.announce(1 * MS, 1, SERVER, 1, 1 * MS)
    assert sharing.grants(1 * MS) == [Grant(1, True, 1, 0.75e6, 1 * MS)]
    assert sharing.next() == INTERVAL
    sharing.finish(2 * MS, 1, SERVER, 1)
    assert (sharing.grants(2 * MS), sharing.next()) == ([], None)
    sharing.announce(3 * MS, 1, SERVER, 2, 3 * MS)
    sharing.grants(3 * MS)
    assert sharing.grants(INTERVAL) == [Grant(0, True, 1, 0.75e6, 3 * MS)]


def test_the_interval_is_of_the_wall_clock() -> None:
    """At a dilation of 10, half a millisecond of the scenario."""
    sharing = pair(dilation=10.0)
    sharing.announce(0, 0, SERVER, 1, 0)
    sharing.grants(0)
    sharing.announce(1, 1, SERVER, 1, 1)
    sharing.grants(1)
    assert sharing.next() == INTERVAL // 10


def test_small_changes_are_not_told() -> None:
    """Less than 1 % of the rate: one of two hundred leaves."""
    network = FluidNetwork([DeviceGroup(200, link(1, 1))], link(50, 50))
    sharing = Sharing(network)
    for device in range(200):
        sharing.announce(0, device, SERVER, 1, 0)
    assert len(sharing.grants(0)) == 200
    sharing.finish(100 * MS, 7, SERVER, 1)
    assert sharing.grants(100 * MS) == []
    for device in (8, 9):
        sharing.finish(200 * MS, device, SERVER, 1)
    assert len(sharing.grants(200 * MS)) == 197


def test_a_message_right_behind_gets_a_grant_too() -> None:
    """At the same rate: its sender may have seen a pause between the two that the server has not."""
    sharing = pair()
    for number in (1, 2):
        sharing.announce(0, 0, SERVER, number, 0)
    sharing.grants(0)
    sharing.finish(100 * MS, 0, SERVER, 1)
    assert sharing.grants(100 * MS) == [Grant(0, True, 2, 1e6, 0)]


def test_telling_twice_changes_nothing() -> None:
    """As after a reconnection; what is not announced may end, too."""
    sharing = pair()
    for _ in range(2):
        sharing.announce(0, 0, SERVER, 1, 0)
    assert len(sharing.grants(0)) == 1
    for _ in range(2):
        sharing.finish(100 * MS, 0, SERVER, 1)
    sharing.finish(100 * MS, 1, SERVER, 9)
    assert sharing.next() is None


def test_a_message_may_end_before_it_begins() -> None:
    """Its sender's clock is ahead, or it was given up: whoever waits behind it goes on."""
    sharing = pair()
    sharing.announce(0, 0, SERVER, 1, 50 * MS)
    sharing.announce(0, 0, SERVER, 2, 50 * MS)
    sharing.finish(10 * MS, 0, SERVER, 1)
    assert sharing.grants(50 * MS) == [Grant(0, True, 2, 1e6, 50 * MS)]
    sharing.announce(60 * MS, 0, SERVER, 3, 60 * MS)
    sharing.finish(70 * MS, 0, SERVER, 3)
    assert sharing.grants(70 * MS) == []
    sharing.finish(80 * MS, 0, SERVER, 2)
    assert sharing.next() is None


def test_who_leaves_takes_nothing_any_more() -> None:
    """Its messages both ways are forgotten, and the others get their share."""
    sharing = pair()
    for device in (0, 1):
        sharing.announce(0, device, SERVER, 1, 0)
    sharing.announce(0, SERVER, 1, 1, 0)
    sharing.grants(0)
    sharing.leave(50 * MS, 1)
    assert sharing.grants(50 * MS) == [Grant(0, True, 1, 1e6, 50 * MS)]
    assert sharing.current(1) == []
    sharing.announce(60 * MS, 1, SERVER, 1, 60 * MS)
    assert len(sharing.grants(60 * MS)) == 2


def test_what_is_granted_can_be_asked_for_again() -> None:
    """By a device that has lost its connection for a moment."""
    sharing = pair()
    sharing.announce(0, 0, SERVER, 1, 0)
    assert sharing.current(0) == []
    granted = sharing.grants(0)
    assert sharing.current(0) == granted
    assert sharing.current(1) == []


def test_a_device_that_leaves_in_a_transfer() -> None:
    """The whole loop: what the others send is through as if it had not sent from then on."""
    fleet = Fleet(four(), delay=MS)
    fleet.at(100 * MS, lambda: fleet.leave(3))
    for device in (0, 1, 2, 3):
        fleet.at(0, lambda device=device: fleet._send(device, FOUR[device]))  # type: ignore[misc]
    fleet.run()
    at_100_ms = 0.1 * 4.375e6
    expected = 0.1 + (1_250_000 - at_100_ms) / 8.75e6
    assert fleet._found[2][1] / S == pytest.approx(expected, rel=0.005)
    assert 3 not in fleet._found


def test_grants_are_few() -> None:
    """Back-to-back messages of 20 ms: about one grant a message, at most one in 5 ms a connection, the first apart."""
    fleet = Fleet(four(), delay=MS)
    fleet.play([Message(0, k, nbytes=50_000) for k in range(4) for _ in range(20)])
    assert len(fleet.granted) <= 2 * 80
    by_connection: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for moment, grant in fleet.granted:
        by_connection[grant.device, grant.up].append(moment)
    assert min(np.diff(moments).min() for moments in by_connection.values()) >= INTERVAL
