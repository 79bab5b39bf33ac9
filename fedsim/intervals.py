"""Arithmetic on intervals of integer time: unions per node, and lengths covered by disjoint intervals.

Exact, vectorised, O(n log n). An interval is half open, `[start, end)`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def added(owners: Ints, amounts: Ints, size: int) -> Ints:
    """The sum of `amounts` for each of `size` owners, in integers."""
    totals = np.zeros(size, np.int64)
    np.add.at(totals, owners, amounts)
    return totals


def union(owners: Ints, starts: Ints, ends: Ints, size: int) -> Ints:
    """The length of the union of each owner's intervals."""
    owners, starts, ends = apart(owners, starts, ends)
    return added(owners, ends - starts, size)


def apart(owners: Ints, starts: Ints, ends: Ints) -> tuple[Ints, Ints, Ints]:
    """The same time in intervals of which no two of one owner overlap, sorted by owner and start; some are empty."""
    if not len(owners):
        return owners, starts, ends
    order = np.lexsort((starts, owners))
    owners, starts, ends = owners[order], starts[order], ends[order]
    values, ranks = np.unique(ends, return_inverse=True)
    # A running maximum that starts anew with each owner: owners are sorted, so owner * n + rank never falls
    # back to an earlier owner's maximum.
    reached = values[np.maximum.accumulate(owners * len(values) + ranks) - owners * len(values)]
    first = np.concatenate(([True], owners[1:] != owners[:-1]))
    before = np.concatenate((starts[:1], reached[:-1]))
    begin = np.where(first, starts, np.maximum(starts, before))
    return owners, begin, np.maximum(begin, ends)


def joined(owners: Ints, starts: Ints, ends: Ints, states: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Sorted intervals without empty ones, those of one state that touch made one."""
    kept = ends > starts
    owners, starts, ends, states = (column[kept] for column in (owners, starts, ends, states))
    if not len(owners):
        return owners, starts, ends, states
    follows = (owners[1:] == owners[:-1]) & (starts[1:] == ends[:-1]) & (states[1:] == states[:-1])
    first, last = np.append(True, ~follows), np.append(~follows, True)
    return owners[first], starts[first], ends[last], states[first]


def covered(starts: Ints, ends: Ints, moments: Ints) -> Ints:
    """How much of `[-inf, moment)` the given intervals cover; they are disjoint and sorted."""
    totals = np.concatenate((np.zeros(1, np.int64), np.cumsum(ends - starts)))
    count = np.searchsorted(starts, moments, "right")
    if not len(starts):
        return totals[count]
    overshoot = np.maximum(ends[np.maximum(count - 1, 0)] - moments, 0)
    result: Ints = totals[count] - np.where(count > 0, overshoot, 0)
    return result


def spread(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """All pairs (i, j) with `low[i] <= j < high[i]`, as two columns."""
    counts = np.maximum(high - low, 0)
    owners = np.repeat(np.arange(len(low)), counts)
    offsets = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owners, low[owners] + offsets


def cut(starts: Ints, ends: Ints, opens: Ints, closes: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Intervals cut where disjoint, sorted others open and close.

    Returns:
        The pieces as columns: the interval a piece is of, its start, its end, and the number of the other interval
        it lies in, -1 for none. Pieces of no length are left out.
    """
    low, high = overlapping(starts, ends, opens, closes)
    wait, other = spread(low, high)
    inner_start, inner_end = np.maximum(starts[wait], opens[other]), np.minimum(ends[wait], closes[other])
    # Outside: before each of the others, and after the last one.
    previous = np.where(other > low[wait], closes[np.maximum(other - 1, 0)], starts[wait]) if len(other) else other
    last = np.where(high > low, closes[np.maximum(high - 1, 0)], starts) if len(opens) else starts
    piece = np.concatenate((wait, wait, np.arange(len(starts))))
    begin = np.concatenate((inner_start, previous, np.maximum(last, starts)))
    finish = np.concatenate((inner_end, opens[other], ends))
    inside = np.concatenate((other, np.full(len(other) + len(starts), -1, np.int64)))
    kept = finish > begin
    return piece[kept], begin[kept], finish[kept], inside[kept]


def overlapping(starts: Ints, ends: Ints, opens: Ints, closes: Ints) -> tuple[Ints, Ints]:
    """The range of the disjoint, sorted intervals `[open, close)` that each `[start, end)` overlaps."""
    low = np.searchsorted(closes, starts, "right")
    high = np.searchsorted(opens, ends, "left")
    return low.astype(np.int64), np.maximum(high, low).astype(np.int64)


def holds(owners: Ints, starts: Ints, ends: Ints, asked: Ints, moments: Ints) -> Bools:
    """Whether a moment lies in one of the intervals of its owner."""
    if not len(owners):
        return np.zeros(len(asked), np.bool_)
    order = np.lexsort((starts, owners))
    owners, starts, ends = owners[order], starts[order], ends[order]
    values, ranks = np.unique(np.concatenate((starts, ends, moments)), return_inverse=True)
    first, last, at = np.split(ranks, (len(starts), 2 * len(starts)))
    reached = np.maximum.accumulate(owners * len(values) + last)  # begins anew with each owner, as in `union`
    place = asked * len(values) + at
    before = np.searchsorted(owners * len(values) + first, place, "right") - 1
    found = np.maximum(before, 0)
    result: Bools = (before >= 0) & (owners[found] == asked) & (reached[found] > place)
    return result
