"""What nodes hold on the virtual clock, and what happens where it does not suffice. Bytes worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedsim.errors import SimulatedOutOfMemory
from fedsim.runtime.envelopes import ENVELOPE_BYTES
from fedsim.script import (
    SERVER,
    Command,
    Connected,
    Disconnected,
    Message,
    Port,
    Work,
    broadcast,
    compute,
    gather,
    recv,
    send,
    sleep,
)
from fedsim.simulation import Fault, Ledger, Shortage
from fedsim.trace import Mark
from tests.simulation.toys import Cargo, Delay, Done, Go, S, World, part, payload, work

PROCESS = 1000
CARGO = 400 + ENVELOPE_BYTES


def accounted(usable: int = 10**9, server: int | None = None) -> Ledger:
    """Accounts of nodes that all start from 1,000 bytes and may use so many; the server perhaps others."""
    return Ledger(lambda node: (PROCESS, server if node == SERVER and server is not None else usable))


def peaks(world: World) -> dict[int, tuple[float, float]]:
    """Of every node: the most it held beside its process, and when (s)."""
    marks = [mark for mark in map(Mark._make, world.trace.marks) if mark.name == "memory.peak"]
    return {mark.node: (mark.value - PROCESS, mark.time / 1e9) for mark in marks}


def needing(me: Port, *parts: tuple[int, int], holds: int = 0) -> Work[Any]:
    """A work with a part of a second for each (memory, keeps)."""
    made = work(me, *(1.0 for _ in parts))
    sized = tuple(replace(part(1.0), memory=memory, keeps=keeps) for memory, keeps in parts)
    return Work(replace(made.command, holds=holds), sized, None)


def test_a_work_holds_memory_while_it_runs() -> None:
    """Of its parts, which follow each other, the one that needs most counts; what its command holds stays."""

    async def server(me: Port) -> None:
        await compute(needing(me, (70, 0), (30, 0), holds=5))
        await compute(needing(me, (60, 0)))

    world = World(server, memory=accounted())
    world.run()
    assert peaks(world) == {SERVER: (75, 0)}


def test_what_a_works_command_holds_stays_when_the_work_is_done() -> None:
    """5 bytes beside the 71 of the next work."""

    async def server(me: Port) -> None:
        await compute(needing(me, (70, 0), holds=5))
        await compute(needing(me, (71, 0)))

    world = World(server, memory=accounted())
    world.run()
    assert peaks(world) == {SERVER: (76, 1)}


def test_works_that_run_side_by_side_need_their_sum() -> None:
    """Two lanes hold both."""

    async def server(me: Port) -> None:
        await compute(needing(me, (70, 0)), needing(me, (50, 0)))

    world = World(server, lanes={SERVER: 2}, memory=accounted())
    world.run()
    assert peaks(world) == {SERVER: (120, 0)}


def test_what_a_forward_leaves_is_held_until_its_backward() -> None:
    """Two forwards before their backwards hold both residues, as a pipeline of micro-batches does."""

    async def server(me: Port) -> None:
        await compute(needing(me, (100, 80)))
        await compute(needing(me, (100, 80)))
        await compute(needing(me, (10, -80)))
        await compute(needing(me, (10, -80)))
        await compute(needing(me, (150, 0)))

    world = World(server, memory=accounted())
    world.run()
    assert peaks(world) == {SERVER: (180, 1)}


def test_commands_that_take_no_time_hold_and_let_go() -> None:
    """Opening a learner holds its weights, closing it lets go of them."""

    async def server(me: Port) -> None:
        me.command(Command(me.node, 1, "open", holds=300))
        me.command(Command(me.node, 1, "close", holds=-300))
        me.command(Command(me.node, 2, "open", holds=200))
        await sleep(1)

    world = World(server, memory=accounted())
    world.run()
    assert peaks(world) == {SERVER: (300, 0)}


def test_a_message_is_held_by_its_sender_until_it_has_arrived() -> None:
    """Two that are under way at once count twice; the next one, sent after the first has come, does not add."""

    async def server(me: Port) -> None:
        await send(0, Cargo(payload(400)))
        await sleep(1)
        await send(0, Cargo(payload(400)))
        await sleep(1.5)
        await send(0, Cargo(payload(400)))
        await sleep(5)

    world = World(server, network=Delay(2), memory=accounted())
    world.run()
    assert peaks(world)[SERVER] == (2 * CARGO, 1)


def test_a_broadcast_is_held_once() -> None:
    """The bytes of one message to three devices are one copy at the sender, and one at each receiver."""

    async def device(me: Port) -> None:
        await recv(Cargo)
        await send(SERVER, Done())

    async def server(me: Port) -> None:
        await broadcast(range(3), Cargo(payload(400)))
        await gather(range(3), Done)

    world = World(server, device, devices=3, network=Delay(2), memory=accounted())
    world.run()
    assert peaks(world) == {SERVER: (CARGO, 0), 0: (CARGO, 2), 1: (CARGO, 2), 2: (CARGO, 2)}


def test_a_broadcast_is_held_until_the_last_has_it() -> None:
    """Three devices that are 1, 2 and 3 s away."""
    accounts = accounted()
    held: list[int] = []

    class Farther(Delay):
        def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
            return now, now + (target + 1) * S

    async def server(me: Port) -> None:
        await broadcast(range(3), Cargo(payload(400)))
        for _ in range(4):
            await sleep(0.8)
            held.append(accounts.held(SERVER) - PROCESS)

    World(server, devices=3, network=Farther(), memory=accounts).run()
    assert held == [CARGO, CARGO, CARGO, 0]


def test_a_message_without_payload_takes_no_memory() -> None:
    """Neither where it comes from nor where it waits."""

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, Done())

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(5)
        await recv(Done)

    world = World(server, device, network=Delay(1), memory=accounted())
    world.run()
    assert peaks(world) == {}


def test_a_message_that_is_sent_again_while_it_is_under_way_is_held_once() -> None:
    """Until the last of its transfers is over, after 3 s, and then no more."""
    accounts = accounted()
    held: list[int] = []

    async def server(me: Port) -> None:
        cargo = Cargo(payload(400), sender=SERVER)
        await send(0, cargo)
        await sleep(1)
        await send(1, cargo)
        for _ in range(3):
            await sleep(0.75)
            held.append(accounts.held(SERVER) - PROCESS)

    world = World(server, devices=2, network=Delay(2), memory=accounts)
    world.run()
    assert held == [CARGO, CARGO, 0]
    assert peaks(world)[SERVER] == (CARGO, 0)


def test_messages_wait_in_the_receivers_memory_until_its_script_takes_them() -> None:
    """By a recv or by a poll."""

    async def device(me: Port) -> None:
        await recv(Go)
        for _ in range(3):
            await send(SERVER, Cargo(payload(400, node=0)))
        await sleep(4)
        await send(SERVER, Cargo(payload(400, node=0)))

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(3)  # three wait
        assert me.poll(Cargo) is not None
        await recv(Cargo)
        await sleep(3)  # one, and then another one
        await recv(Cargo)
        await recv(Cargo)

    world = World(server, device, network=Delay(1), memory=accounted())
    world.run()
    assert peaks(world)[SERVER] == (3 * CARGO, 2)
    ledger = world.memory
    assert ledger is not None
    assert [ledger.held(node) for node in (SERVER, 0)] == [PROCESS, PROCESS], "everything was let go of"


def test_a_run_that_needs_too_much_is_refused() -> None:
    """The error names the node, the moment, what it needs and may use, and the way out."""

    async def server(me: Port) -> None:
        await sleep(2)
        await compute(needing(me, (600, 0)))

    text = World(server, memory=accounted(1500)).fail(SimulatedOutOfMemory)
    assert text.startswith("the server is out of memory at 2 s: it needs 1.6 kB, but may use 1.5 kB; give it a smaller")


def test_a_shortage_may_only_be_recorded() -> None:
    """Once each time that the limit is passed; the run goes on."""

    async def server(me: Port) -> None:
        for _ in range(2):
            await compute(needing(me, (600, 200)))
            await compute(needing(me, (600, -200)))

    world = World(server, memory=accounted(1500), shortage=Shortage.RECORD)
    world.run()
    found = [mark for mark in map(Mark._make, world.trace.marks) if mark.name == "out_of_memory"]
    assert [(mark.time / 1e9, mark.value, mark.detail) for mark in found] == [
        (0, 1600, '{"usable": 1500}'),
        (1, 1800, '{"usable": 1500}'),
        (2, 1600, '{"usable": 1500}'),
        (3, 1800, '{"usable": 1500}'),
    ]
    assert world.end == 4


def test_all_that_a_node_may_use_is_no_shortage() -> None:
    """500 bytes beside a process of 1,000, where 1,500 may be used."""

    async def server(me: Port) -> None:
        await compute(needing(me, (500, 0)))

    world = World(server, memory=accounted(1500))
    world.run()
    assert peaks(world) == {SERVER: (500, 0)}


def test_a_shortage_that_lasts_is_recorded_once() -> None:
    """What is asked for beyond the limit while it is passed makes no further mark."""

    async def server(me: Port) -> None:
        await compute(needing(me, (600, 600)))
        await compute(needing(me, (50, 0)))

    world = World(server, memory=accounted(1500), shortage=Shortage.RECORD)
    world.run()
    assert world.marks("out_of_memory") == [("out_of_memory", SERVER, 0)]
    assert peaks(world) == {SERVER: (650, 1)}


@pytest.mark.parametrize("where", ["work", "command", "send", "arrival"])
def test_a_device_without_memory_may_leave(where: str) -> None:
    """In whatever it asks for the memory; the server is told, and the rest go on."""

    async def device(me: Port) -> None:
        await recv(Go if where != "arrival" else Cargo)
        if me.node == 1:
            match where:
                case "work":
                    await compute(needing(me, (600, 0)))
                case "command":
                    me.command(Command(me.node, 1, "open", holds=600))
                    await compute(work(me, 1.0))
                case "send":
                    await send(SERVER, Cargo(payload(600, node=1)))
                case _:
                    pass
        await compute(work(me, 2.0))
        await send(SERVER, Done())

    heard: list[Message] = []

    async def server(me: Port) -> None:
        for k in range(2):
            await send(k, Cargo(payload(600 if k else 40)) if where == "arrival" else Go())
        while len(heard) < 2:
            heard.append(await recv(Done, Disconnected))

    ledger = accounted(1500, server=10**9 if where == "arrival" else None)
    world = World(server, device, devices=2, memory=ledger, shortage=Shortage.LEAVE)
    world.run()
    assert {type(message).__name__: message.sender for message in heard} == {"Disconnected": 1, "Done": 0}
    assert [mark[:2] for mark in world.marks("out_of_memory", "leave")] == [("out_of_memory", 1), ("leave", 1)]


def test_a_server_without_memory_ends_the_run() -> None:
    """It cannot leave."""

    async def server(me: Port) -> None:
        await compute(needing(me, (600, 0)))

    World(server, memory=accounted(1500), shortage=Shortage.LEAVE).fail(
        SimulatedOutOfMemory, "the server is out of memory at 0 s"
    )


def test_a_device_that_leaves_holds_nothing() -> None:
    """Neither what it computed with nor what waited for it; when it returns it begins with its process alone."""

    async def device(me: Port) -> None:
        await recv(Cargo)
        await compute(needing(me, (500, 100)))
        await compute(needing(me, (500, -100)))

    async def server(me: Port) -> None:
        await send(0, Cargo(payload(400)))
        await recv(Disconnected)
        await sleep(1)
        await send(0, Cargo(payload(400)))
        await sleep(5)

    world = World(server, device, faults=[Fault(device=0, leave=1.5, back=2)], memory=accounted())
    world.run()
    assert peaks(world)[0] == (600, 1)
    ledger = world.memory
    assert ledger is not None
    assert ledger.held(0) == PROCESS


def test_what_is_lost_on_the_way_is_let_go_of() -> None:
    """The sender that stays no longer holds a message whose receiver left; one that left holds nothing."""

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, Cargo(payload(400, node=0)))
        await sleep(9)

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(2)
        await send(0, Cargo(payload(400)))
        await sleep(9)

    world = World(server, device, network=Delay(2), faults=[Fault(device=0, leave=3)], memory=accounted())
    world.simulation.run()
    ledger = world.memory
    assert ledger is not None
    assert {outcome for *_, outcome in world.transfers() if outcome != "delivered"} == {"sender left", "receiver left"}
    assert [ledger.held(node) for node in (SERVER, 0)] == [PROCESS, PROCESS]


def test_a_recorded_device_comes_and_goes() -> None:
    """Its times are drawn one after the other, as it comes back."""
    drawn = []

    def times() -> Any:
        for leave in (1.0, 4.0, 7.0):
            drawn.append(leave)
            yield Fault(device=0, leave=leave, back=leave + 1)

    async def server(me: Port) -> None:
        await sleep(4.5)

    world = World(server, churn={0: times()})
    world.run()
    assert world.marks("leave", "return") == [("leave", 0, 1), ("return", 0, 2), ("leave", 0, 4)]
    assert drawn == [1.0, 4.0]


def test_a_device_that_is_away_at_the_start_is_not_there_from_the_first_instant() -> None:
    """The server finds it absent before it does anything, and hears of its return."""
    seen: list[object] = []

    async def server(me: Port) -> None:
        seen.append(set(me.absent))
        seen.append((await recv(Connected)).device)
        seen.append(me.now)

    world = World(server, devices=2, churn={1: iter([Fault(device=1, leave=0.0, back=3.0)])})
    world.run()
    assert seen == [{1}, 1, 3]
    assert world.marks("leave", "return") == [("leave", 1, 0), ("return", 1, 3)]
