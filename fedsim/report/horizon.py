"""Active horizons: when each node took part, from the marks `join`, `leave`, `return` and `end`.

A node is active from its `join` (from 0 where it has none) to its `end` or the end of the run, except between
`leave` and `return`. Knows nothing of what nodes did meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from fedsim.intervals import added
from fedsim.report.columns import Columns, Ints
from fedsim.trace import PRESENCE


@dataclass(frozen=True, slots=True)
class Horizon:
    """Intervals in which nodes were active, sorted by node and time; none is empty."""

    node: Ints
    start: Ints
    end: Ints

    def length(self, nodes: int) -> Ints:
        """Active nanoseconds of each node."""
        return added(self.node, self.end - self.start, nodes)

    def holding(self, node: Ints, start: Ints, end: Ints) -> Ints:
        """The number of the interval that holds the whole of `[start, end]`, -1 where none does."""
        if not len(self.node):
            return np.full(len(node), -1, np.int64)
        moments, ranks = np.unique(np.concatenate((self.start, start)), return_inverse=True)
        base, asked = ranks[: len(self.start)], ranks[len(self.start) :]
        at = np.searchsorted(self.node * len(moments) + base, node * len(moments) + asked, "right") - 1
        found = np.maximum(at, 0)
        fits = (at >= 0) & (self.node[found] == node) & (self.end[found] >= end)
        result: Ints = np.where(fits, found, -1)
        return result


def horizons(columns: Columns) -> Horizon:
    """The active horizons of all nodes of a trace."""
    marks = columns.named(*PRESENCE)
    rows = columns.table.rows([mark.node for mark in marks]).tolist()
    events: dict[int, list[tuple[int, bool, bool]]] = {}
    for row, mark in zip(rows, marks, strict=True):
        events.setdefault(row, []).append((mark.time, PRESENCE[mark.name], mark.name == "join"))
    found: list[tuple[int, int, int]] = []
    for row in range(len(columns.nodes)):
        steps = sorted(events.get(row, ()), key=itemgetter(0))  # stable: of one instant, as recorded
        since = None if any(joins for *_, joins in steps) else 0
        for time, opens, _ in steps:
            if opens and since is None:
                since = time
            elif not opens and since is not None:
                found.append((row, since, time))
                since = None
        if since is not None:
            found.append((row, since, columns.end))
    kept = np.array([one for one in found if one[2] > one[1]], np.int64).reshape(-1, 3)
    return Horizon(kept[:, 0], kept[:, 1], kept[:, 2])
