"""A journal, entry by entry: what a script is given on the wall clock it is given again, or it is told why not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fedsim.costs import Cost
from fedsim.emulation.driver import Driver, Life
from fedsim.emulation.exchange import Terms
from fedsim.emulation.pacing import Pacer
from fedsim.emulation.records.journal import Journal, pasts
from fedsim.emulation.records.recording import Notes, merged, read
from fedsim.emulation.records.replay import Replayed, replay
from fedsim.errors import RunError
from fedsim.runtime.envelopes import Parcel
from fedsim.script import (
    SERVER,
    Command,
    Compute,
    Connected,
    Disconnected,
    Evaluate,
    Message,
    Part,
    Payload,
    Quality,
    Role,
    Work,
    recv,
    send,
    sleep,
)
from fedsim.wire.refusals import Bounds
from tests.emulation.clocks import FakeClock

TERMS_BOUNDS = Bounds(body=1 << 20, memory=1 << 20)


@dataclass(frozen=True, slots=True)
class Note(Message):
    """A number."""

    role: ClassVar[Role] = Role.CONTROL
    value: int


class Doing:
    """A host that notes what it does; a work may have something else happen in the middle of it."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.done: list[str] = []
        self._meanwhile = meanwhile

    def run(self, command: Command) -> None:
        """Note it."""
        self.done.append(command.method)
        self._meanwhile()

    def forget(self, node: int) -> None:
        """Note it."""
        self.done.append(f"forget {node}")

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """As bad as can be."""
        return Quality(1 / 3, math.inf, 5)

    def outgoing(self, payload: Payload, reader: int) -> Any:
        """There are no values here."""
        raise AssertionError

    def incoming(self, values: Mapping[Payload, Any]) -> None:
        """There are none."""
        assert not values

    def layout_of(self, meta: Any) -> Any:
        """There are none."""
        raise AssertionError


class Sink:
    """Numbers messages from one on, in steps of two, and answers with how its connections are."""

    def __init__(self, first: int, connections: Sequence[int] = ()) -> None:
        self._next = first
        self._connections = list(connections)

    def number(self) -> int:
        """The next one."""
        self._next += 2
        return self._next - 2

    def send(self, number: int, target: int, message: Message, parcel: Parcel, queued: int) -> int | None:
        """Lose it."""
        return self._connections.pop(0) if self._connections else None


def driven(node: int, notes: Notes, clock: FakeClock, post: Sink, host: Doing, life: int = 1) -> Driver:
    """A driver with a journal."""
    return Driver(
        node,
        trace=notes.trace,
        clock=clock,
        pacer=Pacer(),
        price=lambda node, cost, start: 1000,
        lanes=1,
        host=host,
        post=post,
        journal=Journal(notes.given, node, life),
    )


def work(method: str) -> Work[str]:
    """A work that answers with its name."""
    return Work(Command(0, 0, method), (Part("train", Cost(())),), method)


async def speaks(port: Any) -> None:
    """Device 0: three notes."""
    for value in (10, 20, 30):
        await send(SERVER, Note(value))


class Asks:
    """A script of the server that asks for everything there is, and keeps what it was given."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    async def __call__(self, port: Any) -> None:
        """Ask."""
        await sleep(1.0)
        self.log.append(port.now)
        first, *_ = seen = port.arrived(Note)
        self.log.append(seen)
        port.drop(first)
        self.log += [port.poll(Note), port.poll(Note)]
        port.drop(first)
        self.log.append(await recv(Note, until=2.0))
        self.log.append(port.absent)
        self.log.append(await recv(Note, Disconnected))
        self.log.append(port.absent)
        self.log.append(await recv(Note, source=0))
        self.log += [port.arrived(Note), port.poll(Connected), port.absent]
        self.log.append(await Evaluate(()))
        self.log.append(port.outgoing(Note))
        await send(0, Note(1))
        self.log.append(port.outgoing(Note))


def recorded(path: Path | None = None) -> tuple[list[list[Any]], Asks]:
    """The notes of both nodes, and what the server was given."""
    clock, device, server = FakeClock(), Notes(), Notes(path)
    assert driven(0, device, clock, Sink(1), Doing()).run(speaks, at_once=True) is Life.RETURNED
    asks, clock = Asks(), FakeClock()
    driver = driven(SERVER, server, clock, Sink(2), Doing())
    for moment, number, message in (
        (0.5, 1, Note(10, sender=0)),
        (0.6, 3, Note(20, sender=0)),
        (2.5, -1, Disconnected(0, sender=0)),
        (2.6, 5, Note(30, sender=0)),
        (2.6, -1, Connected(0, sender=0)),
    ):
        clock.plan(int(moment * 1e9), lambda m=message, n=number: driver.deliver(m, n, clock.now()))  # type: ignore[misc]
    assert driver.run(asks, at_once=True) is Life.RETURNED
    server.close()
    return device.rows() + server.rows(), asks


def again(rows: Any, server: Any, device: Any = speaks, host: Doing | None = None) -> Replayed:
    """A replay of two nodes."""
    hosts = {SERVER: Doing(), 0: host or Doing()}
    return replay(rows, {SERVER: server, 0: device}, hosts, Terms((Note,), TERMS_BOUNDS, False, True))


def test_everything_that_a_script_can_ask_is_answered_as_before(tmp_path: Path) -> None:
    """From plain JSON, in whatever order; the trace takes no notice of it."""
    rows, before = recorded(tmp_path / "notes.jsonl")
    assert Quality(1 / 3, math.inf, 5) in before.log
    written = list(read(tmp_path / "notes.jsonl"))
    assert sorted(map(json.dumps, written)) == sorted(json.dumps(row) for row in rows if row[1] == SERVER)
    after = Asks()
    again([row for row in rows if row[1] == 0] + written[::-1] + written, after)
    assert after.log == before.log
    assert not merged(rows, (), {}, 10**12).transfers


def given(notes: Any, what: str, change: Callable[[list[Any]], Any], node: int = SERVER) -> list[list[Any]]:
    """The notes with the value of the first such entry that has one changed."""
    rows: list[list[Any]] = [list(row) for row in notes]
    found = next(row for row in rows if row[0] == "given" and row[1] == node and row[5] == what and row[6] is not None)
    found[:] = change(found)
    return rows


def to(value: Any) -> Callable[[list[Any]], list[Any]]:
    """Another value."""
    return lambda row: [*row[:6], value]


async def brief(port: Any) -> None:
    """Returns at once."""


async def hasty(port: Any) -> None:
    """Does not sleep first."""
    port.poll(Note)


async def strange(port: Any) -> None:
    """Awaits a message first."""
    await recv(Note)


async def mute(port: Any) -> None:
    """Sends to nobody."""
    await sleep(0.0)


class AsksOn(Asks):
    """Goes on where the other has returned."""

    async def __call__(self, port: Any) -> None:
        """Ask, and sleep."""
        await super().__call__(port)
        await sleep(1.0)


@pytest.mark.parametrize(
    ("tamper", "server", "device", "message"),
    [
        (lambda r: given(r, "recv", to(99)), Asks(), speaks, "nobody has sent message 99, nor is anything left"),
        (lambda r: given(r, "poll", to(2)), Asks(), speaks, "nobody has sent message 2,"),
        (lambda r: given(r, "recv", to([-1, "Connected", 0, 0])), Asks(), speaks, "that is Connected of device 0, and"),
        (lambda r: given(r, "arrived", to(["Other", []])), Asks(), speaks, "asks which Note have come"),
        (lambda r: given(r, "outgoing", to(["Other", 1])), Asks(), speaks, "asks how many Note are under way"),
        (lambda r: given(r, "drop", to(3)), Asks(), speaks, "says drop 3 at effect 1, but the script drops Note of"),
        (lambda r: given(r, "send", to([2, 4])), Asks(), speaks, "the script sends 1 copies of Note"),
        (lambda r: given(r, "now", lambda row: [*row[:5], "then", 1.0]), Asks(), speaks, "'then' in entry 1, which"),
        (lambda r: given(r, "now", lambda row: [*row[:5], "begin", None]), Asks(), speaks, "'begin' as entry 1;"),
        (lambda r: [row for row in r if row[5:6] != ["now"]], Asks(), speaks, "has no entry 1, but later ones"),
        (lambda r: [*r, *given(r, "now", to(7.0))], Asks(), speaks, "has two entries 1 that differ"),
        (lambda r: [row for row in r if row[:2] != ["given", SERVER]], Asks(), speaks, "no journal of the server"),
        (lambda r: [*r, ["given", 7, 1, 0, 0, "begin", None]], Asks(), speaks, "it has device 7, for which there is"),
        (lambda r: [row for row in r if row[:2] != ["given", SERVER] or row[3] < 6], Asks(), speaks,
         "entry 6 of the journal of the server, life 1, has nothing more, but the script goes on"),
        (lambda r: r, brief, speaks, "entry 1 .* says now 1.0 at effect 1, but the script returns, at effect 0"),
        (lambda r: r, hasty, speaks, "says now 1.0 at effect 1, but the script polls Note, at effect 0 .*in hasty"),
        (lambda r: r, strange, speaks, "says now 1.0 at effect 1, but the script awaits Note, at .*in strange"),
        (lambda r: r, AsksOn(), speaks, "says end .'RETURNED', 0. at effect .*, but the script awaits Sleep"),
        (lambda r: r, Asks(), mute, "says send .1. at effect 1, but the script returns"),
    ],
)  # fmt: skip
def test_a_journal_of_something_else_is_refused(tamper: Any, server: Any, device: Any, message: str) -> None:
    """With the node, the entry, what it says and what the script did."""
    rows, _ = recorded()
    with pytest.raises(RunError, match=message):
        again(tamper([list(row) for row in rows]), server, device)


async def works(port: Any) -> None:
    """Two works at a time, for ever."""
    for value in range(100):
        await Compute((work("one"), work("two")), single=False)
        await send(SERVER, Note(value))


async def listens(port: Any) -> None:
    """The server: one note."""
    await recv(Note)


def test_a_life_ends_in_the_work_in_which_it_was_stopped() -> None:
    """What was done of it is done again, nothing more; the next life begins with nothing, in the same order."""
    notes, clock = Notes(), FakeClock()
    drivers: list[Driver] = []

    def stop() -> None:
        if len(host.done) % 4 == 3:  # in the first work of every second pair
            drivers[-1].stop()

    host = Doing(stop)
    for life in (1, 2):
        drivers.append(driven(0, notes, clock, Sink(life), host, life))
        assert drivers[-1].run(works, at_once=True) is Life.STOPPED
    assert host.done == ["one", "two"] * 4
    server = Notes()
    reader = driven(SERVER, server, clock, Sink(2), Doing())
    reader.deliver(Note(0, sender=0), 2, 0)
    reader.run(listens, at_once=True)
    replaying = Doing()
    found = again(notes.rows() + server.rows(), listens, works, replaying)
    assert replaying.done == [*host.done[:4], "forget 0", *host.done[4:]]
    assert found.works[0] == tuple(host.done)


def test_the_journal_of_a_device_that_has_crashed_is_played_as_far_as_it_goes() -> None:
    """A process that is killed writes no end."""
    rows, before = recorded()
    cut = [row for row in rows if not (row[0] == "given" and row[1] == 0 and row[5] == "end")]
    after = Asks()
    again(cut, after)
    assert after.log == before.log


def test_connections_are_noted_where_they_change() -> None:
    """Nothing is, for the first one; a message that is lost at once has none, and is not there in a replay."""
    notes = Notes()
    driven(0, notes, FakeClock(), Sink(1, [1, 0, 2]), Doing()).run(speaks, at_once=True)
    (life,) = pasts(notes.rows())[0]
    said = [(entry.what.value, entry.value) for entry in life.entries[1:-1]]
    assert said == [
        ("send", [1]), ("send", [3]), ("connections", [[SERVER, 0]]), ("send", [5]), ("connections", [[SERVER, 2]]),
    ]  # fmt: skip
    rows, _ = recorded()
    lost = [row for row in rows if row[1] == SERVER] + notes.rows()
    with pytest.raises(RunError, match="nobody has sent message 3,"):
        again(lost, Asks())


def test_a_life_that_has_not_begun_has_no_journal() -> None:
    """Its device was never spoken to."""
    notes = Notes()
    idle = driven(0, notes, FakeClock(), Sink(1), Doing())
    idle.stop()
    assert idle.run(speaks) is Life.STOPPED
    assert not notes.given
