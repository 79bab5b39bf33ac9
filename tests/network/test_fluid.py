"""The network by hand: what is shared, who waits for whom, and each option by its closed form."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from fedsim.errors import ScriptError, UserError
from fedsim.hardware.links import Link
from fedsim.hardware.traces.rates import RateTrace
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from fedsim.script import SERVER
from tests.network.networks import MB, MS, WIDE, Message, S, link, run, seconds, send

BOTH = [False, True]


def network(*links: Link, server: Link = WIDE, seed: int = 0, **options: Any) -> FluidNetwork:
    """One device a link, without access points."""
    groups = [DeviceGroup(1, one) for one in links]
    return FluidNetwork(groups, server, options=NetworkOptions(**options), seed=seed)


def four(*up: float, server: float = 12.5, latencies: Sequence[float] = (0, 0, 0, 0), **options: Any) -> list[float]:
    """When 12.5 MB of each of four devices (MB/s) have arrived at a server."""
    links = [link(rate, 1, latency=one) for rate, one in zip(up, latencies, strict=True)]
    world = network(*links, server=link(1, server), **options)
    return [round(t, 4) for t in seconds(run(world, [Message(0, k, nbytes=12_500_000) for k in range(4)]))]


# ---------------------------------------------------------------------------------- published figures

FOUR = (1.25, 2.5, 12.5, 12.5)  # 10, 20, 100, 100 Mbit/s
LATENCIES = (0.05, 0.05, 0.01, 0.02)


def test_four_flows_share_an_ingress() -> None:
    """10, 20, 100, 100 Mbit/s into 100."""
    assert four(*FOUR) == [10.0, 5.0, 2.8571, 2.8571]


def test_latency_comes_first() -> None:
    """The same, each after its latency."""
    assert four(*FOUR, latencies=LATENCIES) == [10.05, 5.05, 2.8357, 2.85]


def test_without_latency() -> None:
    """`latency: off`: the links' latencies count for nothing."""
    assert four(*FOUR, latencies=LATENCIES, latency=False) == [10.0, 5.0, 2.8571, 2.8571]


def test_shares_by_latency() -> None:
    """`rtt_bias`: the level of flow k is 1 / its latency."""
    assert four(*FOUR, latencies=LATENCIES, rtt_bias=True) == [10.05, 5.9122, 1.8822, 2.6037]


def test_line_rates_carry_97_percent() -> None:
    """SimGrid's LV08, at all three places; goodput is what it is."""
    lines = [Link.model_validate({"up": f"{rate} Mbit/s", "down": "1 Mbit/s"}) for rate in (10, 20, 100, 100)]
    server = Link.model_validate({"up": "1 Mbit/s", "down": "100 Mbit/s"})
    messages = [Message(0, k, nbytes=12_500_000) for k in range(4)]
    found = seconds(run(network(*lines, server=server), messages))
    assert [round(t, 4) for t in found] == [10.3093, 5.1546, 2.9455, 2.9455]
    whole = seconds(run(network(*lines, server=server, efficiency=1.0), messages))
    assert [round(t, 4) for t in whole] == [10.0, 5.0, 2.8571, 2.8571]
    cell = {"cell": AccessPoint(1e6, 1e6)}
    group = [DeviceGroup(1, link(10), "cell")]
    assert seconds(run(FluidNetwork(group, WIDE, cell), [Message(0, 0, nbytes=970_000)])) == [1.0]


def test_an_access_point() -> None:
    """Devices 2 and 3 behind 30 Mbit/s, all six into 100."""
    cell = {"cell": AccessPoint(3.75e6, 3.75e6, rate="goodput")}
    groups = [
        DeviceGroup(1, link(rate, 1), "cell" if k in (2, 3) else None)
        for k, rate in enumerate((1.25, 2.5, 12.5, 12.5, 12.5, 12.5))
    ]
    world = FluidNetwork(groups, link(1, 12.5), cell)
    found = seconds(run(world, [Message(0, k, nbytes=12_500_000) for k in range(6)]))
    assert [round(t, 4) for t in found] == [10.0, 5.0, 6.6667, 6.6667, 5.0, 5.0]


def test_staggered_starts() -> None:
    """100, 100 and 20 Mbit/s, a quarter of a second apart."""
    world = network(link(12.5), link(12.5), link(2.5), server=link(1, 12.5))
    messages = [Message(k * S // 4, k, nbytes=12_500_000) for k in range(3)]
    assert [round(t, 4) for t in seconds(run(world, messages))] == [2.0625, 2.375, 5.5]


# -------------------------------------------------------------------------------------- connections


@pytest.mark.parametrize("server", [WIDE, link(2, 2)], ids=["alone", "shared"])
def test_messages_of_a_connection_flow_one_after_the_other(server: Link) -> None:
    """Two messages of 1 s, sent together 10 ms away: latency once, then 1 s each; the way down is another."""
    world = network(*[link(1, 1, latency=0.01)] * 3, server=server)
    messages = [Message(0, 0), Message(0, 0), Message(0, 0, up=False)]
    assert run(world, messages) == [
        (10 * MS, 1010 * MS),
        (1010 * MS, 2010 * MS),
        (10 * MS, 1010 * MS),
    ]


@pytest.mark.parametrize("server", [WIDE, link(2, 2)], ids=["alone", "shared"])
def test_a_message_that_comes_later_waits_for_its_own_latency(server: Link) -> None:
    """Sent 5 ms before the first is through, 10 ms away: it starts 5 ms after that."""
    world = network(*[link(1, 1, latency=0.01)] * 3, server=server)
    assert run(world, [Message(0, 0), Message(1005 * MS, 0)])[1] == (1015 * MS, 2015 * MS)


@pytest.mark.parametrize("devices", [1, 3])
def test_with_the_fair_discipline_messages_of_a_connection_share(devices: int) -> None:
    """1 MB and 2 MB over 1 MB/s, together: the first after 2 s, the second after 3; alone or over a shared ingress."""
    world = network(*[link()] * devices, server=link(2, 2), discipline="fair")
    assert seconds(run(world, [Message(0, 0), Message(0, 0, nbytes=2 * MB)])) == [2.0, 3.0]


def test_with_the_fair_discipline_a_device_counts_as_often_as_it_sends() -> None:
    """Two messages of one device and one of another into 3 MB/s: a third each, however it is their own links' limit."""
    world = network(link(3), link(3), server=link(1, 3), discipline="fair")
    assert seconds(run(world, [Message(0, 0), Message(0, 0), Message(0, 1)])) == [1.0, 1.0, 1.0]
    narrow = network(link(1), link(3), server=link(1, 3), discipline="fair")
    assert seconds(run(narrow, [Message(0, 0), Message(0, 0), Message(0, 1)])) == [2.0, 2.0, 0.5]


def test_what_is_sent_at_one_moment_may_be_named_in_any_order() -> None:
    """Four devices, access points, half duplex: all 24 orders give the same times."""
    messages = [Message(0, 0), Message(0, 1, nbytes=700_001), Message(0, 2, up=False), Message(0, 3, nbytes=123_457)]
    cells = {"a": AccessPoint(1.3e6, 1.3e6, True), "b": AccessPoint(9e5, 2e6)}
    found = set()
    for order in permutations(range(4)):
        groups = [DeviceGroup(2, link(1.1, 0.9, half=True), "a"), DeviceGroup(2, link(0.7, 3), "b")]
        times = run(FluidNetwork(groups, link(1.9, 1.7), cells), [messages[number] for number in order])
        found.add(tuple(times[order.index(number)] for number in range(4)))
    assert len(found) == 1


def test_devices_are_numbered_group_by_group_and_may_have_rates_of_their_own() -> None:
    """Devices 0 and 1 have their own rates in the place of their link's, device 2 its link's."""
    rates = np.array([[1e6, 2e6], [4e6, 0.5e6]])
    world = FluidNetwork([DeviceGroup(2, link(9, 9), rates=rates), DeviceGroup(1, link(8, 8))], WIDE)
    up = seconds(run(world, [Message(0, k, nbytes=8 * MB) for k in range(3)]))
    down = seconds(run(world, [Message(100 * S, k, up=False, nbytes=8 * MB) for k in range(3)]))
    assert (up, down) == ([8.0, 2.0, 1.0], [104.0, 116.0, 101.0])


# -------------------------------------------------------------------------------------- half duplex


def test_a_half_duplex_link_carries_both_directions_in_turn() -> None:
    """1 MB up and 1 MB down over 1 MB/s: 2 s each; over a full one 1 s."""
    messages = [Message(0, 0), Message(0, 0, up=False)]
    assert seconds(run(network(link(half=True)), messages)) == [2.0, 2.0]
    assert seconds(run(network(link()), messages)) == [1.0, 1.0]


def test_a_half_duplex_link_of_two_rates_shares_the_greater() -> None:
    """1 MB/s up and 3 down: the way down gets 2 while something goes up, which stays at its own 1."""
    found = seconds(run(network(link(1, 3, half=True)), [Message(0, 0), Message(0, 0, up=False, nbytes=4 * MB)]))
    assert found == [1.0, pytest.approx(1 + 2 / 3)]


def test_half_duplex_devices_into_one_ingress() -> None:
    """A device that also receives sends at half its rate, and leaves the ingress to the other."""
    world = network(link(half=True), link(3, 1), server=link(9, 3))
    found = seconds(run(world, [Message(0, 0), Message(0, 0, up=False), Message(0, 1, nbytes=5 * MB)]))
    assert found == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("server", [WIDE, link(8, 8)], ids=["wide", "narrow"])
def test_a_half_duplex_access_point_is_one_channel(server: Link) -> None:
    """Two up and two down in a cell of 2 MB/s: half a MB/s each; full duplex, twice that."""
    messages = [Message(0, k, up=k < 2) for k in range(4)]
    for half, expected in ((True, 2.0), (False, 1.0)):
        groups = [DeviceGroup(4, link(2, 2), "cell"), DeviceGroup(9, link(2, 2))]
        world = FluidNetwork(groups, server, {"cell": AccessPoint(2e6, 2e6, half, "goodput")})
        assert seconds(run(world, messages)) == [expected] * 4


def test_a_half_duplex_server_is_one_channel() -> None:
    """One up, one down, 2 MB/s at the server for both, 1 up at most."""
    world = network(*[link(2, 2)] * 2, server=link(2, 1, half=True))
    found = seconds(run(world, [Message(0, 0), Message(0, 1, up=False), Message(0, 1)]))
    assert found == [2.0, 1.0, 2.0]


# -------------------------------------------------------------------------------------------- options


def test_the_window_limits_the_rate_of_long_ways() -> None:
    """64 KiB a round trip of 600 ms are 0.87 Mbit/s, however fast the link; 4 MiB do not matter on short ones."""
    far = link(100, 100, latency=0.3)
    (found,) = run(network(far, window=65536.0), [Message(0, 0)])
    assert found == (300 * MS, 300 * MS + math.ceil(MB / (65536 / 0.6) * 1e9))
    assert seconds(run(network(far, window=None), [Message(0, 0)])) == [0.31]
    assert seconds(run(network(link(100, 100, latency=0.01)), [Message(0, 0)])) == [0.02]
    assert seconds(run(network(far, window=65536.0, latency=False), [Message(0, 0)])) == [0.01]


def test_the_window_is_the_connections() -> None:
    """Two messages that share a connection share its window."""
    world = network(link(100, 100, latency=0.5), window=1e6, discipline="fair")
    assert seconds(run(world, [Message(0, 0), Message(0, 0)])) == [2.5, 2.5]


@pytest.mark.parametrize("server", [WIDE, link(2, 2)], ids=["alone", "shared"])
def test_slow_start_lengthens_the_first_latency_and_that_after_a_silence(server: Link) -> None:
    """100 ms are 1.301 s for the first message and after a second of silence, and 100 ms in between."""
    world = network(*[link(1, 1, latency=0.1)] * 3, server=server, slow_start=True)
    messages = [Message(0, 0, nbytes=1000), Message(0, 0, nbytes=1000)]
    first = run(world, messages)
    assert [start for start, _ in first] == [1301 * MS, 1302 * MS]
    again = run(world, [Message(2303 * MS - 1, 0, nbytes=1000)])
    assert again[0][0] == 2403 * MS - 1
    end = again[0][1]
    later = [Message(end + S, 0, nbytes=1000), Message(end + S, 0, up=False, nbytes=1000)]
    assert [start for start, _ in run(world, later)] == [end + S + 1301 * MS] * 2


@pytest.mark.parametrize("server", [link(1e6, 1e6), link(0.9, 0.9)], ids=["alone", "shared"])
def test_connections_that_are_silent_for_long_are_forgotten(server: Link) -> None:
    """10,000 devices that speak one after the other, a millisecond apart: a second's worth of them is remembered."""
    world = FluidNetwork([DeviceGroup(10_000, link(1, 1))], server, options=NetworkOptions(slow_start=True))
    found = run(world, [Message(k * MS, k, nbytes=100) for k in range(10_000)])
    assert [start for start, _ in found] == [k * MS for k in range(10_000)]
    assert len(world._alone[0].ends) <= 8192


def test_jitter_delays_by_half_a_normal_distribution_and_keeps_the_order() -> None:
    """σ = 10 ms: never early, at most 40 ms, half of all not at all, 3.99 ms on average; what is behind waits."""
    world = network(link(1e6, 1e6, jitter="10 ms"))
    delays = [run(world, [Message(k * S, 0, nbytes=1)])[0][0] - k * S for k in range(2000)]
    assert 0 == min(delays) < max(delays) <= 40 * MS
    assert delays.count(0) == pytest.approx(1000, abs=100)
    assert sum(delays) / 2000 == pytest.approx(10 * MS / math.sqrt(2 * math.pi), rel=0.1)
    starts = [start for start, _ in run(world, [Message(5000 * S + k, 0, nbytes=1) for k in range(100)])]
    assert starts == sorted(starts)
    calm = network(link(1e6, 1e6, jitter="10 ms"), jitter=False)
    assert run(calm, [Message(0, 0, nbytes=1)]) == [(0, 1)]


def test_jitter_of_both_ends_adds_as_variances_do() -> None:
    """3 and 4 ms are 5: all delays are in proportion."""
    one = network(link(1e6, 1e6, jitter="5 ms"), seed=7)
    two = network(link(1e6, 1e6, jitter="3 ms"), server=link(1e6, 1e6, jitter="4 ms"), seed=7)
    messages = [Message(k * S, 0, nbytes=1) for k in range(50)]
    assert run(one, messages) == run(two, messages)


@pytest.mark.parametrize("server", [WIDE, link(100, 100)], ids=["alone", "shared"])
def test_the_luck_of_a_connection_is_its_own(server: Link) -> None:
    """What others send, and the other direction, changes no delay; another seed or device changes all."""
    unsteady = link(60, 60, jitter="10 ms", loss="20 %")
    mine = [Message(k * S, 0, nbytes=100) for k in range(40)]
    others = [Message(k * S + 1, device, up, 100) for k in range(40) for device, up in ((0, False), (1, True))]

    def delays(messages: Sequence[Message], seed: int = 0) -> list[int]:
        found = run(network(unsteady, unsteady, server=server, seed=seed), messages)
        return [start - message.now for (start, _), message in zip(found, messages, strict=True)]

    alone, beside = delays(mine), delays(mine + others)
    assert beside[:40] == alone
    assert len({tuple(beside[40::2]), tuple(beside[41::2]), tuple(alone), tuple(delays(mine, seed=1))}) == 4


def test_lost_packets_delay_some_messages_and_slow_all() -> None:
    """20 % loss: 0.8 of the rate; a fifth of the messages 200 ms late, or two round trips if that is longer."""
    near = network(link(1, 1, latency=0.01, loss="20 %"))
    found = [run(near, [Message(k * 9 * S, 0)])[0] for k in range(500)]
    late = [start - k * 9 * S == 210 * MS for k, (start, _) in enumerate(found)]
    assert sum(late) == pytest.approx(100, abs=30)
    assert all(on or start - k * 9 * S == 10 * MS for k, ((start, _), on) in enumerate(zip(found, late, strict=True)))
    assert {arrival - start for start, arrival in found} == {1250 * MS}
    far = network(link(1, 1, latency=0.5, loss="50 %"), window=None)
    assert {run(far, [Message(k * 9 * S, 0)])[0][0] - k * 9 * S for k in range(50)} == {500 * MS, 2500 * MS}


def test_loss_at_the_server_is_everybodys() -> None:
    """Half of its 2 MB/s arrive, and chances add up: half of half is not delayed."""
    world = network(*[link(8, 8, loss="50 %")] * 2, server=link(2, 2, loss="50 %"))
    late = []
    for k in range(400):
        (start, arrival) = run(world, [Message(k * 9 * S, 0)])[0]
        late.append(start > k * 9 * S)
        assert arrival - start == S
    assert sum(late) == pytest.approx(300, abs=30)


def test_mathis_caps_the_rate_instead() -> None:
    """1.22 segments of 1448 B a round trip of 20 ms, over the root of 1 %: 883 kB/s; nothing is delayed."""
    world = network(link(9, 9, latency=0.01, loss="1 %"), loss="mathis")
    rate = 1.22 * 1448 / (0.02 * 0.1)
    assert run(world, [Message(0, 0)]) == [(10 * MS, math.ceil(10 * MS + MB / rate * 1e9))]
    assert seconds(run(network(link(1, 1, loss="1 %"), loss="mathis"), [Message(0, 0)])) == [1.0]


def test_loss_off() -> None:
    """The links' losses count for nothing."""
    assert seconds(run(network(link(1, 1, loss="50 %"), loss="off"), [Message(0, 0), Message(0, 0)])) == [1.0, 2.0]


def test_acknowledgements_take_five_percent_on_the_way_back() -> None:
    """Up and down at once over 1 MB/s: each has x with x + 0.05 x = 1; up alone has all of it."""
    world = network(link(), ack_traffic=True)
    assert seconds(run(world, [Message(0, 0), Message(0, 0, up=False)])) == [1.05, 1.05]
    assert seconds(run(world, [Message(10 * S, 0)])) == [11.0]
    half = network(link(half=True), ack_traffic=True)
    assert seconds(run(half, [Message(0, 0)])) == [1.05]


def test_acknowledgements_of_a_downlink_may_fill_an_uplink() -> None:
    """100 MB/s down want 5 MB/s up; there is 1: the way down gets 20."""
    world = network(link(1, 100), ack_traffic=True)
    assert seconds(run(world, [Message(0, 0, up=False, nbytes=100 * MB)])) == [5.0]


def test_acknowledgements_cross_what_is_shared_as_well() -> None:
    """A full ingress of 1 MB/s holds up what leaves the server, too: x + 0.05 x = 1 for both while both flow."""
    world = network(link(1, 1), link(9, 10), server=link(99, 1), ack_traffic=True)
    assert seconds(run(world, [Message(0, 0), Message(0, 1, up=False, nbytes=20 * MB)])) == [1.05, 2.95]


# ------------------------------------------------------------------------------------------- in time


def trace(*up: float, step: float = 1.0, wrap: bool = True) -> RateTrace:
    """Rates (MB/s) up, each for a step, and ten times that down."""
    rates = np.array(up, np.float64) * 1e6
    return RateTrace(np.arange(len(up), dtype=np.float64) * step, rates, 10 * rates, len(up) * step, wrap)


def traced(of: RateTrace, *others: Link, server: Link = WIDE, one: Link | None = None, **options: Any) -> FluidNetwork:
    """A network whose device 0 has a trace."""
    groups = [
        DeviceGroup(1, one or link(), trace=of, offsets=np.zeros(1)),
        *(DeviceGroup(1, other) for other in others),
    ]
    return FluidNetwork(groups, server, options=NetworkOptions(**options))


@pytest.mark.parametrize(
    ("sent", "nbytes", "arrival"),
    [
        (0, 500_000, 0.5),
        (0, 1_000_000, 1.0),
        (0, 2_000_000, 1.5),
        (0, 3_000_000, 2.0),
        (0, 3_250_000, 3.5),
        (0, 3_500_000, 4.0),
        (1.5, 1_000_000, 2.0),
        (2.25, 1_000, 3.002),
        (0, 7_000_000, 8.0),
        (0, 8_000_000, 9.0),
        (0.5, 7_000_000, 8.5),
    ],
)
def test_a_trace_is_summed_up(sent: float, nbytes: int, arrival: float) -> None:
    """1, 2, 0 and 0.5 MB/s, a second each, again and again; alone, and event by event where something is shared."""
    of = trace(1, 2, 0, 0.5)
    messages = [Message(round(sent * S), 0, nbytes=nbytes)]
    assert seconds(run(traced(of), messages)) == [pytest.approx(arrival, abs=1e-9)]
    busy = traced(of, link(9), server=link(9, 10))
    assert seconds(run(busy, messages)) == [pytest.approx(arrival, abs=1e-9)]


@pytest.mark.parametrize(("nbytes", "arrival"), [(3, 3.0), (6, 7.0), (9, 11.0), (3_000_000, 3_999_999.0)])
def test_what_ends_with_a_step_does_not_wait_for_the_next(nbytes: int, arrival: float) -> None:
    """0, 1, 2 and 0 MB/s: three megabytes a pass, there by its third second."""
    of = trace(0, 1, 2, 0)
    assert seconds(run(traced(of), [Message(0, 0, nbytes=nbytes * MB)])) == [pytest.approx(arrival, rel=1e-15)]
    if nbytes < 10:
        busy = traced(of, link(9), server=link(9, 10))
        assert seconds(run(busy, [Message(0, 0, nbytes=nbytes * MB)])) == [arrival]


def test_a_trace_that_nearly_stops() -> None:
    """What would take longer than the clock runs gets a time beyond its end, or is never announced."""
    of = trace(1, 1e-300, wrap=False)
    ((_, arrival),) = run(traced(of), [Message(0, 0, nbytes=2 * MB)])
    assert arrival > 2**63
    busy = traced(of, link(9), server=link(9, 9))
    assert send(busy, Message(0, 0, nbytes=2 * MB), 0) is None
    assert [busy.step(moment * S) for moment in (0, 1, 2)] == [[], [], []]
    assert (busy.next(), busy.under_way()) == (None, [(0, 0)])


def test_many_passes_of_a_trace_are_not_gone_through() -> None:
    """A million times 3.5 MB take four million seconds."""
    assert seconds(run(traced(trace(1, 2, 0, 0.5)), [Message(S // 2, 0, nbytes=3_500_000 * MB)])) == [4_000_000.5]


def test_a_trace_that_does_not_wrap_keeps_its_last_rate() -> None:
    """1 MB/s, then 2 for ever; sent long after, too."""
    of = trace(1, 2, wrap=False)
    assert seconds(run(traced(of), [Message(0, 0, nbytes=21 * MB)])) == [11.0]
    assert seconds(run(traced(of), [Message(100 * S, 0, nbytes=2 * MB)])) == [101.0]


def test_devices_begin_somewhere_in_the_trace() -> None:
    """Half a second in; and the direction matters."""
    groups = [DeviceGroup(2, link(), trace=trace(1, 2), offsets=np.array([0.0, 0.5]))]
    world = FluidNetwork(groups, WIDE)
    assert seconds(run(world, [Message(0, 0), Message(0, 1)])) == [1.0, 0.75]
    assert seconds(run(world, [Message(10 * S, 0, up=False, nbytes=20 * MB)])) == [11.5]


def test_a_trace_under_a_full_ingress() -> None:
    """1 then 4 MB/s beside 4 into 4: the other has 3, then 2."""
    world = traced(trace(1, 4), link(4), server=link(9, 4))
    assert seconds(run(world, [Message(0, 0, nbytes=3 * MB), Message(0, 1, nbytes=5 * MB)])) == [2.0, 2.0]


@pytest.mark.parametrize("fair", BOTH)
def test_a_trace_of_a_half_duplex_link(fair: bool) -> None:
    """Both directions share the greater rate, 10 then 20 MB/s: up stays at its own 1 then 2, down gets the rest."""
    world = traced(trace(1, 2), one=link(half=True), discipline="fair" if fair else "fifo")
    found = seconds(run(world, [Message(0, 0, nbytes=3 * MB), Message(0, 0, up=False, nbytes=18 * MB)]))
    assert found == [2.0, 1.5]


def test_a_trace_that_messages_share() -> None:
    """Two of 1.5 MB over 1, then 2 MB/s: both there after 2 s."""
    world = traced(trace(1, 2), discipline="fair")
    assert seconds(run(world, [Message(0, 0, nbytes=1_500_000), Message(0, 0, nbytes=1_500_000)])) == [2.0, 2.0]
    acks = traced(trace(1, 2), ack_traffic=True)
    assert seconds(run(acks, [Message(0, 0, nbytes=3 * MB)])) == [2.0]


def test_a_trace_goes_on_after_years() -> None:
    """Where doubles no longer tell nanoseconds apart, changes still happen once each."""
    late = 10**16 + 2
    world = traced(trace(1, 2, step=0.25), link(9), server=link(9, 10))
    ((_, arrival),) = run(world, [Message(late, 0, nbytes=3 * MB)])
    assert (arrival - late) / S == pytest.approx(2.0, abs=1e-6)


# --------------------------------------------------------------------------------------- who leaves


@pytest.mark.parametrize("late", BOTH)
def test_a_device_that_leaves_frees_what_it_had(late: bool) -> None:
    """Two flows at half of 2 MB/s each; one leaves after half a second, and the other has all."""
    world = network(*[link(2, 2)] * 3, server=link(2, 2))
    for number, message in enumerate([Message(0, 0), Message(0, 1), Message(0, 0), Message(0, 0, up=False)]):
        assert send(world, message, number) is None
    assert (world.next(), world.step(0)) == (0, [])
    assert world.rates() == {0: 1e6, 1: 1e6, 3: 2e6}
    assert world.under_way() == [(0, 0), (1, 0), (2, None), (3, 0)]
    if late:
        assert world.step(S // 2) == [(S // 2, 3, 0)]
    assert world.reset(S // 2, 0) == [(0, 0), (2, None)]
    if not late:  # it had arrived by then, and is announced
        assert world.next() == S // 2
        assert world.under_way() == [(1, 0), (3, 0)]
        assert world.step(S // 2) == [(S // 2, 3, 0)]
    assert world.rates() == {1: 2e6}
    assert (world.next(), world.step(3 * S // 4)) == (3 * S // 4, [(3 * S // 4, 1, 0)])
    assert (world.next(), world.under_way(), world.rates()) == (None, [], {})


@pytest.mark.parametrize("discipline", ["fifo", "fair"])
def test_a_device_that_returns_waits_behind_nothing_old(discipline: str) -> None:
    """Also what had not begun to flow is gone; the start that was to come is void."""
    world = network(*[link(2, 2, latency=0.1, half=True)] * 3, server=link(2, 2), discipline=discipline)
    for number in range(3):
        send(world, Message(0, 0), number)
    assert world.reset(50 * MS, 0) == [(0, None), (1, None), (2, None)]
    assert world.reset(50 * MS, 0) == []
    assert world.next() is None
    assert run(world, [Message(60 * MS, 0)]) == [(160 * MS, 660 * MS)]
    assert world._events == []


def test_a_device_with_a_trace_that_leaves_changes_no_more() -> None:
    """Its next change is void."""
    world = traced(trace(1, 2), link(9), server=link(9, 10))
    send(world, Message(0, 0), 0)
    world.step(0)
    assert world.next() == S
    assert world.reset(S // 2, 0) == [(0, 0)]
    assert world.next() is None


def test_what_is_overtaken_is_cleared_away() -> None:
    """A slow flow whose end is put off ten thousand times leaves few void events."""
    world = network(link(0.001), link(1, 1), server=link(1, 0.5))
    send(world, Message(0, 0, nbytes=100 * MB), 10**6)
    for k in range(5_000):
        send(world, Message(k * 2 * MS, 1, nbytes=1000), k)
        while (due := world.next()) is not None and due < (k + 1) * 2 * MS:
            world.step(due)
    assert len(world._events) < 200


# ------------------------------------------------------------------------------------ what is shared


def allocators(world: FluidNetwork) -> list[tuple[str, ...]]:
    """For each direction and group: alone, or the allocator's class (and filling's)."""
    found = []
    for routes in world._routes:
        for route in routes:
            one = route.allocator
            filling = getattr(one, "_filling", None)
            names = [type(part).__name__ for part in (one, filling) if part is not None]
            found.append(("alone",) if route.alone else tuple(names))
    return found


CELLS = {"a": AccessPoint(2e6, 2e6, rate="goodput"), "b": AccessPoint(2e6, 2e6, rate="goodput")}
RADIO = {"a": AccessPoint(2e6, 2e6, True, "goodput"), "b": AccessPoint(2e6, 2e6, True, "goodput")}


@pytest.mark.parametrize(
    ("count", "at", "server", "access", "options", "expected"),
    [
        (2, (None, None), link(4, 4), {}, {}, [("alone",)] * 4),
        (2, (None, None), link(4, 3.9), {}, {}, [("Single",)] * 2 + [("alone",)] * 2),
        (1, (None, None), link(0.5, 4), {}, {}, [("alone",)] * 2 + [("Single",)] * 2),
        (2, ("a", "b"), link(4, 4), CELLS, {}, [("alone",)] * 4),
        (3, ("a", "b"), link(4, 4), CELLS, {}, [("Single",)] * 4),
        (3, ("a", "b"), link(4, 3), CELLS, {}, [("Solved", "Tree")] * 2 + [("Single",)] * 2),
        (3, ("a", None), link(9, 4), CELLS, {}, [("Solved", "Tree")] * 2 + [("Single",), ("alone",)]),
        (3, ("a", "b"), link(4, 4), RADIO, {}, [("Single",)] * 4),
        (3, ("a", "b"), link(4, 3), RADIO, {}, [("Solved", "General")] * 4),
        (3, ("a", "b"), link(3, 3, half=True), CELLS, {}, [("Solved", "Tree")] * 4),
        (2, (None, None), link(3, 3), {}, {"discipline": "fair"}, [("Solved", "General")] * 4),
        (2, (None, None), link(9, 3), {}, {"ack_traffic": True}, [("Solved", "General")] * 4),
        (2, (None, None), WIDE, {}, {"ack_traffic": True}, [()] * 4),
    ],
)
def test_every_topology_gets_the_cheapest_allocator(
    count: int,
    at: tuple[str | None, str | None],
    server: Link,
    access: dict[str, AccessPoint],
    options: dict[str, Any],
    expected: list[tuple[str, ...]],
) -> None:
    """What can never be full is left out; two groups of devices at 1 MB/s, up and down."""
    groups = [DeviceGroup(count, link(1, 1), name) for name in at]
    assert allocators(FluidNetwork(groups, server, access, NetworkOptions(**options))) == expected


def test_components_are_solved_for_apart() -> None:
    """Each cell of a wide server has an allocator of its own, one for both directions where they share it."""
    for cells, number in ((CELLS, 4), (RADIO, 2)):
        world = FluidNetwork([DeviceGroup(3, link(1, 1), name) for name in "ab"], WIDE, cells)
        assert len({id(route.allocator) for routes in world._routes for route in routes}) == number


@pytest.mark.slow
def test_a_million_devices_cost_arrays_not_objects() -> None:
    """With rates of their own and jitter, of which a thousand are active: 40 bytes a device at most."""
    rates = np.full((1_000_000, 2), 1e6)
    tracemalloc.start()
    gc.collect()
    objects = len(gc.get_objects())
    group = DeviceGroup(1_000_000, link(1, 1, jitter="1 ms"), rates=rates)
    world = FluidNetwork([group], link(1, 1000))
    for device in range(1000):
        assert send(world, Message(0, device * 1000), device) is None
    world.step(10 * MS)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(world.rates()) == 1000
    assert size < 40e6
    assert len(gc.get_objects()) - objects < 20_000


# -------------------------------------------------------------------------------------------- errors


def test_an_unknown_access_point_is_an_error() -> None:
    """It names those that there are."""
    with pytest.raises(UserError, match=r"unknown access point 'lap'; did you mean lab\? there are: lab"):
        FluidNetwork([DeviceGroup(1, link(), "lap")], WIDE, {"lab": AccessPoint(1, 1)})


def test_shares_by_latency_need_latencies() -> None:
    """1 / 0 is no weight."""
    with pytest.raises(UserError, match=r"link inline and the server's together have none; give one of them a latency"):
        network(link(), rtt_bias=True)
    with pytest.raises(UserError, match="rtt_bias weighs flows by 1 / latency"):
        network(link(latency=0.1), rtt_bias=True, latency=False)


@pytest.mark.parametrize(("up", "down"), [(0, 1), (1, 0), (-1, 1), (math.inf, 1), (1, math.nan)])
def test_an_access_point_carries_something(up: float, down: float) -> None:
    """Zero, negative and infinite rates are refused."""
    with pytest.raises(UserError, match=r"an access point of .* both must be above 0 and finite"):
        AccessPoint(up, down)


def test_rates_are_drawn_once_or_change_with_time() -> None:
    """Not both."""
    with pytest.raises(UserError, match=r"link inline has a trace, .* set population: off"):
        DeviceGroup(1, link(), rates=np.ones((1, 2)), trace=trace(1, 2))


@pytest.mark.parametrize(("source", "target"), [(0, 1), (SERVER, SERVER), (1, 1)])
def test_messages_go_between_the_server_and_a_device(source: int, target: int) -> None:
    """Two devices, or a node and itself, have no connection, shared or not."""
    with pytest.raises(ScriptError, match="a message goes from a device to the server or back"):
        network(link(), link(), server=link(1, 1)).submit(0, source, target, 1, 0)
