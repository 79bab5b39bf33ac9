"""What a node notes down while it runs, a line a record, and one trace made of the notes of all nodes.

Lines are JSON arrays that begin with the kind of record: those of a trace, and a message at either end. Whoever sends
one notes it as `sent`, and as `began` when it begins to flow; whoever gets one as `came`. All of them together are a
transfer of the trace, so a message whose sender has crashed is there, and one that nobody got is lost for a reason.
What a script was `given` is for `journal`, and no part of a trace. A file that ends in the middle of a line is read up
to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from fedsim.runtime.envelopes import Parcel
from fedsim.trace import Node, Trace

SENT: Final = "sent"
BEGAN: Final = "began"
CAME: Final = "came"
GIVEN: Final = "given"

_KINDS: Final = ("span", "wait", "stay", "mark")

PACE: Final = "pace"
"""How a node was paced: node, works, short ones, overruns, lag lost, the worst overrun (ns)."""

TRAFFIC: Final = "traffic"
"""What a node has sent: node, messages, frames, bytes of the frames."""

CLOCK: Final = "clock"
"""How well a node knows the server's clock: node, offset, bound (ns)."""

_PARCEL: Final = (int, int, int, str, str, int, int, int, int, int, int)  # number to control, and the round
_COLUMNS: Final[Mapping[str, tuple[type, ...]]] = {
    "span": (int, int, str, int, int, int, int, int, bool, int),
    "wait": (int, int, int, str, int, int),
    "stay": (int, int, int, int),
    "mark": (int, int, str, float, str),
    SENT: (*_PARCEL, int),
    BEGAN: (int, int),
    CAME: (*_PARCEL, int),
    PACE: (int, int, int, int, int, int),
    GIVEN: (int, int, int, int, str, object),
    TRAFFIC: (int, int, int, int),
    CLOCK: (int, int, int),
}
_NODE: Final[Mapping[str, int | None]] = {SENT: 1, CAME: 2, BEGAN: None}  # which column says whose notes these are


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
        file: in the place of one that this opens.
    """

    def __init__(self, path: Path | None = None, file: TextIO | None = None) -> None:
        self._file = file if path is None else path.open("a", buffering=1, encoding="utf-8")
        self.trace = Trace((), {})
        """Spans, waits, stays and marks of the node."""
        self.trace.spans = Tape("span", self._file)
        self.trace.waits = Tape("wait", self._file)
        self.trace.stays = Tape("stay", self._file)
        self.trace.marks = Tape("mark", self._file)
        self._sent = Tape(SENT, self._file)
        self._began = Tape(BEGAN, self._file)
        self._came = Tape(CAME, self._file)
        self.given = Tape(GIVEN, self._file)
        """Rows of a `Journal` of the node."""

    def sent(self, number: int, source: int, target: int, parcel: Parcel, queued: int) -> None:
        """A message has been queued."""
        self._sent.append((number, source, target, *parcel.columns, parcel.round, queued))

    def began(self, number: int, started: int) -> None:
        """A message that has been sent begins to flow."""
        self._began.append((number, started))

    def came(self, number: int, source: int, target: int, parcel: Parcel, arrived: int) -> None:
        """A message has arrived."""
        self._came.append((number, source, target, *parcel.columns, parcel.round, arrived))

    def rows(self) -> list[list[Any]]:
        """All notes, as they are written down."""
        own = self.trace
        kinds = (("span", own.spans), ("wait", own.waits), ("stay", own.stays), ("mark", own.marks))
        others = ((SENT, self._sent), (BEGAN, self._began), (CAME, self._came), (GIVEN, self.given))
        return [[kind, *row] for kind, tape in (*kinds, *others) for row in tape]

    @property
    def arrivals(self) -> Sequence[tuple[Any, ...]]:
        """The messages that have come: rows of `came`, without the kind."""
        return self._came

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def noted(line: str, node: int) -> list[Any]:
    """A line that another node has noted down.

    Raises:
        ValueError: it is none, or not about that node.
    """
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise ValueError("a note that is nested too deeply") from error
    if not (isinstance(row, list) and row and isinstance(row[0], str) and row[0] in _COLUMNS):
        raise ValueError("a note of no known kind")
    kind, *values = row
    columns = _COLUMNS[kind]
    fits = len(values) == len(columns) and all(
        type(value) is column or column is object or (column is float and type(value) is int)
        for value, column in zip(values, columns, strict=True)
    )
    about = _NODE.get(kind, 0)
    if not fits or (about is not None and values[about] != node):
        raise ValueError(f"a note that is no {kind} of node {node}")
    return row


def read(path: Path) -> Iterator[list[Any]]:
    """The notes in a file, up to a line that was not finished."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


def merged(notes: Iterable[Sequence[Any]], nodes: Sequence[Node], scenario: Mapping[str, Any], end: int) -> Trace:
    """The trace of a run from the notes of all its nodes, in any order; repeated notes count once.

    What a node did while others took it for gone, as one that has lost its connection does, is left out.

    Args:
        end: length of the run in nanoseconds; what lies beyond is cut off.
    """
    found: dict[str, dict[tuple[Any, ...], None]] = {kind: {} for kind in (*_KINDS, SENT, BEGAN, CAME)}
    for kind, *row in notes:
        if kind != GIVEN:
            found[kind][tuple(row)] = None
    trace = Trace(nodes, scenario, end=end)
    trace.marks = sorted((mark for mark in found["mark"] if mark[1] <= end), key=lambda mark: mark[1])
    there = _presences(trace.marks, end)
    trace.spans = sorted(_cut(found["span"], 3, 4, there, end), key=lambda span: (span[3], span[4], span[0]))
    trace.waits = sorted(_cut(found["wait"], 1, 2, there, end), key=lambda wait: (wait[1], wait[2], wait[0]))
    began = {number: moment for number, moment in found[BEGAN]}  # noqa: C416 (a dict of it would copy the dict)
    trace.transfers = _transfers(found[SENT], began, found[CAME], _absences(trace.marks), end)
    delivered = {transfer[0] for transfer in trace.transfers if transfer[13] == "delivered"}
    trace.waits = [wait if wait[5] in delivered else (*wait[:5], -1) for wait in trace.waits]
    stays = (stay for stay in _cut(found["stay"], 1, 2, there, end) if stay[3] in delivered)
    trace.stays = sorted(stays, key=lambda stay: (stay[1], stay[2], stay[0]))
    return trace


def _cut(
    rows: Iterable[tuple[Any, ...]], start: int, stop: int, there: Mapping[int, Sequence[tuple[int, int]]], end: int
) -> Iterator[tuple[Any, ...]]:
    """Of every record what lies in the time in which its node was there."""
    for row in rows:
        for first, last in there.get(row[0], ((0, end),)):
            begins, ends = max(row[start], first), min(row[stop], last)
            if begins < ends or (begins == ends == row[start] == row[stop]):
                yield (*row[:start], begins, *row[start + 1 : stop], ends, *row[stop + 1 :])
                break


def _presences(marks: Iterable[tuple[Any, ...]], end: int) -> dict[int, list[tuple[int, int]]]:
    """When each node that has left at all was there."""
    found: dict[int, list[tuple[int, int]]] = {}
    for node, time, name, *_ in marks:
        if name == "leave":
            found.setdefault(node, [(0, end)])
            found[node][-1] = (found[node][-1][0], time)
        elif name == "return" and node in found:
            found[node].append((time, end))
    return found


def _absences(marks: Iterable[tuple[Any, ...]]) -> dict[int, list[int]]:
    """When each node left."""
    found: dict[int, list[int]] = {}
    for node, time, name, *_ in marks:
        if name == "leave":
            found.setdefault(node, []).append(time)
    return found


def _transfers(
    sent: Iterable[tuple[Any, ...]],
    began: Mapping[int, int],
    came: Iterable[tuple[Any, ...]],
    absences: Mapping[int, Sequence[int]],
    end: int,
) -> list[tuple[Any, ...]]:
    """Messages with their ends, by the moment of their arrival or loss.

    Of one whose sender's notes are lost it is only known when it arrived.
    """
    arrivals = {row[0]: row for row in came}
    found = []
    for row in sent:
        number, source, target, *columns, round_, queued = row
        started = max(queued, began.get(number, queued))
        arrival = arrivals.pop(number, None)
        if arrival is not None:
            found.append(_delivered(arrival, queued, started, end))
            continue
        lost = [(time, who) for who, node in (("sender left", source), ("receiver left", target)) for time in
                absences.get(node, ()) if time >= queued]  # fmt: skip
        moment, reason = min(lost, default=(end, "in flight"))
        moment = max(queued, moment)
        found.append((number, source, target, *columns, queued, min(started, moment), moment, reason, round_))
    found += [_delivered(arrival, arrival[-1], arrival[-1], end) for arrival in arrivals.values()]
    return sorted((row for row in found if row[10] <= end), key=lambda row: (row[12], row[0]))


def _delivered(arrival: tuple[Any, ...], queued: int, started: int, end: int) -> tuple[Any, ...]:
    """A transfer; one that arrived after the end of the run was in flight then."""
    *columns, round_, arrived = arrival
    if arrived > end:
        return (*columns, queued, min(started, end), end, "in flight", round_)
    return (*columns, queued, started, max(started, arrived), "delivered", round_)
