"""Receiving: by class, source, rank and time limit; polling; who is told what."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from fedsim.errors import ScriptError
from fedsim.script import SERVER, Message, Port, Role, Timeout, broadcast, compute, gather, recv, send, sleep
from tests.simulation.toys import Ask, Delay, Done, Go, World, work


def answering(*numbers: int, kind: type[Done] | type[Ask] = Done) -> Any:
    """A device that answers its first message with messages of these numbers, at once."""

    async def device(me: Port) -> None:
        await recv(Go)
        for number in numbers:
            await send(SERVER, kind(number))

    return device


def test_messages_of_one_sender_come_in_order() -> None:
    """A network that keeps order is read in order, however late the script looks."""
    got = []

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(5)
        for _ in range(4):
            got.append((await recv(Done)).number)

    World(server, answering(3, 1, 4, 1), network=Delay(1)).run()
    assert got == [3, 1, 4, 1]


def test_a_network_may_overtake() -> None:
    """The engine adds no order of its own: what arrives first is received first."""
    delays = iter([0, 3, 1])

    class Overtaking(Delay):
        def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
            return now, now + next(delays)

    got = []

    async def server(me: Port) -> None:
        await send(0, Go())
        for _ in range(2):
            got.append((await recv(Done)).number)

    World(server, answering(1, 2), network=Overtaking()).run()
    assert got == [2, 1]


def test_other_classes_and_other_senders_stay_in_the_mailbox() -> None:
    """A script waits for what it named; the rest is there when it is asked for."""
    got = []

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, Ask(me.node))
        await sleep(1 + me.node)
        await send(SERVER, Done(me.node))

    async def server(me: Port) -> None:
        await broadcast(range(3), Go())
        got.append(await recv(Done, source=2))
        assert me.now == 3
        for _ in range(2):
            got.append(await recv(Done))
        for node in (1, 0, 2):
            got.append(await recv(Ask, source=node))

    World(server, device, devices=3).run()
    assert got == [
        Done(2, sender=2),
        Done(0, sender=0),
        Done(1, sender=1),
        Ask(1, sender=1),
        Ask(0, sender=0),
        Ask(2, sender=2),
    ]


def test_by_takes_the_lowest_of_those_that_wait() -> None:
    """Equal keys go by arrival; a message that comes while the script waits is taken whatever its key."""
    got = []

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(1)
        for _ in range(4):
            got.append((await recv(Done, by=lambda m: m.number // 10)).number)
        await send(1, Go())
        got.append((await recv(Done, by=lambda m: m.number)).number)

    World(server, answering(31, 12, 11, 30), devices=2).run()
    assert got == [12, 11, 31, 30, 31]


def test_a_time_limit_ends_the_wait_and_leaves_the_message() -> None:
    """`Timeout` at `until`, to the nanosecond; the message that comes later is not lost."""

    async def server(me: Port) -> None:
        await send(0, Go())
        assert await recv(Done, until=1.5) == Timeout()
        assert me.now == 1.5
        assert await recv(Done, until=9) == Done(7, sender=0)
        assert me.now == 2

    world = World(server, answering(7), network=Delay(1))
    world.run()
    assert world.waits(SERVER) == [(0, 1.5, "contribution"), (1.5, 2, "contribution")]
    assert [w.message for w in world.all_waits(SERVER)] == [-1, 2]


@pytest.mark.parametrize("until", [2, 1, 0, -5, -math.inf])
def test_a_time_limit_in_the_past_times_out_at_once(until: float) -> None:
    """No time passes, and what waits is still given first."""

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(2)
        assert await recv(Done, until=until) == Done(1, sender=0)
        assert await recv(Done, until=until) == Timeout()
        assert me.now == 2

    World(server, answering(1)).run()


def test_a_time_limit_that_never_comes_is_none() -> None:
    """Infinity, and what lies beyond the clock's end."""

    async def server(me: Port) -> None:
        await send(0, Go())
        assert await recv(Done, until=math.inf) == Done(1, sender=0)
        assert await recv(Done, until=1e300) == Done(2, sender=0)

    World(server, answering(1, 2)).run()


def test_a_time_limit_that_is_no_number_is_an_error() -> None:
    """NaN compares with nothing, so it would never come."""

    async def server(me: Port) -> None:
        await recv(Done, until=math.nan)

    World(server).fail(ScriptError, "not a number")


def test_a_wait_that_ended_is_not_ended_again_by_its_time_limit() -> None:
    """The timer of an earlier wait must not touch a later wait of the same classes, nor a sleep."""

    async def server(me: Port) -> None:
        await send(0, Go())
        assert await recv(Done, until=3) == Done(1, sender=0)
        await recv(Ask, until=2)
        assert me.now == 2
        await sleep(4)
        assert me.now == 6
        assert await recv(Done, until=8) == Timeout()
        assert me.now == 8

    World(server, answering(1), network=Delay(0.5)).run()


@pytest.mark.parametrize("first", ["message", "timer"])
def test_a_message_and_a_time_limit_of_one_instant_go_by_their_order(first: str) -> None:
    """Whichever was begun first happens first; the other one does no harm."""

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, Done())

    async def server(me: Port) -> None:
        await send(0, Go())
        if first == "message":
            await sleep(1.5)  # the answer is under way
            assert await recv(Done, until=2) == Done(sender=0)
        else:
            assert await recv(Done, until=2) == Timeout()
            assert await recv(Done) == Done(sender=0)
        assert me.now == 2
        assert await recv(Done, until=3) == Timeout()
        assert me.now == 3

    World(server, device, network=Delay(1)).run()


def test_polling_takes_no_time_and_takes_the_first() -> None:
    """`poll` gives what waits, else nothing; no classes, no message."""

    async def server(me: Port) -> None:
        assert me.poll(Done) is None
        await send(0, Go())
        await sleep(1)
        assert me.poll() is None
        assert me.poll(Ask) is None
        assert me.poll(Ask, Done) == Done(4, sender=0)
        assert me.poll(Done) == Done(5, sender=0)
        assert me.poll(Done) is None

    World(server, answering(4, 5)).run()


def test_the_sender_is_filled_in_on_a_copy() -> None:
    """A message is a value: one object may be sent by many, and passed on under a new sender."""
    shared = Done(5)

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, shared)

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        first, second = await recv(Done), await recv(Done)
        assert (first.sender, second.sender, shared.sender) == (0, 1, -2)
        await send(1, first)

    world = World(server, device, devices=2)
    world.run()
    assert world.transfers()[-1][1:3] == (SERVER, 1)


@dataclass(frozen=True)
class Loose(Message):
    """A message class whose fields live in a dictionary."""

    role: ClassVar[Role] = Role.CONTROL
    text: str
    more: int = 3


def test_a_message_class_without_slots_is_copied_whole() -> None:
    """Whatever was given and whatever has a default."""

    async def server(me: Port) -> None:
        await send(SERVER, Loose("here", more=4))
        assert await recv(Loose) == Loose("here", 4, sender=SERVER)

    World(server).run()


def test_gather_returns_messages_by_node_number() -> None:
    """In whatever order they come; a second message of the same node is not counted."""

    async def device(me: Port) -> None:
        await recv(Go)
        await sleep(3 - me.node)
        await send(SERVER, Done(me.node))
        await send(SERVER, Done(99))

    async def server(me: Port) -> None:
        await broadcast(range(3), Go())
        assert await gather(range(3), Done) == [Done(k, sender=k) for k in range(3)]
        assert me.now == 3

    World(server, device, devices=3).run()


def test_gather_into_a_collector_keeps_no_message() -> None:
    """It answers with the nodes that delivered, sorted."""

    class Sum:
        total = 0

        def add(self, message: Done) -> None:
            self.total += message.number

    async def server(me: Port) -> None:
        await broadcast((1, 0), lambda k: Go(10 * k))
        total = Sum()
        assert await gather((1, 0), Done, into=total) == [0, 1]
        assert total.total == 10
        assert await gather((), Done) == []

    async def device(me: Port) -> None:
        await send(SERVER, Done((await recv(Go)).number))

    World(server, device, devices=2).run()


def test_broadcast_sends_one_message_to_all_or_makes_one_for_each() -> None:
    """One `Send` with many targets, or one a target; nobody is nobody."""
    got = []

    async def device(me: Port) -> None:
        got.append((await recv(Go)).number)
        got.append((await recv(Go)).number)

    async def server(me: Port) -> None:
        await broadcast(range(3), Go(5))
        await broadcast((k for k in range(3)), Go)
        await broadcast((), Go())
        await sleep(1)

    world = World(server, device, devices=3)
    world.run()
    assert sorted(got) == [0, 1, 2, 5, 5, 5]
    assert len(world.transfers()) == 6


def test_a_wait_names_its_roles_its_source_and_the_message_that_ended_it() -> None:
    """What reports attribute idle time by."""

    async def device(me: Port) -> None:
        await recv(Go)
        await compute(work(me, 2))
        await send(SERVER, Done())

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done, Ask, source=0)
        await recv(Ask, Done, Ask, until=4)

    world = World(server, device)
    world.run()
    first, second = world.all_waits(SERVER)
    assert (first.awaited, first.source, first.message) == ("contribution|credit", 0, 2)
    assert (second.awaited, second.source, second.message) == ("credit|contribution", -2, -1)


def test_what_comes_to_a_device_that_has_ended_is_delivered_to_nobody() -> None:
    """Its bytes arrived; no script is woken."""

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done)
        await send(0, Go())
        await sleep(1)

    world = World(server, answering(1))
    world.run()
    assert world.transfers()[-1][-1] == "delivered"
    assert world.marks("end") == [("end", 0, 0), ("end", SERVER, 1)]


@pytest.mark.parametrize("nodes", [(0, 1), (1, 0)])
def test_two_devices_may_talk_where_the_network_lets_them(nodes: tuple[int, int]) -> None:
    """The engine has no rule on who talks to whom; a device starts at whoever's first message."""
    one, other = nodes

    async def device(me: Port) -> None:
        if me.node == one:
            await recv(Go)
            await send(other, Ask())
        else:
            await send(SERVER, Done((await recv(Ask)).sender))

    async def server(me: Port) -> None:
        await send(one, Go())
        assert await recv(Done) == Done(one, sender=other)

    World(server, device, devices=2).run()


def test_a_key_that_fails_is_the_scripts_error() -> None:
    """The exception of a `by` passes through as it is."""
    missing: dict[int, int] = {}
    key: Callable[[Done], Any] = lambda m: missing[m.number]  # noqa: E731

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(1)
        await recv(Done, by=key)

    World(server, answering(1, 2)).fail(KeyError, "1")


def test_a_key_of_an_earlier_wait_is_not_asked_about_later_messages() -> None:
    """A closure over last round's state may not know who sends now."""

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(1)
        scores = {0: 1.0}
        await recv(Done, by=lambda m: scores[m.sender])
        await send(1, Go())
        await sleep(1)
        assert (await recv(Done)).sender == 0
        assert (await recv(Done)).sender == 1

    World(server, answering(1, 2), devices=2).run()


def test_a_message_stays_from_its_arrival_until_the_script_takes_it() -> None:
    """By recv, poll or drop; to the end of its script where nobody takes it.

    One that is awaited, or is taken the moment it comes, has no stay.
    """

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done)  # 0: it was awaited
        await sleep(4)
        assert me.poll(Done) is not None  # 1
        await sleep(1)
        await recv(Done)  # 2
        for message in me.arrived(Ask):
            me.drop(message)
        await sleep(1)  # 4 lies here to the end

    async def device(me: Port) -> None:
        await recv(Go)
        for number in range(3):
            await send(SERVER, Done(number))
        await send(SERVER, Ask(3))
        await send(SERVER, Done(4))

    world = World(server, device, network=Delay(1))
    world.run()
    numbers = {transfer.number: transfer.message for transfer in world.all_transfers()}
    stays = [(start / 1e9, end / 1e9, node) for node, start, end, _ in world.trace.stays]
    assert stays == [(2, 6, SERVER), (2, 7, SERVER), (2, 7, SERVER), (2, 8, SERVER)]
    assert [numbers[number] for *_, number in world.trace.stays] == ["Done", "Done", "Ask", "Done"]
