"""Random networks against brute force, and what must hold of any network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.hardware.traces.rates import RateTrace
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from tests.network.brute import Sent, play
from tests.network.networks import WIDE, Message, S, link, run


@dataclass(frozen=True)
class World:
    """A network in plain numbers (MB/s, s), from which both sides of the comparison are built."""

    groups: tuple[tuple[int, float, float, float, bool, str | None], ...]  # count, up, down, latency, half, access
    server: tuple[float, float, bool]  # up, down, half
    access: tuple[tuple[str, float, float, bool], ...] = ()
    options: NetworkOptions = NetworkOptions()  # noqa: RUF009 (it is frozen)

    @property
    def devices(self) -> list[tuple[float, float, float, bool, str | None]]:
        """The devices one by one."""
        return [rest for count, *rest in self.groups for _ in range(count)]  # type: ignore[misc]

    def network(self) -> FluidNetwork:
        """What is tested."""
        groups = [
            DeviceGroup(count, link(up, down, latency=latency, half=half), at)
            for count, up, down, latency, half, at in self.groups
        ]
        up, down, half = self.server
        access = {name: AccessPoint(u * 1e6, d * 1e6, h, "goodput") for name, u, d, h in self.access}
        return FluidNetwork(groups, link(up, down, half=half), access, self.options)

    def scaled(self, factor: float) -> World:
        """The same with every capacity times `factor`."""
        up, down, half = self.server
        return replace(
            self,
            groups=tuple((c, u * factor, d * factor, *rest) for c, u, d, *rest in self.groups),  # type: ignore[misc]
            server=(up * factor, down * factor, half),
            access=tuple((name, u * factor, d * factor, h) for name, u, d, h in self.access),
        )

    def brute(self, messages: Sequence[Message]) -> tuple[list[Sent], dict[str, float]]:
        """The oracle's side: what every message crosses, and how wide everything is."""
        rates: dict[str, float] = {}
        acks = 0.05 if self.options.ack_traffic else 0.0

        def ends(name: str, up: float, down: float, half: bool) -> dict[bool, list[str]]:
            rates.update({f"{name} up": up * 1e6, f"{name} down": down * 1e6})
            if not half:
                return {True: [f"{name} up"], False: [f"{name} down"]}
            rates[f"{name} both"] = max(up, down) * 1e6
            return {True: [f"{name} up", f"{name} both"], False: [f"{name} down", f"{name} both"]}

        up, down, half = self.server
        top = ends("server", down, up, half)  # up and down as seen from the devices
        points = {name: ends(name, *rest) for name, *rest in self.access}  # type: ignore[arg-type]
        links = [ends(f"device {k}", u, d, h) for k, (u, d, _, h, _) in enumerate(self.devices)]
        sent = []
        for message in messages:
            *_, latency, _, at = self.devices[message.device]
            crosses: dict[str, float] = {}
            for all_of in (links[message.device], points[at] if at else {}, top):
                for towards, share in ((message.up, 1.0), (not message.up, acks)):
                    for name in all_of.get(towards, ()):
                        crosses[name] = crosses.get(name, 0.0) + share
            cap = math.inf
            if latency and self.options.window:
                window = f"window {message.device} {message.up}"
                rates[window] = self.options.window / (2 * latency)
                crosses[window] = 1.0
            weight = 1 / latency if self.options.rtt_bias else 1.0
            ready = message.now / S + latency
            crosses = {name: share for name, share in crosses.items() if share}
            sent.append(Sent((message.device, message.up), ready, message.nbytes, cap, weight, crosses))
        return sent, rates


widths = st.integers(1, 20).map(float)
moments = st.sampled_from([0, S // 4, S // 2, S, 3 * S // 2]) | st.integers(0, 2 * S)
sizes = st.sampled_from([10**6, 10**7]) | st.integers(1, 3 * 10**7)


@st.composite
def worlds(draw: st.DrawFn, /, **fixed: Any) -> World:
    """Up to six devices in up to three groups, up to two access points, any options that change rates."""
    names = draw(st.sampled_from([(), ("a",), ("a", "b")]))
    biased = draw(st.booleans())
    latencies = st.sampled_from([0.01, 0.02, 0.05] if biased else [0.0, 0.01, 0.05])
    half = st.booleans() if draw(st.booleans()) else st.just(False)
    group = st.tuples(st.integers(1, 3), widths, widths, latencies, half, st.sampled_from([None, *names]))
    options = NetworkOptions(
        window=draw(st.sampled_from([None, 200_000.0])),
        discipline=draw(st.sampled_from(["fifo", "fair"])),
        rtt_bias=biased,
        ack_traffic=draw(st.booleans()),
    )
    return World(
        groups=tuple(draw(st.lists(group, min_size=1, max_size=3))),
        server=(draw(widths) * 2, draw(widths) * 2, draw(half)),
        access=tuple((name, draw(widths), draw(widths), draw(half)) for name in names),
        options=replace(options, **fixed),
    )


@st.composite
def traffic(draw: st.DrawFn, /, world: World) -> list[Message]:
    """Up to twelve messages."""
    device = st.integers(0, len(world.devices) - 1)
    one = st.builds(Message, moments, device, st.booleans(), sizes)
    return draw(st.lists(one, min_size=1, max_size=12))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_network_does_what_brute_force_does(data: st.DataObject) -> None:
    """Starts and arrivals agree within 1e-9 and the rounding up to a nanosecond."""
    world = data.draw(worlds())
    messages = data.draw(traffic(world))
    found = run(world.network(), messages, late=data.draw(st.booleans()))
    order = sorted(range(len(messages)), key=lambda number: messages[number].now)
    sent, rates = world.brute([messages[number] for number in order])
    play(sent, rates, fair=world.options.discipline == "fair")
    for number, expected in zip(order, sent, strict=True):
        start, arrival = found[number]
        assert start / S == pytest.approx(expected.start, rel=1e-9, abs=20e-9)
        assert arrival / S == pytest.approx(expected.end, rel=1e-9, abs=20e-9)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_traces_give_the_same_alone_as_event_by_event(data: st.DataObject) -> None:
    """An integral over the trace, or a change of rate after the other: the same to 1e-9 and a nanosecond a message."""
    rates = data.draw(st.lists(st.sampled_from([0.0, 1.0]) | st.floats(0.01, 20), min_size=1, max_size=6))
    wrap = data.draw(st.booleans())
    of = np.array([1.0, *rates] if wrap else [*rates, 1.0]) * 1e6
    times = np.arange(len(of), dtype=np.float64) * data.draw(st.sampled_from([0.25, 0.5, 1 / 3]))
    trace = RateTrace(times, of, of, float(times[-1]) + 0.25, wrap)
    offset = np.array([data.draw(st.floats(0, 5))])
    latency = data.draw(st.sampled_from([0.0, 0.05]))
    mine = DeviceGroup(1, link(1, 1, latency=latency), trace=trace, offsets=offset)
    messages = data.draw(st.lists(st.builds(Message, moments, st.just(0), st.booleans(), sizes), max_size=6))
    options = NetworkOptions(window=data.draw(st.sampled_from([None, 200_000.0])))
    alone = FluidNetwork([mine], WIDE, options=options)
    beside = FluidNetwork([mine, DeviceGroup(1, link(99, 99))], link(100, 100), options=options)
    for one, other in zip(run(alone, messages), run(beside, messages), strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=len(messages) + 1)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_scaling_every_capacity_scales_every_time(data: st.DataObject) -> None:
    """Twice as wide everywhere, sent at half the time: there at half the time."""
    world = data.draw(worlds(rtt_bias=False, latency=False))
    messages = [message._replace(now=2 * message.now) for message in data.draw(traffic(world))]
    slow = run(world.network(), messages)
    fast = run(world.scaled(2.0).network(), [message._replace(now=message.now // 2) for message in messages])
    for one, other in zip(slow, fast, strict=True):
        assert [2 * moment for moment in other] == pytest.approx(one, rel=1e-9, abs=2 * len(messages))


@settings(max_examples=30, deadline=None)
@given(st.data(), st.floats(1, 10))
def test_a_wider_server_delays_no_message(data: st.DataObject, factor: float) -> None:
    """Where its link is all that is shared."""
    world = data.draw(worlds(discipline="fifo", ack_traffic=False))
    devices = tuple((count, up, down, latency, False, None) for count, up, down, latency, _, _ in world.groups)
    up, down, _ = world.server
    narrow = replace(world, groups=devices, server=(up, down, False))
    wide = replace(narrow, server=(up * factor, down * factor, False))
    messages = data.draw(traffic(world))
    for one, other in zip(run(narrow.network(), messages), run(wide.network(), messages), strict=True):
        assert other[1] <= one[1] * (1 + 1e-9) + len(messages)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_order_in_which_messages_of_one_moment_are_sent_does_not_matter(data: st.DataObject) -> None:
    """As long as it is kept on each connection; no more than the rounding differs."""
    world = data.draw(worlds())
    messages = data.draw(traffic(world))
    order = data.draw(st.permutations(range(len(messages))))
    ways: dict[tuple[int, bool], list[int]] = {}
    for number, message in enumerate(messages):
        ways.setdefault((message.device, message.up), []).append(number)
    queues = {way: iter(numbers) for way, numbers in ways.items()}
    mixed = [next(queues[messages[number].device, messages[number].up]) for number in order]
    expected = run(world.network(), messages)
    found = run(world.network(), [messages[number] for number in mixed])
    for number, times in zip(mixed, found, strict=True):
        assert times == pytest.approx(expected[number], rel=1e-12, abs=1)
