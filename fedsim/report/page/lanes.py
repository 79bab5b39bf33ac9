"""The timeline of a page: what every node did when, in pieces few enough for a file that people pass around.

A row is a node, or a lane of one; its pieces are works by kind and waits by cause. Where there are more pieces than a
page may hold, time is cut into equal bins and each shows the state that took most of it; the page says so. `lanes.js`
draws it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np

from fedsim.intervals import apart, joined, spread
from fedsim.report.columns import Columns, Ints
from fedsim.report.horizon import horizons
from fedsim.report.idle import CAUSES, pieces, silent
from fedsim.trace import LOAD
from fedsim.units import human_seconds

PIECES: Final = 250_000  # of a page; about 4.5 bytes each
ROWS: Final = 1_000
_TICKS: Final = 1 << 20  # of the whole run: a thousandth of a pixel
_OTHER: Final = "other work"
_KINDS: Final = 24  # kinds of work that are told apart


@dataclass(frozen=True, slots=True)
class Lanes:
    """A timeline for `lanes.js`.

    `states` are (name, class of its colour); state 0 is that nothing is recorded. `data` holds the rows one after the
    other: for each piece the number `ticks of its length x len(states) + state`, and a zero behind a row's last piece,
    as varints (seven bits a byte, least significant first).
    """

    rows: Sequence[tuple[str, str]]
    """Label of the node, and of its group."""
    states: Sequence[tuple[str, str]]
    seconds: float
    ticks: int
    data: bytes
    notes: Sequence[str]

    def figure(self, number: int, title: str) -> str:
        """The element that `lanes.js` fills."""
        packed: dict[str, Any] = {
            "rows": [label for label, _ in self.rows],
            "groups": [group for _, group in self.rows],
            "states": [list(state) for state in self.states],
            "seconds": self.seconds,
            "ticks": self.ticks,
            "data": base64.b64encode(self.data).decode(),
        }
        text = json.dumps(packed, ensure_ascii=False).replace("<", "\\u003c")
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return (
            f'<figure class="lanes" id="t{number}" tabindex="0" aria-label="{escape(title)}">'
            f'<script type="application/json">{text}</script>'
            f'<div class="bar-of-tools"><button type="button" data-do="in">+</button>'
            f'<button type="button" data-do="out">−</button><button type="button" data-do="left">←</button>'
            f'<button type="button" data-do="right">→</button><button type="button" data-do="all">whole run</button>'
            f'<output></output></div><div class="rows"><canvas></canvas></div></figure>{notes}'
        )


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Pieces sorted by row and time, apart from one another; times in ticks."""

    row: Ints
    start: Ints
    end: Ints
    state: Ints


def lanes(columns: Columns, most: int = PIECES, rows: int = ROWS) -> Lanes:
    """The timeline of a trace in at most so many pieces and (but for the server's lanes) rows."""
    shown, labels, notes = _rows(columns, rows)
    states = [("no record", "none"), *((cause, cause) for cause in CAUSES), ("lost work", "wasted")]
    kinds = _kinds(columns, len(states))
    states += [(name, "busy") for name in kinds.names]
    exact = _recorded(columns, shown, kinds.state_of)
    end = max(columns.end, 1)
    ticks = min(end, _TICKS)
    found = _scaled(exact, ticks / end)
    if len(found.row) > most:
        ticks, found = _binned(exact, end, len(labels), len(states), most)
        notes.append(
            f"This run has more pieces than a page holds: each {human_seconds(columns.end / 1e9 / ticks)} of a row "
            "show what took most of it. timeline.json.gz has more of them."
        )
    data = _encoded(found, len(labels), len(states))
    return Lanes(labels, states, columns.end / 1e9, ticks, data, notes)


@dataclass(frozen=True, slots=True)
class _Kinds:
    names: Sequence[str]
    state_of: Ints
    """The state of each kind of span, by its code."""


def _kinds(columns: Columns, first: int) -> _Kinds:
    """Names of works; the rarest are one where there are too many."""
    spans = columns.spans
    counts = np.bincount(spans.kind.codes, minlength=len(spans.kind.names))
    order = np.argsort(-counts, kind="stable").tolist()
    named = [code for code in order if spans.kind.names[code] != LOAD][:_KINDS]
    names = [spans.kind.names[code] for code in named]
    state_of = np.full(len(counts), first + len(names), np.int64)
    state_of[named] = first + np.arange(len(named))
    for code, name in enumerate(spans.kind.names):
        if name == LOAD:
            state_of[code] = 1 + CAUSES.index(LOAD)
    spare = bool(len(counts)) and bool((state_of == first + len(names)).any())
    return _Kinds([*names, _OTHER] if spare else names, state_of)


def _rows(columns: Columns, most: int) -> tuple[dict[tuple[int, int], int], list[tuple[str, str]], list[str]]:
    """Numbers of the rows by (row of the node table, lane), their labels, and what is left out."""
    nodes, spans = columns.nodes, columns.spans
    devices = np.flatnonzero(columns.devices)
    group = np.fromiter((nodes[row].group for row in devices.tolist()), np.int64, len(devices))
    devices = devices[np.argsort(group, kind="stable")]
    notes = []
    if len(devices) > most:
        notes.append(f"{most:,} of {len(devices):,} devices are shown, evenly from all groups.")
        devices = devices[np.linspace(0, len(devices) - 1, most).round().astype(np.int64)]
    picked = ([columns.server] if columns.server >= 0 else []) + devices.tolist()
    chosen = np.zeros(len(nodes), np.bool_)
    chosen[picked] = True
    here = chosen[spans.node]
    used = set(zip(spans.node[here].tolist(), spans.lane[here].tolist(), strict=True))
    several: dict[int, list[int]] = {}
    for row, lane in sorted(used):
        if lane:
            several.setdefault(row, []).append(lane)
    shown: dict[tuple[int, int], int] = {}
    labels: list[tuple[str, str]] = []
    for row in picked:
        for lane in (0, *several.get(row, ())):
            node = nodes[row]
            shown[row, lane] = len(labels)
            own = f"{node.name}, lane {lane}" if lane or row in several else node.name
            labels.append((own, node.profile if row == columns.server else f"group {node.group}: {node.profile}"))
    return shown, labels, notes


def _recorded(columns: Columns, shown: dict[tuple[int, int], int], state_of: Ints) -> _Pieces:
    """Works, waits and stretches without records of the rows that are shown, in nanoseconds."""
    spans, size = columns.spans, len(columns.nodes)
    lanes_of = 1 + max((lane for _, lane in shown), default=0)
    number = np.full(size * lanes_of, -1, np.int64)
    for (row, lane), at in shown.items():
        number[row * lanes_of + lane] = at
    chosen = number[::lanes_of] >= 0
    works = number[spans.node * lanes_of + np.minimum(spans.lane, lanes_of - 1)]
    works = np.where(chosen[spans.node], works, -1)
    state = np.where(spans.wasted, 1 + len(CAUSES), state_of[spans.kind.codes]) if len(works) else works
    kept = works >= 0
    waits = pieces(columns, chosen[columns.waits.node])
    active = horizons(columns)
    quiet = silent(columns, active) & chosen[active.node]
    first = number[::lanes_of]
    return _apart(
        _Pieces(
            np.concatenate((works[kept], first[waits.node], first[active.node[quiet]])),
            np.concatenate((spans.start[kept], waits.start, active.start[quiet])),
            np.concatenate((spans.end[kept], waits.end, active.end[quiet])),
            np.concatenate(
                (state[kept], 1 + waits.cause, np.full(int(quiet.sum()), 1 + CAUSES.index("unselected"), np.int64))
            ),
        )
    )


def _apart(found: _Pieces) -> _Pieces:
    """In order, and what overlaps (a script that waits while its node computes) given to the one that began first."""
    order = np.lexsort((found.start, found.row))
    row, start, end, state = (column[order] for column in (found.row, found.start, found.end, found.state))
    row, start, end = apart(row, start, end)
    return _Pieces(row, start, end, state)


def _scaled(found: _Pieces, scale: float) -> _Pieces:
    """In ticks; what is shorter than one is left out."""
    start, end = (np.rint(times * scale).astype(np.int64) for times in (found.start, found.end))
    return _Pieces(*joined(found.row, start, end, found.state))


def _binned(found: _Pieces, end: int, rows: int, states: int, most: int) -> tuple[int, _Pieces]:
    """The number of equal bins, and pieces made of them: each has the state that took most of it."""
    bins = max(4 * most // max(rows, 1), 1)
    while True:
        coarse = _majority(found, end, rows, states, bins)
        if len(coarse.row) <= most or bins == 1:
            return bins, coarse
        bins = max(bins // 2, 1)


def _majority(found: _Pieces, end: int, rows: int, states: int, bins: int) -> _Pieces:
    start, stop = found.start * (bins / end), found.end * (bins / end)
    low = np.minimum(start.astype(np.int64), bins - 1)
    high = np.clip(np.ceil(stop).astype(np.int64), low + 1, bins)
    owner, at = spread(low, high)
    share = np.maximum(np.minimum(stop[owner], at + 1) - np.maximum(start[owner], at), 0.0)
    cell = found.row[owner] * bins + at
    key, inverse = np.unique(cell * states + found.state[owner], return_inverse=True)
    amount = np.bincount(inverse, weights=share, minlength=len(key))
    cell, state = key // states, key % states
    total = np.bincount(cell, weights=amount, minlength=rows * bins)
    none = np.flatnonzero(total < 1 - 1e-9)
    cell = np.concatenate((none, cell))
    state = np.concatenate((np.zeros(len(none), np.int64), state))
    amount = np.concatenate((1 - total[none], amount))
    order = np.lexsort((amount, cell))
    top = order[np.append(cell[order][1:] != cell[order][:-1], True)]
    row, at = cell[top] // bins, cell[top] % bins
    kept = state[top] > 0
    return _Pieces(*joined(row[kept], at[kept], at[kept] + 1, state[top][kept]))


def _encoded(found: _Pieces, rows: int, states: int) -> bytes:
    """Pieces, the gaps before them, and the ends of rows, as varints."""
    count = len(found.row)
    first = np.append(True, found.row[1:] != found.row[:-1]) if count else np.zeros(0, np.bool_)
    gap = found.start - np.where(first, 0, np.concatenate((np.zeros(min(count, 1), np.int64), found.end[:-1])))
    values = np.concatenate((gap * states, (found.end - found.start) * states + found.state, np.zeros(rows, np.int64)))
    row = np.concatenate((found.row, found.row, np.arange(rows)))
    place = np.concatenate((2 * np.arange(count), 2 * np.arange(count) + 1, np.full(rows, 2 * count)))
    kept = np.concatenate((gap > 0, np.ones(count + rows, np.bool_)))
    order = np.lexsort((place[kept], row[kept]))
    return _varints(values[kept][order])


def _varints(values: Ints) -> bytes:
    """Numbers of seven bits a byte, least significant first, the top bit set on all bytes of a number but its last."""
    shifted = values[:, None] >> (7 * np.arange(5))
    used = np.cumsum((shifted > 0)[:, ::-1], axis=1)[:, ::-1] > 0
    used[:, 0] = True
    more = np.concatenate((used[:, 1:], np.zeros((len(values), 1), np.bool_)), axis=1)
    packed = (shifted & 0x7F) | np.where(more, 0x80, 0)
    found: bytes = packed[used].astype(np.uint8).tobytes()
    return found
