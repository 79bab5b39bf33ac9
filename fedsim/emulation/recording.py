"""What a node notes down while it runs, a line a record, and one trace made of the notes of all nodes.

Lines are JSON arrays that begin with the kind of record: those of a trace, and a message at either end. Whoever sends
one notes it as `sent`, whoever gets one as `came`; a transfer of the trace is both together, so a message whose sender
has crashed is there, and one that nobody got is lost for a reason. What a script was `given` is for `journal`, and no
part of a trace. A file that ends in the middle of a line is read up to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from fedsim.runtime.envelopes import Parcel
from fedsim.trace import Node, Trace

SENT: Final = "sent"
CAME: Final = "came"
GIVEN: Final = "given"

_KINDS: Final = ("span", "transfer", "wait", "mark")


class Tape(list[tuple[Any, ...]]):
    """Records of one kind, each of which is written down at once."""

    def __init__(self, kind: str, file: TextIO | None) -> None:
        super().__init__()
        self._kind = kind
        self._file = file

    def append(self, row: tuple[Any, ...], /) -> None:
        """Add a record."""
        super().append(row)
        if self._file is not None:
            self._file.write(json.dumps((self._kind, *row)) + "\n")

    def extend(self, rows: Iterable[tuple[Any, ...]], /) -> None:
        """Add records."""
        for row in rows:
            self.append(row)


class Notes:
    """The notes of one node, in memory and, where a path is given, in a file that is there after a crash.

    Args:
        path: of the file; it is appended to by every life of the node.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file: TextIO | None = None if path is None else path.open("a", buffering=1, encoding="utf-8")
        self.trace = Trace((), {})
        """Spans, waits and marks of the node."""
        self.trace.spans = Tape("span", self._file)
        self.trace.waits = Tape("wait", self._file)
        self.trace.marks = Tape("mark", self._file)
        self._sent = Tape(SENT, self._file)
        self._came = Tape(CAME, self._file)
        self.given = Tape(GIVEN, self._file)
        """Rows of a `Journal` of the node."""

    def sent(self, number: int, source: int, target: int, parcel: Parcel, queued: int) -> None:
        """A message has been queued."""
        self._sent.append((number, source, target, *parcel.columns, parcel.round, queued))

    def came(
        self, number: int, source: int, target: int, parcel: Parcel, queued: int, started: int, arrived: int
    ) -> None:
        """A message has arrived."""
        self._came.append((number, source, target, *parcel.columns, parcel.round, queued, started, arrived))

    def rows(self) -> list[list[Any]]:
        """All notes, as they are written down."""
        kinds = (("span", self.trace.spans), ("wait", self.trace.waits), ("mark", self.trace.marks))
        others = ((SENT, self._sent), (CAME, self._came), (GIVEN, self.given))
        return [[kind, *row] for kind, tape in (*kinds, *others) for row in tape]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read(path: Path) -> Iterator[list[Any]]:
    """The notes in a file, up to a line that was not finished."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


def merged(notes: Iterable[Sequence[Any]], nodes: Sequence[Node], scenario: Mapping[str, Any], end: int) -> Trace:
    """The trace of a run from the notes of all its nodes, in any order; repeated notes count once.

    Args:
        end: length of the run in nanoseconds; what lies beyond is cut off.
    """
    found: dict[str, dict[tuple[Any, ...], None]] = {kind: {} for kind in (*_KINDS, SENT, CAME)}
    for kind, *row in notes:
        if kind != GIVEN:
            found[kind][tuple(row)] = None
    trace = Trace(nodes, scenario, end=end)
    trace.spans = sorted(_cut(found["span"], 3, 4, end), key=lambda span: (span[3], span[4], span[0]))
    trace.waits = sorted(_cut(found["wait"], 1, 2, end), key=lambda wait: (wait[1], wait[2], wait[0]))
    trace.marks = sorted((mark for mark in found["mark"] if mark[1] <= end), key=lambda mark: mark[1])
    trace.transfers = _transfers(found[SENT], found[CAME], _absences(trace.marks), end)
    delivered = {transfer[0] for transfer in trace.transfers if transfer[13] == "delivered"}
    trace.waits = [wait if wait[5] in delivered else (*wait[:5], -1) for wait in trace.waits]
    return trace


def _cut(rows: Iterable[tuple[Any, ...]], start: int, stop: int, end: int) -> Iterator[tuple[Any, ...]]:
    """Records that began before the end, and no longer than to it."""
    for row in rows:
        if row[start] < end:
            yield row if row[stop] <= end else (*row[:stop], end, *row[stop + 1 :])


def _absences(marks: Iterable[tuple[Any, ...]]) -> dict[int, list[int]]:
    """When each node left."""
    found: dict[int, list[int]] = {}
    for node, time, name, *_ in marks:
        if name == "leave":
            found.setdefault(node, []).append(time)
    return found


def _transfers(
    sent: Iterable[tuple[Any, ...]], came: Iterable[tuple[Any, ...]], absences: Mapping[int, Sequence[int]], end: int
) -> list[tuple[Any, ...]]:
    """Messages with their ends, by the moment of their arrival or loss."""
    arrivals = {row[0]: row for row in came}
    found = []
    for row in sent:
        arrival = arrivals.pop(row[0], None)
        if arrival is not None:
            found.append(_delivered(arrival, end))
            continue
        number, source, target, *columns, round_, queued = row
        lost = [(time, who) for who, node in (("sender left", source), ("receiver left", target)) for time in
                absences.get(node, ()) if time >= queued]  # fmt: skip
        moment, reason = min(lost, default=(end, "in flight"))
        found.append((number, source, target, *columns, queued, queued, max(queued, moment), reason, round_))
    found += [_delivered(arrival, end) for arrival in arrivals.values()]
    return sorted((row for row in found if row[10] <= end), key=lambda row: (row[12], row[0]))


def _delivered(arrival: tuple[Any, ...], end: int) -> tuple[Any, ...]:
    """A transfer; one that arrived after the end of the run was in flight then."""
    *columns, round_, queued, started, arrived = arrival
    if arrived > end:
        return (*columns, queued, min(started, end), end, "in flight", round_)
    started = max(queued, started)
    return (*columns, queued, started, max(started, arrived), "delivered", round_)
