"""Random networks against brute force, and what must hold of any network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.hardware.links import Link
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from fedsim.script import SERVER
from tests.network.brute import Sent, play

UNIT = 1e5  # bytes per second
S = 1_000_000_000


class Message(NamedTuple):
    """What is sent: moment (ns), device, whether towards the server, bytes."""

    now: int
    device: int
    up: bool
    nbytes: int


def link(up: float, down: float, *, latency: float = 0.0, half: bool = False, **more: Any) -> Link:
    """A link of so many units, as goodput."""
    duplex = "half" if half else "full"
    rates = {"up": f"{up * UNIT!r} B/s", "down": f"{down * UNIT!r} B/s", "rate": "goodput"}
    return Link.model_validate({**rates, "latency": f"{latency!r} s", "duplex": duplex, **more})


@dataclass(frozen=True)
class World:
    """A network in plain numbers, from which both sides of the comparison are built."""

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
        access = {name: AccessPoint(u * UNIT, d * UNIT, h, "goodput") for name, u, d, h in self.access}
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
            rates.update({f"{name} up": up * UNIT, f"{name} down": down * UNIT})
            if not half:
                return {True: [f"{name} up"], False: [f"{name} down"]}
            rates[f"{name} both"] = max(up, down) * UNIT
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


def run(network: FluidNetwork, messages: Sequence[Message], *, late: bool = False) -> list[tuple[int, int]]:
    """(start, arrival) in ns of every message; the network is driven as the engine does it.

    `late`: at a moment at which both can happen, what is sent comes before the network's step.
    """
    found: dict[int, tuple[int, int]] = {}
    queue = sorted(range(len(messages)), key=lambda number: messages[number].now)
    while True:
        due = network.next()
        now = messages[queue[0]].now if queue else None
        if due is None and now is None:
            return [found[number] for number in range(len(messages))]
        if now is None or (due is not None and (due < now or (due == now and not late))):
            assert due is not None
            for arrival, number, start in network.step(due):
                assert arrival == due
                found[number] = (start, arrival)
        else:
            number = queue.pop(0)
            _, device, up, nbytes = messages[number]
            source, target = (device, SERVER) if up else (SERVER, device)
            times = network.submit(now, source, target, nbytes, number)
            if times is not None:
                found[number] = times


widths = st.integers(1, 20).map(float)
moments = st.sampled_from([0, S // 4, S // 2, S, 3 * S // 2]) | st.integers(0, 2 * S)
sizes = st.sampled_from([100_000, 1_000_000]) | st.integers(1, 3_000_000)


@st.composite
def worlds(draw: st.DrawFn, /, **fixed: Any) -> World:
    """Up to six devices in up to three groups, up to two access points, any options that change rates."""
    names = draw(st.sampled_from([(), ("a",), ("a", "b")]))
    biased = draw(st.booleans())
    latencies = st.sampled_from([0.01, 0.02, 0.05] if biased else [0.0, 0.01, 0.05])
    half = st.booleans() if draw(st.booleans()) else st.just(False)
    group = st.tuples(st.integers(1, 3), widths, widths, latencies, half, st.sampled_from([None, *names]))
    options = NetworkOptions(
        window=draw(st.sampled_from([None, 20_000.0])),
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
