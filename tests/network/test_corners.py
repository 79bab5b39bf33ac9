"""Where options meet: traces and losses, rates of one's own and windows, leaving and silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedsim.hardware.traces.rates import RateTrace
from fedsim.network import delays
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from tests.network.networks import MB, MS, WIDE, Message, S, link, run, seconds, send

SHARED = pytest.mark.parametrize("server", [WIDE, link(9, 9)], ids=["alone", "shared"])


def stepped(*up: float, step: float = 1.0) -> RateTrace:
    """Rates (MB/s) both ways, each for a step, again and again."""
    rates = np.array(up, np.float64) * 1e6
    return RateTrace(np.arange(len(up), dtype=np.float64) * step, rates, rates, len(up) * step)


@SHARED
def test_lost_packets_slow_a_trace_too(server: Any) -> None:
    """Half of 1, then 2 MB/s: 1 MB takes a second and a half; once packets are lost elsewhere, or for nothing, 1 s."""
    groups = [DeviceGroup(1, link(loss="50 %"), trace=stepped(1, 2)), DeviceGroup(1, link(9, 9))]
    ((start, arrival),) = run(FluidNetwork(groups, server, options=NetworkOptions(latency=False)), [Message(8 * S, 0)])
    assert start in (8 * S, 8 * S + S // 5), "200 ms late if a packet is lost"
    left = 500_000 if start == 8 * S else 600_000  # after the first second
    assert arrival == 9 * S + left * 1000
    ((_, arrival),) = run(FluidNetwork(groups, server, options=NetworkOptions(loss="off")), [Message(0, 0)])
    assert arrival == S


@SHARED
@pytest.mark.parametrize("traced", [False, True])
def test_the_window_also_limits_devices_with_rates_of_their_own(server: Any, traced: bool) -> None:
    """100 KB a round trip of 0.2 s are 0.5 MB/s; a device of 0.25 MB/s keeps those."""
    own: dict[str, Any] = {"rates": np.array([[1e6, 1e6], [0.25e6, 1e6]])}
    options = NetworkOptions(window=1e5)
    groups = [DeviceGroup(2, link(latency=0.1), **own)]
    if traced:
        groups = [DeviceGroup(1, link(latency=0.1), trace=stepped(k, 0.5 * k)) for k in (2, 0.25)]
    world = FluidNetwork([*groups, DeviceGroup(1, link(9, 9))], server, options=options)
    expected = [2.1, 5.2] if traced else [2.1, 4.1]
    assert seconds(run(world, [Message(0, 0), Message(0, 1)])) == pytest.approx(expected, abs=1e-6)


@SHARED
def test_a_device_with_a_trace_that_returns_waits_behind_nothing_old(server: Any) -> None:
    """It left in the middle of a long message, which holds up neither direction."""
    groups = [DeviceGroup(1, link(), trace=stepped(1, 3)), DeviceGroup(1, link(9, 9))]
    world = FluidNetwork(groups, server)
    send(world, Message(0, 0, nbytes=100 * MB), 100)
    send(world, Message(0, 0, up=False, nbytes=100 * MB), 101)
    world.step(0)
    world.reset(S // 2, 0)
    assert run(world, [Message(2 * S, 0), Message(2 * S, 0, up=False)]) == [(2 * S, 3 * S)] * 2


def test_who_has_spoken_within_a_second_is_not_silent_however_many_speak() -> None:
    """5,000 devices within half a second; the first ones, again before that second is over, pay their latency once."""
    world = FluidNetwork([DeviceGroup(5000, link(latency=0.001))], WIDE, options=NetworkOptions(slow_start=True))
    for device in range(5000):
        send(world, Message(device * MS // 10, device, nbytes=1), device)
    assert [send(world, Message(S, device, nbytes=1), 0) for device in (200, 700)] == [(S + MS, S + MS + 1000)] * 2


def test_delays_are_cut_at_four_deviations_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst luck: four deviations of 10 ms, and 200 ms for a lost packet; the best: nothing."""
    unlucky, lucky = (link(1e6, 1e6, jitter="10 ms", loss=loss) for loss in ("20 %", "0 %"))
    monkeypatch.setattr(delays, "derive", lambda *what: 0 if "loss" in what[2] else 2**63 - 1)
    for of, expected in ((unlucky, 240 * MS), (lucky, 40 * MS)):
        ((start, _),) = run(FluidNetwork([DeviceGroup(1, of)], WIDE), [Message(0, 0, nbytes=1)])
        assert start == expected
    monkeypatch.setattr(delays, "derive", lambda *what: 2**63 - 1 if "loss" in what[2] else 0)
    ((start, _),) = run(FluidNetwork([DeviceGroup(1, unlucky)], WIDE), [Message(0, 0, nbytes=1)])
    assert start == 0


def test_the_order_of_messages_that_share_a_connection_is_kept() -> None:
    """Sent a nanosecond apart and shaken by 10 ms, none begins to flow before the one that was sent before it."""
    world = FluidNetwork([DeviceGroup(1, link(jitter="10 ms"))], WIDE, options=NetworkOptions(discipline="fair"))
    starts = [start for start, _ in run(world, [Message(k, 0, nbytes=1) for k in range(50)])]
    assert starts == sorted(starts)


def test_nothing_is_announced_for_a_moment_that_has_passed() -> None:
    """Four months on, where a double tells two nanoseconds apart only: what is sent at an odd one comes no earlier."""
    late = 10**16
    world = FluidNetwork([DeviceGroup(2, link(1e6, 1))], link(1, 1e3))
    for odd in range(1, 20, 2):
        assert send(world, Message(late + odd, 0, nbytes=1), odd) is None
        due = world.next()
        assert due is not None
        assert due >= late + odd
        world.step(due)


def test_traces_may_fill_a_capacity_for_a_while_only() -> None:
    """Two devices of 0.5, then 2 MB/s into 3: half a MB in the first second, and 1.5 in the next."""
    group = DeviceGroup(2, link(), trace=stepped(0.5, 2), offsets=np.zeros(2))
    assert seconds(run(FluidNetwork([group], link(9, 3)), [Message(0, k, nbytes=2 * MB) for k in range(2)])) == [2, 2]


def test_rates_of_their_own_may_fill_a_capacity() -> None:
    """1 and 3 MB/s into 3: the second device has 2."""
    group = DeviceGroup(2, link(), rates=np.array([[1e6, 1e6], [3e6, 3e6]]))
    assert seconds(run(FluidNetwork([group], link(9, 3)), [Message(0, 0), Message(0, 1, nbytes=2 * MB)])) == [1, 1]


@pytest.mark.parametrize("loss", ["off", "mathis"])
def test_losses_at_the_server_leave_its_rates_alone_unless_they_delay(loss: Any) -> None:
    """`off`, and `mathis` where there is no round trip: two share all of 1 MB/s."""
    world = FluidNetwork([DeviceGroup(2, link())], link(1, 1, loss="50 %"), options=NetworkOptions(loss=loss))
    assert seconds(run(world, [Message(0, 0), Message(0, 1, up=False)])) == [1, 1]
    assert seconds(run(world, [Message(9 * S, 0), Message(9 * S, 1)])) == [11, 11]


def test_acknowledgements_alone_may_fill_an_ingress() -> None:
    """100 MB/s down want 5 MB/s on the way back; the server takes 1: the way down gets 20."""
    world = FluidNetwork([DeviceGroup(1, link(100, 100))], link(1e3, 1), options=NetworkOptions(ack_traffic=True))
    assert seconds(run(world, [Message(0, 0, up=False, nbytes=100 * MB)])) == [5]


def test_shares_by_latency_behind_an_access_point() -> None:
    """Behind 3 MB/s, 0.1 and 0.2 s away: 2 and 1; the other half of an ingress of 6 is a third device's."""
    links = [link(9, 9, latency=latency) for latency in (0.1, 0.2, 0.1)]
    groups = [DeviceGroup(1, one, access) for one, access in zip(links, ("cell", "cell", None), strict=True)]
    cell = {"cell": AccessPoint(3e6, 3e6, rate="goodput")}
    world = FluidNetwork(groups, link(99, 6), cell, NetworkOptions(rtt_bias=True))
    messages = [Message(100 * MS, 0, nbytes=2 * MB), Message(0, 1), Message(100 * MS, 2, nbytes=3 * MB)]
    assert seconds(run(world, messages)) == pytest.approx([1.2, 1.2, 1.2], abs=1e-6)


def test_a_flow_that_begins_as_anothers_trace_changes_has_carried_nothing_yet() -> None:
    """Both a second after the start: 1 MB at half of 2 MB/s is there a second later."""
    groups = [DeviceGroup(1, link(9, 9, latency=1)), DeviceGroup(1, link(), trace=stepped(1, 1.5), offsets=np.zeros(1))]
    world = FluidNetwork(groups, link(9, 2))
    assert seconds(run(world, [Message(0, 0), Message(0, 1, nbytes=10 * MB)]))[0] == 2
