"""Idle time by cause: every wait, cut where its cause changes, goes to what the node really waited for.

The rules, from roles and rounds alone (a wait of several roles counts as that of the message that ended it, else as
the first):

* a device that waits for a `gradient`: dependency; for a `credit`, or until what it sends has arrived: flow; `sleep`
  and `load` by name;
* any other wait of a device, while it sits out for others to have their turn, or within a round that it is not part
  of: unselected; within its own round, from delivery of its contribution until the barrier is full: straggler; the rest
  (transfers, aggregation, between rounds): model;
* the server, while some but not all contributions of an open barrier are in: straggler; else dependency;
* a device that no message ever reached in a stretch of its horizon has no records there: all of it is unselected;
* spans of kind `load` are waiting for data, not computing: where nothing else runs, that is load.

In an emulation, pieces shorter than the clocks of nodes may disagree are nobody's: overhead, and missing.

Integers throughout, so busy and the causes add up to the horizon exactly. `account` sums without cutting, in
O(records · log records) however many rounds a device sat out; `pieces` cuts, for timelines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedsim.errors import AccountingError
from fedsim.intervals import added, covered, cut, joined, overlapping, spread, union
from fedsim.report.bench import bench
from fedsim.report.columns import Bools, Columns, Ints, Spans, Waits
from fedsim.report.horizon import Horizon, horizons
from fedsim.report.rounds import Rounds, rounds
from fedsim.script import Role
from fedsim.trace import LOAD

CAUSES: Final = ("dependency", "straggler", "flow", "model", "unselected", "load", "sleep")
DEPENDENCY, STRAGGLER, FLOW, MODEL, UNSELECTED, LOADING, SLEEP = range(len(CAUSES))
_DIRECT: Final = {
    Role.GRADIENT.value: DEPENDENCY,
    Role.CREDIT.value: FLOW,
    "send": FLOW,
    "sleep": SLEEP,
    LOAD: LOADING,
}
_BY_ROUND: Final = -1


@dataclass(frozen=True, slots=True)
class Accounts:
    """Nanoseconds of each node, by row of the node table.

    `busy` is the union of its spans, `lane_busy` their sum over lanes; `idle` has a row a cause, in the order of
    `CAUSES`.
    """

    horizon: Ints
    busy: Ints
    lane_busy: Ints
    idle: Ints

    @property
    def missing(self) -> Ints:
        """Horizon that is neither busy nor waiting: zero in virtual time, overhead in an emulation."""
        gap: Ints = self.horizon - self.busy - self.idle.sum(axis=0)
        return gap


@dataclass(frozen=True, slots=True)
class Pieces:
    """Waits cut by cause, sorted by node and time: row of the node, start, end, index into `CAUSES`."""

    node: Ints
    start: Ints
    end: Ints
    cause: Ints


def account(columns: Columns) -> Accounts:
    """Busy and idle time by cause of every node."""
    active, spans, size = horizons(columns), columns.spans, len(columns.nodes)
    works = ~spans.kind.among(LOAD)
    computing = union(spans.node[works], spans.start[works], spans.end[works], size)
    occupied = computing if works.all() else union(spans.node, spans.start, spans.end, size)
    idle = np.zeros((len(CAUSES), size), np.int64)
    idle[LOADING] += occupied - computing
    if columns.clock_bound:
        _add_pieces(columns, idle)
    else:
        quiet = silent(columns, active)
        idle[UNSELECTED] += added(active.node[quiet], (active.end - active.start)[quiet], size)
        _add_waits(columns, idle)
    return Accounts(
        horizon=active.length(size),
        busy=computing,
        lane_busy=added(spans.node[works], (spans.end - spans.start)[works], size),
        idle=idle,
    )


def pieces(columns: Columns, chosen: Bools | None = None) -> Pieces:
    """The waits (only the `chosen` ones, where given) cut by cause, and the stretches without records."""
    waits, barriers, fixed = columns.waits, rounds(columns), _fixed(columns)
    here = np.ones(len(waits.node), np.bool_) if chosen is None else chosen
    direct, server = here & (fixed != _BY_ROUND), waits.node == columns.server
    parts = [(waits.node[direct], waits.start[direct], waits.end[direct], fixed[direct])]
    parts.append(_cut_server(columns, barriers, here & ~direct & server))
    parts.append(_cut_devices(columns, barriers, here & ~direct & ~server))
    if chosen is None:
        active = horizons(columns)
        quiet = silent(columns, active)
        nodes = active.node[quiet]
        parts.append((nodes, active.start[quiet], active.end[quiet], np.full(len(nodes), UNSELECTED)))
    node, start, end, cause = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((start, node))
    return Pieces(*joined(*(column[order] for column in (node, start, end, cause))))


def silent(columns: Columns, active: Horizon) -> Bools:
    """The stretches of devices' horizons in which nothing is recorded."""
    seen = np.concatenate([_within(columns, active, rows) for rows in (columns.spans, columns.waits)])
    flags: Bools = active.node != columns.server
    flags[seen[seen >= 0]] = False
    return flags


def _within(columns: Columns, active: Horizon, rows: Spans | Waits) -> Ints:
    """The horizon of each record; its edges may lie outside by as much as clocks disagree."""
    start = np.minimum(rows.start + columns.clock_bound, np.maximum(rows.start, rows.end))
    return active.holding(rows.node, start, np.maximum(start, rows.end - columns.clock_bound))


def _fixed(columns: Columns) -> Ints:
    """The cause of each wait whose role alone decides, `_BY_ROUND` for the others."""
    waits, sent = columns.waits, columns.transfers
    roles = [name.split("|")[0] for name in waits.awaited.names]
    cause = np.array([_DIRECT.get(role, _BY_ROUND) for role in roles], np.int64)
    several = np.array(["|" in name for name in waits.awaited.names], np.bool_)
    if not len(cause):
        return np.zeros(0, np.int64)
    found = cause[waits.awaited.codes]
    ended = several[waits.awaited.codes] & (waits.message >= 0)
    if ended.any():
        at = sent.rows(waits.message[ended])
        if (at < 0).any():
            number = waits.message[ended][at < 0][0]
            raise AccountingError(f"a wait was ended by message {number}, which was never sent")
        by_role = np.array([_DIRECT.get(role, _BY_ROUND) for role in sent.role.names], np.int64)
        found[ended] = by_role[sent.role.codes[at]]
    server_waits = (waits.node == columns.server) & np.isin(found, (DEPENDENCY, FLOW))
    found[server_waits] = _BY_ROUND
    return found


def _add_waits(columns: Columns, idle: Ints) -> None:
    """Add every wait to its causes, by differences of what rounds cover instead of by cutting."""
    waits, barriers, fixed = columns.waits, rounds(columns), _fixed(columns)
    direct, server = fixed != _BY_ROUND, waits.node == columns.server
    np.add.at(idle, (fixed[direct], waits.node[direct]), (waits.end - waits.start)[direct])

    start, end = waits.start[~direct & server], waits.end[~direct & server]
    partly = covered(barriers.first, barriers.full, end) - covered(barriers.first, barriers.full, start)
    if columns.server >= 0:
        idle[STRAGGLER, columns.server] += partly.sum()
        idle[DEPENDENCY, columns.server] += (end - start - partly).sum()

    node, start, end, out = _turns(columns, ~direct & ~server)
    np.add.at(idle[UNSELECTED], node[out], (end - start)[out])
    node, start, end = node[~out], start[~out], end[~out]
    wait, member = _own_rounds(barriers, node, start, end)
    number = barriers.member_round[member]
    since, until = np.maximum(start[wait], barriers.opens[number]), np.minimum(end[wait], barriers.closes[number])
    late = np.minimum(until, barriers.full[number]) - np.maximum(since, barriers.delivered[member])
    within = added(wait, until - since, len(node))
    straggler = added(wait, np.maximum(late, 0), len(node))
    rest = covered(barriers.opens, barriers.closes, end) - covered(barriers.opens, barriers.closes, start)
    unselected = rest - within
    for cause, amount in (
        (STRAGGLER, straggler),
        (UNSELECTED, unselected),
        (MODEL, end - start - straggler - unselected),
    ):
        np.add.at(idle[cause], node, amount)


def _add_pieces(columns: Columns, idle: Ints) -> None:
    """Add all pieces to their causes but those that are too short to tell."""
    found = pieces(columns)
    told = found.end - found.start >= columns.clock_bound
    np.add.at(idle, (found.cause[told], found.node[told]), (found.end - found.start)[told])


def _turns(columns: Columns, here: Bools) -> tuple[Ints, Ints, Ints, Bools]:
    """These waits of devices, cut where a device begins or ceases to sit out: node, start, end, whether it does."""
    waits = columns.waits
    node = waits.node[here]
    wait, start, end, out = bench(columns).cut(node, waits.start[here], waits.end[here])
    return node[wait], start, end, out


def _own_rounds(barriers: Rounds, node: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Pairs of a wait and a round of its own device that overlap it."""
    low, high = overlapping(start, end, barriers.opens, barriers.closes)
    return spread(
        np.searchsorted(barriers.member, barriers.key(node, low)).astype(np.int64),
        np.searchsorted(barriers.member, barriers.key(node, high)).astype(np.int64),
    )


Columns4 = tuple[Ints, Ints, Ints, Ints]


def _cut_server(columns: Columns, barriers: Rounds, here: Bools) -> Columns4:
    waits = columns.waits
    wait, start, end, number = cut(waits.start[here], waits.end[here], barriers.first, barriers.full)
    return waits.node[here][wait], start, end, np.where(number < 0, DEPENDENCY, STRAGGLER)


def _cut_devices(columns: Columns, barriers: Rounds, here: Bools) -> Columns4:
    node, start, end, out = _turns(columns, here)
    benched = (node[out], start[out], end[out], np.full(int(out.sum()), UNSELECTED))
    node = node[~out]
    wait, start, end, number = cut(start[~out], end[~out], barriers.opens, barriers.closes)
    node = node[wait]
    member = np.where(number < 0, -1, barriers.memberships(node, np.maximum(number, 0)))
    own = member >= 0
    other = (node[~own], start[~own], end[~own], np.where(number[~own] < 0, MODEL, UNSELECTED))
    node, start, end, number, member = node[own], start[own], end[own], number[own], member[own]
    full = np.clip(barriers.full[number], start, end)
    ready = np.minimum(np.maximum(barriers.delivered[member], start), full)
    parts = [
        benched,
        other,
        (node, start, ready, np.full(len(node), MODEL)),
        (node, ready, full, np.full(len(node), STRAGGLER)),
        (node, full, end, np.full(len(node), MODEL)),
    ]
    node, start, end, cause = (np.concatenate(column) for column in zip(*parts, strict=True))
    return node, start, end, cause
