"""Rules of scripts that are broken: what is said, and where; deadlocks."""

from __future__ import annotations

import asyncio
import inspect
import re
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from fedsim.errors import Deadlock, RunError, ScriptError
from fedsim.script import SERVER, Compute, Evaluate, Message, Port, broadcast, compute, gather, recv, send, sleep
from fedsim.simulation import Fault, Limits
from tests.simulation.toys import Ask, AtOnce, Diary, Done, Go, World, payload, work


def line_of(text: str) -> int:
    """The line of this file that holds `text` in quotes-free form, marked by a comment."""
    lines = inspect.getsource(inspect.getmodule(line_of) or line_of).splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith(f"# {text}"))


@types.coroutine
def bare() -> Generator[object, None, None]:
    """What older libraries await: a generator that yields something of its own."""
    yield "something"


class Custom:
    """An awaitable of somebody else's."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield 42


def future() -> Awaitable[Any]:
    """A future of an event loop that does not run."""
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


FOREIGN: list[tuple[Callable[[], Awaitable[Any]], str]] = [
    (lambda: asyncio.sleep(0), "NoneType"),
    (future, "Future"),
    (bare, "str"),
    (Custom, "int"),
]


@pytest.mark.parametrize(("make", "kind"), FOREIGN, ids=["asyncio.sleep", "future", "generator", "custom"])
def test_a_foreign_awaitable_is_refused_where_the_script_awaits_it(
    make: Callable[[], Awaitable[Any]], kind: str
) -> None:
    """The error names its type, file and line."""

    async def server(me: Port) -> None:
        await sleep(1)
        await make()  # awaits something foreign

    said = World(server).fail(ScriptError, f"not a fedsim effect \\({kind}\\)")
    assert f"test_misuse.py:{line_of('awaits something foreign')} in server" in said


@pytest.mark.parametrize(("make", "kind"), FOREIGN, ids=["asyncio.sleep", "future", "generator", "custom"])
def test_a_foreign_awaitable_in_a_helper_is_refused_with_the_way_to_it(
    make: Callable[[], Awaitable[Any]], kind: str
) -> None:
    """Each coroutine on the way is named, the script first."""

    async def innermost() -> None:
        await make()  # innermost await

    async def helper() -> None:
        await innermost()  # await of a helper

    async def device(me: Port) -> None:
        await recv(Go)
        await helper()  # await of a script

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done)

    said = World(server, device).fail(ScriptError, kind)
    way = [("await of a script", "device"), ("await of a helper", "helper"), ("innermost await", "innermost")]
    found = re.findall(r"test_misuse\.py:(\d+) in (\w+)", said)
    assert found == [(str(line_of(comment)), name) for comment, name in way]


def test_asyncio_sleep_with_a_duration_fails_by_itself() -> None:
    """There is no running event loop; the traceback shows the script."""

    async def server(me: Port) -> None:
        await asyncio.sleep(1)

    World(server).fail(RuntimeError, "no running event loop")


@pytest.mark.parametrize("target", [3, 99, -2, -4, 10**30])
def test_a_message_to_a_node_that_does_not_exist_is_an_error(target: int) -> None:
    """Also for negative numbers, which a list would take from its end."""

    async def server(me: Port) -> None:
        await broadcast((0, target), Go())  # sends to nobody

    said = World(server, devices=3).fail(
        ScriptError, f"the server sends Go to node {target}; devices are numbered 0 to 2"
    )
    assert f"test_misuse.py:{line_of('sends to nobody')} in server" in said


def test_work_of_another_node_is_an_error() -> None:
    """A work touches its own node's state only."""

    async def server(me: Port) -> None:
        await compute(work(0, 1, method="train"))

    World(server).fail(ScriptError, "the server computes train, which is work of device 0")


def test_work_without_parts_is_an_error() -> None:
    """It would cost nothing; also beside works that have some."""

    async def server(me: Port) -> None:
        await compute(work(me, 1), work(me, method="mix"))

    World(server).fail(ScriptError, "the server computes mix, which has no parts and so no cost")


def test_compute_of_nothing_is_an_error() -> None:
    """Only possible with an effect made by hand."""

    async def server(me: Port) -> None:
        await Compute((), single=False)

    World(server).fail(ScriptError, "computes nothing")


def test_an_error_of_the_price_passes_through() -> None:
    """A missing cost is an error of the run, never 0 s."""

    def unpriced(node: int, cost: object, start: int) -> int:
        raise RunError("work without a cost")

    async def server(me: Port) -> None:
        await compute(work(me, 1))

    World(server, price=unpriced).fail(RunError, "work without a cost")


def test_an_error_of_the_network_names_the_scripts_line() -> None:
    """A network that refuses a connection knows no scripts; the engine adds where it was."""

    class Refusing(AtOnce):
        def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
            raise ScriptError("no such connection")

    async def server(me: Port) -> None:
        await send(0, Go())

    assert "in server" in World(server, network=Refusing()).fail(ScriptError, "no such connection")


def test_receiving_nothing_is_an_error() -> None:
    """No message would ever end it."""

    async def server(me: Port) -> None:
        await cast(Any, recv)()

    World(server).fail(ScriptError, "recv of nothing")


@dataclass(frozen=True, slots=True)
class Roleless(Message):
    """A message class that forgot its role."""


@pytest.mark.parametrize(
    ("thing", "said"),
    [(Roleless(), "Roleless declares no role"), ("hello", "str is no message class"), (None, "NoneType is no message")],
)
def test_what_is_no_message_cannot_be_sent(thing: Any, said: str) -> None:
    """Reports need roles, the wire needs fields."""

    async def server(me: Port) -> None:
        await send(0, thing)

    World(server).fail(ScriptError, said)


def test_what_is_no_message_class_cannot_be_received() -> None:
    """The base class matches nothing, since classes are compared exactly."""

    async def server(me: Port) -> None:
        await recv(Message)

    World(server).fail(ScriptError, "Message declares no role")


def test_a_script_that_is_no_coroutine_is_an_error() -> None:
    """A plain function, and an `async def` with a `yield` in it."""

    async def generator(me: Port) -> AsyncIterator[int]:
        yield 1

    def plain(me: Port) -> None:
        return None

    for script, kind in ((generator, "async_generator"), (plain, "NoneType")):
        World(cast(Any, script)).fail(ScriptError, f"the script of the server is no coroutine but of type {kind}")


def test_a_script_that_evaluates_without_learning_is_an_error() -> None:
    """`Evaluate` needs values."""

    async def server(me: Port) -> None:
        await Evaluate((payload(4),))

    World(server).fail(ScriptError, "learning is off")


def test_evaluate_takes_no_time_and_answers_with_the_quality() -> None:
    """On the validation data, unless told otherwise; nothing is marked."""

    async def server(me: Port) -> None:
        await sleep(1)
        assert (await Evaluate((payload(4),))).accuracy == 0.25
        assert me.now == 1

    world = World(server, workers=Diary([0.25]))
    world.run()
    assert world.workers.evaluated[0][1] == "validation"
    assert world.marks("evaluate") == []


# ------------------------------------------------------------------------------------------- deadlocks


def test_a_deadlock_says_who_waits_for_what() -> None:
    """Every waiting node with its classes, source, since when, and what its inbox holds; and the others in numbers."""

    async def device(me: Port) -> None:
        await recv(Go)
        if me.node == 2:
            return
        await send(SERVER, Ask())
        await send(SERVER, Ask())
        await send(SERVER, Done())
        await recv(Go, Ask, source=SERVER)

    async def server(me: Port) -> None:
        await send(1, Go())
        await send(2, Go())
        await send(3, Go())
        await sleep(2.5)
        await recv(Go)

    said = World(server, device, devices=6, faults=[Fault(device=3, leave=1)]).fail(Deadlock)
    assert said.splitlines() == [
        "deadlock at 2.5 s: every script waits and no message is under way",
        "  the server waits for Go since 2.5 s; inbox: 4 Ask, 1 Disconnected, 2 Done",
        "  device 1 waits for Go or Ask from the server since 0 s; inbox: nothing",
        "  devices that have not been sent a message: 3",
        "  devices that have left and not come back: 1",
        "  devices that have come to the end of their scripts: 1",
    ]


def test_a_long_deadlock_is_cut() -> None:
    """Twenty lines and how many more there are."""

    async def device(me: Port) -> None:
        while True:
            await recv(Go)

    async def server(me: Port) -> None:
        await broadcast(range(100), Go())
        await recv(Done)

    said = World(server, device, devices=100).fail(Deadlock)
    assert len(said.splitlines()) == 22
    assert said.endswith("  and 81 more")


def test_evaluations_to_come_do_not_hide_a_deadlock() -> None:
    """Ticks go on for ever and wake nobody."""

    async def server(me: Port) -> None:
        me.publish(1, (payload(4),))
        await sleep(2.5)
        await recv(Done)

    world = World(server, limits=Limits(every=1, time=100), workers=Diary([0.5]))
    assert "deadlock at 2.5 s" in world.fail(Deadlock)
    assert world.marks("evaluate") == [("evaluate", SERVER, 1), ("evaluate", SERVER, 2)]
    assert world.end == 2.5


def test_timers_of_waits_that_are_over_do_not_hide_a_deadlock() -> None:
    """A time limit of next year that is no longer needed keeps nothing alive, nor does a sleeper that has left."""

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, Done())
        if me.node:
            await sleep(3e7)
        await compute(work(me, 3e7))

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await recv(Done, until=3e7)
        await recv(Ask)

    faults = [Fault(device=0, leave=2), Fault(device=1, leave=3)]
    world = World(server, device, devices=2, limits=Limits(every=1), faults=faults)
    assert "deadlock at 3 s" in world.fail(Deadlock)


def test_gather_of_a_device_that_never_answers_is_a_deadlock() -> None:
    """The text names the classes that `gather` waits for."""

    async def server(me: Port) -> None:
        await gather([0], Done)

    assert "waits for Done or Disconnected" in World(server).fail(Deadlock)
