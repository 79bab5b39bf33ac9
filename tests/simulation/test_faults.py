"""Devices that leave and return, in whatever they were doing; what is lost with them."""

from __future__ import annotations

import pytest

from fedsim.script import SERVER, Connected, Disconnected, Port, broadcast, compute, gather, recv, send, sleep
from fedsim.simulation import Fault
from tests.simulation.toys import Ask, Delay, Done, Go, S, World, work

LEAVE, BACK = 4.0, 7.0


async def watch(me: Port) -> None:
    """Speak to device 0 at once and look on until 10."""
    await send(0, Go())
    await sleep(10)


def leaving(server: object = watch, device: object = None, back: float | None = None, **more: object) -> World:
    """A world of one device that leaves at 4 s."""
    fault = Fault(device=0, leave=LEAVE, back=back)
    return World(server, device, faults=[fault], **more)  # type: ignore[arg-type]


def test_leaving_while_it_waits() -> None:
    """The wait ends there, with no message; `finally` blocks run, and nothing is recorded of it later."""
    closed = []

    async def device(me: Port) -> None:
        try:
            await recv(Go)
            await recv(Ask)
        finally:
            closed.append(me.now)

    world = leaving(device=device)
    world.run()
    assert closed == [4]
    assert world.waits(0) == [(0, 4, "credit")]
    assert world.marks("join", "leave")[1:] == [("join", 0, 0), ("leave", 0, 4)]


def test_leaving_while_it_waits_with_a_time_limit() -> None:
    """The time limit that is still to come wakes nobody."""

    async def device(me: Port) -> None:
        await recv(Go)
        await recv(Ask, until=6)
        raise AssertionError("it went on")

    world = leaving(device=device, back=5)
    world.run()
    assert world.waits(0) == [(0, 4, "credit"), (5, 10, "model")]


def test_leaving_while_it_sleeps() -> None:
    """The sleep ends there."""

    async def device(me: Port) -> None:
        await recv(Go)
        await sleep(5)
        raise AssertionError("it went on")

    world = leaving(device=device)
    world.run()
    assert world.waits(0) == [(0, 4, "sleep")]


def test_leaving_while_it_computes() -> None:
    """What is done is done in vain: spans are cut and wasted, by the share of their time."""

    async def device(me: Port) -> None:
        await recv(Go)
        await compute(work(me, 1, samples=5))
        await compute(work(me, 1, 8, 2, samples=5), work(me, 9, samples=5))
        raise AssertionError("it went on")

    world = leaving(device=device, lanes={0: 2})
    world.run()
    assert [(s.lane, s.start / S, s.end / S, s.macs / S, s.samples, s.wasted) for s in world.all_spans(0)] == [
        (0, 0, 1, 1, 5, False),
        (0, 1, 2, 1, 5, True),
        (0, 2, 4, 2, 0, True),
        (1, 1, 4, 3, 0, True),
    ]
    assert world.workers.told[-1] == ("forget", 0)


def test_leaving_at_the_instant_at_which_its_work_ends() -> None:
    """The fault was known first, so it comes first: the work is whole and wasted."""

    async def device(me: Port) -> None:
        await recv(Go)
        await compute(work(me, 4, samples=5))
        raise AssertionError("it went on")

    world = leaving(device=device)
    world.run()
    assert [(s.end / S, s.samples, s.wasted) for s in world.all_spans(0)] == [(4, 5, True)]


def test_leaving_before_it_was_ever_spoken_to() -> None:
    """It has waited for a model; joining comes before leaving in the record."""

    async def server(me: Port) -> None:
        await sleep(10)

    world = leaving(server)
    world.run()
    assert world.waits(0) == [(0, 4, "model")]
    assert world.marks("join", "leave")[1:] == [("join", 0, 0), ("leave", 0, 4)]


def test_leaving_at_the_very_beginning() -> None:
    """A device that leaves at 0 has no horizon until it returns."""
    started = []

    async def device(me: Port) -> None:
        started.append(me.now)
        await recv(Go)

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(5)
        await send(0, Go())
        await sleep(1)

    world = World(server, device, faults=[Fault(device=0, leave=0, back=3)], network=Delay(0.5))
    world.run()
    assert started == [5.5]
    assert world.waits(0) == [(3, 5.5, "model")]
    assert [t[-1] for t in world.transfers()] == ["receiver left", "delivered"]


def test_leaving_after_its_script_has_ended() -> None:
    """Nothing is closed twice, and it may come back."""

    async def device(me: Port) -> None:
        await recv(Go)

    world = leaving(device=device, back=BACK)
    world.run()
    assert world.marks("end", "leave", "return")[:3] == [("end", 0, 0), ("leave", 0, 4), ("return", 0, 7)]
    assert world.waits(0) == [(7, 10, "model")]


def test_what_it_had_sent_is_lost() -> None:
    """A message of a device that leaves before it has arrived; what arrived before is not lost."""

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, Done(1))
        await sleep(2)
        await send(SERVER, Done(2))
        await sleep(9)

    got = []

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(10)
        while (message := me.poll(Done)) is not None:
            got.append(message)

    world = leaving(server, device, network=Delay(1.25))
    world.run()
    assert got == [Done(1, sender=0)]
    assert [t[3:] for t in world.transfers()][1:] == [(1.25, 2.5, "delivered"), (3.25, 4, "sender left")]


def test_what_is_on_its_way_to_it_is_lost() -> None:
    """Also when it is back before the message would arrive: that is another life."""
    started = []

    async def device(me: Port) -> None:
        started.append((me.now, await recv(Go)))

    async def server(me: Port) -> None:
        await sleep(3)
        await send(0, Go(1))  # under way when it leaves
        await sleep(2)
        await send(0, Go(2))  # sent while it is away: lost at once, though it would arrive after its return
        await sleep(3)
        await send(0, Go(3))
        await sleep(9)

    world = leaving(server, device, back=5.5, network=Delay(2.5))
    world.run()
    assert started == [(10.5, Go(3, sender=SERVER))]
    assert sorted(t[3:] for t in world.transfers()) == [
        (3, 4, "receiver left"),
        (5, 5, "receiver left"),
        (8, 10.5, "delivered"),
    ]
    assert world.waits(0) == [(0, 4, "model"), (5.5, 10.5, "model")]


def test_what_is_lost_is_lost_also_when_the_run_ends_before() -> None:
    """A message that will never arrive is not in flight; another one is."""

    async def device(me: Port) -> None:
        await recv(Go)
        if me.node == 0:
            await sleep(3)
        await send(SERVER, Done())
        await recv(Go)

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await sleep(3)
        await broadcast(range(2), Ask())
        await sleep(1.5)

    world = World(server, device, devices=2, faults=[Fault(device=0, leave=4)], network=Delay(2))
    world.run()
    assert sorted(t[:3] + t[5:] for t in world.transfers())[:2] == [
        ("Ask", -1, 0, "receiver left"),
        ("Ask", -1, 1, "in flight"),
    ]
    assert [t[5] for t in world.transfers() if t[:2] == ("Done", 0)] == []
    assert [t[5] for t in world.transfers() if t[:2] == ("Done", 1)] == ["delivered"]


def test_a_device_that_returns_starts_afresh_at_its_next_message() -> None:
    """A new script, an empty mailbox; its batches and learners are the context's business."""
    lives = []

    async def device(me: Port) -> None:
        lives.append(me.now)
        await recv(Go)
        assert me.poll(Go) is None
        await recv(Done)

    async def server(me: Port) -> None:
        for _ in range(2):
            await send(0, Go())
            await sleep(1)
            await send(0, Ask())
            await sleep(7)

    world = leaving(server, device, back=BACK)
    world.run()
    assert lives == [0, 8]
    assert world.waits(0) == [(0, 4, "contribution"), (7, 8, "model"), (8, 16, "contribution")]
    assert world.network.resets == [0]


def test_a_device_may_leave_again_and_again() -> None:
    """Three lives, each with its own losses; a message that would arrive as its sender leaves is lost."""

    async def device(me: Port) -> None:
        while True:
            await recv(Go)
            await compute(work(me, 1.5))
            await send(SERVER, Done())

    async def server(me: Port) -> None:
        for t in range(12):
            await send(0, Go(t))
            await sleep(1)

    faults = [Fault(device=0, leave=2, back=4), Fault(device=0, leave=4, back=5), Fault(device=0, leave=9)]
    world = World(server, device, faults=faults, network=Delay(0.25))
    world.run()
    assert [n for n, *_ in world.marks("leave", "return")] == ["leave", "return", "leave", "return", "leave"]
    assert world.spans(0) == [(0.25, 1.75), (1.75, 2), (5.25, 6.75), (6.75, 8.25), (8.25, 9)]
    answers = [t[3:] for t in world.transfers() if t[0] == "Done"]
    assert answers == [(1.75, 2, "sender left"), (6.75, 7, "delivered"), (8.25, 8.5, "delivered")]


def test_the_server_is_told_of_leaving_and_of_returning() -> None:
    """Notices wait in the mailbox and interrupt nothing; `absent` is always up to date."""
    seen = []

    async def device(me: Port) -> None:
        await recv(Go)
        await recv(Go)

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await compute(work(me, 5))
        assert set(me.absent) == {0}
        seen.append((await recv(Disconnected, Connected), me.now))
        seen.append((await recv(Disconnected, Connected), me.now))
        assert not me.absent
        seen.append((await recv(Disconnected, Connected), me.now))

    world = World(
        server,
        device,
        devices=2,
        faults=[Fault(device=0, leave=LEAVE, back=BACK), Fault(device=1, leave=8)],
    )
    world.run()
    assert seen == [
        (Disconnected(0, sender=0), 5),
        (Connected(0, sender=0), 7),
        (Disconnected(1, sender=1), 8),
    ]
    assert [(w.awaited, w.message) for w in world.all_waits(SERVER)] == [("control", -1)] * 2


def test_a_wait_for_one_device_hears_of_its_leaving_only() -> None:
    """`recv(Done, Disconnected, source=1)` is not woken by device 0."""

    async def device(me: Port) -> None:
        await recv(Go)
        await recv(Go)

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        assert await recv(Done, Disconnected, source=1) == Disconnected(1, sender=1)
        assert me.now == 6

    World(server, device, devices=2, faults=[Fault(device=0, leave=LEAVE), Fault(device=1, leave=6)]).run()


def test_gather_does_not_wait_for_a_device_that_leaves() -> None:
    """It answers with what the others sent."""

    async def device(me: Port) -> None:
        await recv(Go)
        await compute(work(me, 3 + 2 * me.node))
        await send(SERVER, Done(me.node))

    async def server(me: Port) -> None:
        await broadcast(range(3), Go())
        assert [m.sender for m in await gather(range(3), Done)] == [0, 2]
        assert me.now == 7

    faults = [Fault(device=1, leave=LEAVE), Fault(device=0, leave=3.5)]
    World(server, device, devices=3, faults=faults).run()


def test_gather_of_devices_that_all_leave_ends() -> None:
    """With nothing."""

    async def server(me: Port) -> None:
        await send(0, Go())
        assert await gather([0], Done) == []
        assert me.now == 4

    async def device(me: Port) -> None:
        await recv(Go)
        await recv(Go)

    leaving(server, device).run()


@pytest.mark.parametrize("back", [None, BACK])
def test_faults_after_the_end_do_not_happen(back: float | None) -> None:
    """The run is over before."""

    async def server(me: Port) -> None:
        await sleep(1)

    world = leaving(server, back=back)
    world.run()
    assert world.marks("leave", "return") == []


def test_what_a_script_does_on_its_way_out_comes_before_the_host_forgets_it() -> None:
    """A learner may be closed in a `finally`."""

    async def device(me: Port) -> None:
        try:
            await recv(Go)
            await compute(work(me, 100))
        finally:
            me.command(work(me, method="close").command)

    world = leaving(device=device)
    world.run()
    assert world.workers.told == [("start", 0, ("train",)), ("queue", 0, "close"), ("forget", 0)]
