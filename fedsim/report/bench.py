"""Who sat out: from the server's mark `benched` to its mark `called`, a device that takes turns with others has none.

The value of both marks is the device. Leaving ends its sitting out as well: one that comes back is benched anew, or
goes on at once. Knows nothing of what devices did meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import numpy as np

from fedsim.intervals import cut, overlapping
from fedsim.report.columns import Bools, Columns, Ints

_TIME: Final = itemgetter(0)  # of one instant, as recorded


@dataclass(frozen=True, slots=True)
class Bench:
    """Intervals in which devices sat out, sorted by node and time; those of a node are disjoint, and none is empty."""

    node: Ints
    start: Ints
    end: Ints

    def cut(self, node: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints, Bools]:
        """Intervals of nodes cut where these begin and cease to sit out.

        Returns:
            The pieces as columns: the interval a piece is of, its start, its end, and whether its node sits it out.
        """
        if not len(self.node):
            return np.arange(len(node)), start, end, np.zeros(len(node), np.bool_)
        moments, places = self._places(node, start, end)
        piece, begin, finish, number = cut(*places)
        first = node[piece] * len(moments)
        return piece, moments[begin - first], moments[finish - first], number >= 0

    def overlaps(self, node: Ints, start: Ints, end: Ints) -> Ints:
        """How many intervals of sitting out each of these overlaps."""
        if not len(self.node):
            return np.zeros(len(node), np.int64)
        _, places = self._places(node, start, end)
        low, high = overlapping(*places)
        return high - low

    def _places(self, node: Ints, start: Ints, end: Ints) -> tuple[Ints, tuple[Ints, Ints, Ints, Ints]]:
        """All moments, and every interval on one line on which each node has its own stretch of them.

        Of moments only their ranks go into it: a node's number times the length of a run does not fit 64 bits.
        """
        times = (start, end, self.start, self.end)
        moments, ranks = np.unique(np.concatenate(times), return_inverse=True)
        places = np.concatenate((node, node, self.node, self.node)) * len(moments) + ranks
        one, two, three, four = np.split(places, np.cumsum([len(column) for column in times])[:-1])
        return moments, (one, two, three, four)


def bench(columns: Columns) -> Bench:
    """Who sat out in a trace, and when: up to the end of the run where nothing ends it before."""
    marks = columns.named("benched", "called", "leave")
    devices = columns.table.rows([mark.node if mark.name == "leave" else int(mark.value) for mark in marks]).tolist()
    order = sorted(zip((mark.time for mark in marks), devices, (mark.name for mark in marks), strict=True), key=_TIME)
    since: dict[int, int] = {}
    found: list[tuple[int, int, int]] = []
    for time, row, name in order:
        if name == "benched":
            since.setdefault(row, time)
        elif row in since:
            found.append((row, since.pop(row), time))
    found += [(row, start, columns.end) for row, start in since.items()]
    kept = np.array(sorted(one for one in found if one[2] > one[1]), np.int64).reshape(-1, 3)
    return Bench(kept[:, 0], kept[:, 1], kept[:, 2])
