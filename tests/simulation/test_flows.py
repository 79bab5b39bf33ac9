"""Messages that share the network: scripts on the engine, flows in the trace."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from fedsim.errors import Deadlock
from fedsim.hardware.links import Link
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from fedsim.report.columns import tabulate
from fedsim.report.traffic import traffic
from fedsim.script import SERVER, Port, broadcast, compute, recv, send, sleep
from fedsim.simulation import Fault, Limits
from fedsim.trace import Transfer
from tests.network.networks import MB, WIDE, link
from tests.simulation.toys import ENVELOPE, Ask, AtOnce, Cargo, Delay, Done, Go, S, World, payload, work

SIZE = 12_500_000


def cargo(me: Port, nbytes: int) -> Cargo:
    """A message that weighs `nbytes`, envelope included."""
    return Cargo(payload(nbytes - ENVELOPE, node=me.node))


def network(*links: Link, server: Link = WIDE, **options: Any) -> FluidNetwork:
    """One device a link."""
    return FluidNetwork([DeviceGroup(1, one) for one in links], server, options=NetworkOptions(**options))


async def watch(me: Port) -> None:
    """Wake all devices, and look on until 100."""
    await broadcast(range(10), Go())
    await sleep(100 - me.now)


def sending(*at: float, nbytes: int = SIZE) -> Any:
    """Devices that send one message each, device k `at[k]` seconds after 1 s."""

    async def device(me: Port) -> None:
        await recv(Go)
        if me.node < len(at):
            await sleep(1 + at[me.node] - me.now)
            await send(SERVER, cargo(me, nbytes))
        await recv(Ask)

    return device


def cargoes(world: World) -> list[Transfer]:
    """The transfers of `Cargo`, by sender."""
    return sorted((t for t in world.all_transfers() if t.message == "Cargo"), key=lambda t: (t.source, t.number))


def arrivals(links: Sequence[Link], device: Any, server: Link, access: Any = None, **options: Any) -> list[float]:
    """When each device's message has arrived, after 1 s, to four digits."""
    groups = [DeviceGroup(1, one, "cell" if access and k in (2, 3) else None) for k, one in enumerate(links)]
    groups.append(DeviceGroup(10 - len(groups), link(1, 1)))
    flows = FluidNetwork(groups, server, access, NetworkOptions(**options))
    world = World(watch, device, devices=10, network=flows)
    world.run()
    return [round(t.arrived / S - 1, 4) for t in cargoes(world)]


# ---------------------------------------------------------------------------------- published figures

FOUR = (1.25, 2.5, 12.5, 12.5)  # MB/s: 10, 20, 100, 100 Mbit/s
LATENCIES = (0.05, 0.05, 0.01, 0.02)
HUNDRED = link(1000, 12.5)


def test_four_flows_share_an_ingress() -> None:
    """10, 20, 100 and 100 Mbit/s into 100."""
    assert arrivals([link(up, 1) for up in FOUR], sending(0, 0, 0, 0), HUNDRED) == [10.0, 5.0, 2.8571, 2.8571]


def test_of_line_rates_messages_get_97_percent() -> None:
    """The same on the wire."""
    lines = [Link.model_validate({"up": f"{up} MB/s", "down": "1 MB/s"}) for up in FOUR]
    server = Link.model_validate({"up": "1 GB/s", "down": "100 Mbit/s"})
    assert arrivals(lines, sending(0, 0, 0, 0), server) == [10.3093, 5.1546, 2.9455, 2.9455]


def test_an_access_point() -> None:
    """Devices 2 and 3 behind 30 Mbit/s."""
    links = [link(up, 1) for up in (*FOUR, 12.5, 12.5)]
    cell = {"cell": AccessPoint(3.75e6, 3.75e6, rate="goodput")}
    assert arrivals(links, sending(*[0] * 6), HUNDRED, cell) == [10.0, 5.0, 6.6667, 6.6667, 5.0, 5.0]


def test_staggered_starts() -> None:
    """100, 100 and 20 Mbit/s, a quarter of a second apart."""
    links = [link(up, 1) for up in (12.5, 12.5, 2.5)]
    assert arrivals(links, sending(0, 0.25, 0.5), HUNDRED) == [2.0625, 2.375, 5.5]


@pytest.mark.parametrize(
    ("biased", "expected"), [(False, [10.05, 5.05, 2.8357, 2.85]), (True, [10.05, 5.9122, 1.8822, 2.6037])]
)
def test_latencies(biased: bool, expected: list[float]) -> None:
    """They come first, and may set the shares."""
    links = [link(up, 1, latency=latency) for up, latency in zip(FOUR, LATENCIES, strict=True)]
    groups = [DeviceGroup(1, one) for one in links]
    flows = FluidNetwork(groups, HUNDRED, options=NetworkOptions(rtt_bias=biased))

    async def server(me: Port) -> None:
        await broadcast(range(4), Go())
        await sleep(100)

    world = World(server, sending(0, 0, 0, 0), devices=4, network=flows)
    world.run()
    assert [round(t.arrived / S - 1, 4) for t in cargoes(world)] == expected


# -------------------------------------------------------------------------------------- in the trace


def test_the_trace_says_when_a_shared_flow_was_sent_started_and_arrived() -> None:
    """Two devices of 2 MB/s into 2; one message follows another: sent at 1, it starts when the first is through."""

    async def device(me: Port) -> None:
        await recv(Go)
        await sleep(1 - me.now)
        for _ in range(2 - me.node):
            await send(SERVER, cargo(me, MB))

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        for _ in range(3):
            await recv(Cargo)

    world = World(server, device, devices=2, network=network(link(2, 2), link(2, 2), server=link(99, 2)))
    world.run()
    found = [(t.source, t.queued / S, t.started / S, t.arrived / S, t.outcome) for t in cargoes(world)]
    assert found == [(0, 1, 1, 2, "delivered"), (0, 1, 2, 2.5, "delivered"), (1, 1, 1, 2, "delivered")]
    assert world.end == 2.5
    first, second, _ = cargoes(world)
    assert [w.message for w in world.all_waits(SERVER)] == [first.number, second.number]


@pytest.mark.parametrize("discipline", ["fifo", "fair"])
def test_who_leaves_leaves_the_others_more(discipline: str) -> None:
    """Half of 2 MB/s each until one leaves at 1.5 s; its bytes are lost from then on, started or not."""

    async def device(me: Port) -> None:
        await recv(Go)
        await sleep(1 - me.now)
        await send(SERVER, cargo(me, MB))
        if not me.node:
            await sleep(0.25)
            await send(SERVER, cargo(me, MB))
        await recv(Ask)

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await recv(Cargo)
        await sleep(0.25)

    flows = network(link(2, 2), link(2, 2), server=link(99, 2), discipline=discipline)
    world = World(server, device, devices=2, network=flows, faults=[Fault(device=0, leave=1.5)])
    world.run()
    found = [(t.source, t.queued / S, t.started / S, t.arrived / S, t.outcome) for t in cargoes(world)]
    second, other = (1.5, 1.75) if discipline == "fifo" else (1.25, 1.5 + (1 - 0.25 - 1 / 6) / 2)
    assert found == [
        (0, 1, 1, 1.5, "sender left"),
        (0, 1.25, second, 1.5, "sender left"),
        (1, 1, 1, pytest.approx(other, abs=1e-9), "delivered"),
    ]
    assert traffic(tabulate(world.trace)).lost == {"sender left": 2 * MB}


def test_who_is_faster_since_another_left_is_there_before_what_comes_later() -> None:
    """1 MB at half of 2 MB/s, and at all of it from 0.5 s on: after 0.75 s, and not when its end was due before."""
    heard: list[tuple[float, str]] = []

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        got = await recv(Cargo, until=0.9)
        heard.append((round(me.now, 4), type(got).__name__))

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, cargo(me, MB))
        await recv(Ask)

    flows = network(link(2, 1e6), link(2, 1e6), server=link(1e6, 2))
    World(server, device, devices=2, network=flows, faults=[Fault(device=0, leave=0.5)]).run()
    assert heard == [(0.75, "Cargo")]


def test_what_was_on_its_way_to_who_leaves_is_lost_at_once() -> None:
    """The egress is the other's from then on; what is sent later is lost when it is sent, and takes nothing."""

    async def server(me: Port) -> None:
        await broadcast(range(2), cargo(me, 2 * MB))
        await sleep(1)
        await send(0, cargo(me, MB))
        await sleep(9)

    async def device(me: Port) -> None:
        await recv(Cargo)

    flows = network(link(2, 2), link(2, 2), server=link(2, 99))
    world = World(server, device, devices=2, network=flows, faults=[Fault(device=0, leave=0.5)])
    world.run()
    found = sorted((t.target, t.queued / S, t.started / S, t.arrived / S, t.outcome) for t in world.all_transfers())
    assert found == [
        (0, 0, 0, 0.5, "receiver left"),
        (0, 1, 1, 1, "receiver left"),
        (1, 0, 0, 1.25, "delivered"),
    ]


def test_who_leaves_as_its_message_arrives_was_first_known_to_leave() -> None:
    """The fault was set before the run: it comes first, whether the flow shares something or not."""
    for server_link in (link(99, 2), WIDE):
        flows = network(link(1, 1), link(1.5, 1), server=server_link)
        faults = [Fault(device=0, leave=2)]

        async def server(me: Port) -> None:
            await broadcast(range(2), Go())
            await sleep(9)

        world = World(server, sending(0, nbytes=MB), devices=2, network=flows, faults=faults)
        world.run()
        assert [(t.started / S, t.arrived / S, t.outcome) for t in cargoes(world)] == [(1, 2, "sender left")]


def test_a_device_that_returns_begins_anew() -> None:
    """Behind nothing old, and with nothing that was on its way."""

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, cargo(me, MB))
        await recv(Ask)

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await sleep(0.75)
        await send(0, Go())
        await sleep(9)

    flows = network(link(1, 1), link(1, 1), server=link(9, 1))
    world = World(server, device, devices=2, network=flows, faults=[Fault(device=0, leave=0.5, back=0.7)])
    world.run()
    first, second, other = cargoes(world)
    assert (first.arrived, first.outcome, second.outcome) == (S // 2, "sender left", "delivered")
    assert other.outcome == "delivered"
    assert other.arrived / S == pytest.approx(1.75, abs=1e-3)
    assert second.arrived / S == pytest.approx(2.25, abs=1e-3)


def test_flows_at_the_end_are_in_flight() -> None:
    """Flowing, waiting behind another, and not yet there: recorded up to the end."""

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await sleep(1.5)

    async def device(me: Port) -> None:
        await recv(Go)
        await sleep(1 - me.now)
        for _ in range(2):
            await send(SERVER, cargo(me, 9 * MB))

    flows = network(link(1, 1), link(1, 1, latency=0.75), server=link(9, 1.5))
    world = World(server, device, devices=2, network=flows)
    world.run()
    found = [(t.source, t.queued / S, t.started / S, t.arrived / S, t.outcome) for t in cargoes(world)]
    flight = (1.5, "in flight")
    assert found == [(0, 1, 1, *flight), (0, 1, 1.5, *flight), (1, 1, 1.5, *flight), (1, 1, 1.5, *flight)]
    assert traffic(tabulate(world.trace)).in_flight == 36 * MB


def test_a_run_that_ends_as_messages_arrive_takes_the_first() -> None:
    """Two arrive at one moment, the server's script is satisfied with one; the other is in flight."""

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await recv(Cargo)

    flows = network(link(1, 1), link(1, 1), server=link(9, 1))
    world = World(server, sending(0, 0, nbytes=MB), devices=2, network=flows)
    world.run()
    assert [(t.source, t.arrived / S, t.outcome) for t in cargoes(world)] == [(0, 3, "delivered"), (1, 3, "in flight")]


def test_until_time_ends_a_run_amid_flows() -> None:
    """As any other run."""
    flows = network(*[link(1, 1)] * 10, server=link(99, 1))
    world = World(watch, sending(0, 0, nbytes=9 * MB), devices=10, network=flows, limits=Limits(time=4))
    world.run()
    assert [(t.arrived / S, t.outcome) for t in cargoes(world)] == [(4, "in flight")] * 2


def chatter(flows: Any, devices: int = 6) -> World:
    """Every device answers, again and again, the sooner the smaller its number."""

    async def device(me: Port) -> None:
        while True:
            await recv(Cargo)
            await compute(work(me, 0.01 * (me.node + 1)))
            await send(SERVER, cargo(me, 100_000 * (me.node + 1)))

    async def server(me: Port) -> None:
        await broadcast(range(devices), cargo(me, MB))
        for _ in range(40):
            sender = (await recv(Cargo)).sender
            await send(sender, cargo(me, 50_000))

    world = World(server, device, devices=devices, network=flows)
    world.run()
    return world


def test_the_same_run_twice_is_the_same_trace() -> None:
    """Half-duplex cells, shared ingress, jitter and loss: to the nanosecond."""

    def flows() -> FluidNetwork:
        cells = {"cell": AccessPoint(2e6, 2e6, True)}
        shaky = link(1, 1, latency=0.003, jitter="2 ms", loss="5 %")
        groups = [DeviceGroup(3, shaky, "cell"), DeviceGroup(3, shaky)]
        return FluidNetwork(groups, link(3, 3), cells, seed=3)

    assert chatter(flows()).lists() == chatter(flows()).lists()


def test_a_capacity_that_is_never_full_changes_nothing() -> None:
    """Where all have their own rate anyhow, flows announced as they end are flows known from the start."""

    mine = DeviceGroup(6, link(1, 1, latency=0.003))
    alone = FluidNetwork([mine], link(7, 7))
    beside = FluidNetwork([mine, DeviceGroup(1, link(99, 99))], link(7, 7))
    assert (alone._routes[0][0].alone, beside._routes[0][0].alone) == (True, False)
    found = [sorted(chatter(flows).all_transfers()) for flows in (alone, beside)]
    for one, other in zip(*found, strict=True):
        assert one[:10] == other[:10]
        assert one[10:13] == pytest.approx(other[10:13], abs=50)  # ns: each rounds up once, or once a message


def test_messages_that_never_arrive_are_a_deadlock_that_says_so() -> None:
    """A network without anything left to happen."""

    class Swallowing(AtOnce):
        def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> None:
            return None

        def under_way(self) -> list[tuple[int, int | None]]:
            return [(1, None)]

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done)

    said = World(server, network=Swallowing()).fail(Deadlock)
    assert "every script waits and the messages under way (1) will never arrive" in said


def test_steps_that_were_overtaken_do_not_hide_a_deadlock() -> None:
    """After the last arrival nothing is left in the heap that counts."""

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, cargo(me, MB if me.node else 9 * MB))
        await recv(Ask)

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await recv(Cargo)
        await recv(Cargo)
        await recv(Done)

    flows = network(link(1, 1), link(1, 1), server=link(9, 1))
    world = World(server, device, devices=2, network=flows, limits=Limits(every=1))
    assert "no message is under way" in world.fail(Deadlock)
    assert world.end == pytest.approx(10, abs=1e-3)


# ------------------------------------------------------------------------------------------ pipelines


def bubble(stages: int, batches: int) -> Fraction:
    """The share of time in which a stage of a pipeline without contention has nothing to do: (p - 1) / (m + p - 1)."""
    return Fraction(stages - 1, batches + stages - 1)


def pipeline(batches: int, flows: Any, *, back: bool = False) -> tuple[World, int]:
    """A device and a server that take 1 s for each batch, one after the other; and the length of the pipeline in ns."""

    async def device(me: Port) -> None:
        await recv(Go)
        await sleep(100 - me.now)
        for _ in range(batches):
            await compute(work(me, 1))
            await send(SERVER, cargo(me, MB))
        for _ in range(batches * back):
            await recv(Cargo)

    async def server(me: Port) -> None:
        await send(0, Go())
        for _ in range(batches):
            await recv(Cargo)
            await compute(work(me, 1))
            if back:
                await send(0, cargo(me, MB))
        if back:
            await sleep(3)

    world = World(server, device, network=flows)
    world.run()
    last = max(t.arrived for t in cargoes(world)) if back else max(s.end for s in world.all_spans(SERVER))
    return world, last - 100 * S


def idle(world: World, node: int, length: int) -> Fraction:
    """The share of a pipeline's length in which a node did not compute."""
    return 1 - Fraction(sum(s.end - s.start for s in world.all_spans(node)), length)


@pytest.mark.parametrize("batches", [1, 2, 3, 8, 50])
def test_the_bubble_of_two_stages_is_its_closed_form(batches: int) -> None:
    """Device, then server, over links that take no time: exactly 1 / (m + 1) of the time, on both."""
    world, length = pipeline(batches, Delay(0))
    assert length == (batches + 1) * S
    assert idle(world, 0, length) == idle(world, SERVER, length) == bubble(2, batches)


@pytest.mark.parametrize("batches", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("shared", [False, True])
def test_a_transfer_is_a_stage_of_the_pipeline(batches: int, shared: bool) -> None:
    """1 MB over 1 MB/s: device, link, server are three stages; with the way back, four. Exactly."""
    for back, stages in ((False, 3), (True, 4)):
        links = [link(1, 1)] + [link(9, 9)] * shared
        flows = network(*links, server=link(9, 9) if shared else WIDE)
        world, length = pipeline(batches, flows, back=back)
        assert length == (batches + stages - 1) * S
        assert idle(world, 0, length) == idle(world, SERVER, length) == bubble(stages, batches)
        busy = sum(t.arrived - t.started for t in cargoes(world) if t.target == SERVER)
        assert 1 - Fraction(busy, length) == bubble(stages, batches)


@pytest.mark.parametrize("late", [1e3, 1e6, 1e7, 1e9])
def test_flows_keep_their_order_long_after_the_start(late: float) -> None:
    """Twelve days, four months and thirty years into a run, where doubles no longer tell nanoseconds apart."""

    async def device(me: Port) -> None:
        await recv(Go)
        for _ in range(20):
            await send(SERVER, cargo(me, 1000))
            await compute(work(me, 1e-9))

    async def server(me: Port) -> None:
        await sleep(late)
        await broadcast(range(3), Go())
        for _ in range(60):
            await recv(Cargo)

    flows = FluidNetwork([DeviceGroup(3, link(1, 1, latency=0.0001))], link(2, 2))
    world = World(server, device, devices=3, network=flows)
    world.run()
    exact = round(late * S) + 200_000 + (60_000 + 3 * ENVELOPE) / 2e6 * S
    assert world.trace.end == pytest.approx(exact, abs=max(50_000, late / 1e6))
    assert all(t.outcome == "delivered" for t in world.all_transfers())
