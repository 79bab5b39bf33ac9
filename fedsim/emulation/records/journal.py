"""What a script was given, in order: with that, and nothing else, it does the same again.

A journal has an entry for every answer that does not follow from the script itself. Messages stand in it by their
numbers, never by their content; the runtime's notices, which have none, by what they say. All of it is plain JSON.
Knows nothing of how an emulation runs, nor of how a journal is played.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from fedsim.emulation.records.recording import GIVEN
from fedsim.errors import RunError, shown
from fedsim.runtime.coroutines import name
from fedsim.script import Connected, Disconnected, Message

Reference = int | list[Any]
"""The number of a message, or `[-1, class, device, sender]` of a notice."""

_NOTICES: Final[dict[str, type[Connected] | type[Disconnected]]] = {
    kind.__name__: kind for kind in (Connected, Disconnected)
}


class What(StrEnum):
    """What an entry is the answer to; beside each, its value."""

    BEGIN = "begin"  # None: a life begins
    END = "end"  # [name of a `Life`, works done of the effect that it was in]
    RECV = "recv"  # reference; None: the time was up
    POLL = "poll"  # reference; None: nothing was there
    ARRIVED = "arrived"  # [class, [references]]
    OUTGOING = "outgoing"  # [class, count]
    DROP = "drop"  # reference; None: it did not wait
    NOW = "now"  # seconds
    ABSENT = "absent"  # [devices]
    EVALUATE = "evaluate"  # [accuracy, loss, samples]
    SEND = "send"  # [number of each copy], before they are sent
    CONNECTIONS = "connections"  # [[target, ordinal of the connection, 0: none]], of a send, where that has changed


class Rows(Protocol):
    """Takes rows in, such as `Notes.given`."""

    def append(self, row: tuple[Any, ...], /) -> None:
        """Add a row."""
        ...


class Journal:
    """The journal of one life of a node, while it is written.

    Args:
        rows: receives the entries: node, life, position, step, what, value.
        node: its number.
        life: which of the node's lives, in ascending order; no two have the same.
    """

    def __init__(self, rows: Rows, node: int, life: int = 1) -> None:
        self.step = 0
        """How many effects the script has awaited so far."""
        self._rows = rows
        self._node = node
        self._life = life
        self._position = 0

    @property
    def begun(self) -> bool:
        """Whether the life has begun."""
        return self._position > 0

    def given(self, what: What, value: Any) -> None:
        """The script was given something."""
        self._rows.append((self._node, self._life, self._position, self.step, what.value, value))
        self._position += 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a life."""

    position: int
    step: int
    """Effects that the script had awaited by then."""
    what: What
    value: Any

    def references(self) -> Iterator[int]:
        """The numbers of the messages in it."""
        match self.what:
            case What.RECV | What.POLL | What.DROP:
                found = [self.value]
            case What.ARRIVED:
                found = self.value[1]
            case _:
                return
        yield from (number for number in found if isinstance(number, int))


@dataclass(frozen=True, slots=True)
class Past:
    """One life of a node, as it was."""

    node: int
    life: int
    entries: tuple[Entry, ...]

    @property
    def end(self) -> Entry | None:
        """Its last entry, if it has been ended; one that has crashed has no end."""
        last = self.entries[-1]
        return last if last.what is What.END else None


def reference(message: Message, number: int) -> Reference:
    """How a message stands in a journal."""
    if isinstance(message, Connected | Disconnected):
        return [-1, type(message).__name__, message.device, message.sender]
    return number


def notice(found: Sequence[Any]) -> Message:
    """The notice of a reference."""
    _, kind, device, sender = found
    return _NOTICES[kind](device, sender=sender)


def pasts(notes: Iterable[Sequence[Any]]) -> dict[int, list[Past]]:
    """The lives of every node, in order, out of the notes of all nodes in any order; repeated notes count once.

    Raises:
        RunError: an entry is missing, is there in two ways, or is none.
    """
    found: dict[tuple[int, int], dict[int, list[Any]]] = {}
    for kind, *row in notes:
        if kind != GIVEN:
            continue
        node, life, position, *rest = row
        if found.setdefault((node, life), {}).setdefault(position, rest) != rest:
            raise RunError(f"the journal of {name(node)}, life {life}, has two entries {position} that differ")
    lives: dict[int, list[Past]] = {}
    for (node, life), entries in sorted(found.items()):
        lives.setdefault(node, []).append(Past(node, life, tuple(_entries(node, life, entries))))
    return lives


def _entries(node: int, life: int, entries: dict[int, list[Any]]) -> Iterator[Entry]:
    whose = f"the journal of {name(node)}, life {life},"
    for position in range(len(entries)):
        if position not in entries:
            raise RunError(f"{whose} has no entry {position}, but later ones; give the notes of the whole run")
        step, what, value = entries[position]
        try:
            entry = Entry(position, step, What(what), value)
        except ValueError as error:
            raise RunError(f"{whose} has {shown(what)} in entry {position}, which this version cannot read") from error
        if (entry.what is What.BEGIN) is not (position == 0):
            raise RunError(f"{whose} has {shown(what)} as entry {position}; 'begin' is the first and no other")
        yield entry
