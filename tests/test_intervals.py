"""Arithmetic on intervals, against sets of the moments that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from fedsim.intervals import apart, covered, cut, holds, overlapping, union

Ints = npt.NDArray[np.int64]
Interval = tuple[int, int, int]
OWNERS, END = 3, 20
INTERVALS = st.lists(
    st.tuples(st.integers(0, OWNERS - 1), st.integers(0, END), st.integers(0, END)).map(
        lambda drawn: (drawn[0], min(drawn[1:]), max(drawn[1:]))
    ),
    max_size=12,
)


def columns(rows: Sequence[Sequence[int]], width: int = 3) -> list[Ints]:
    """Rows as columns."""
    return list(np.array(rows, np.int64).reshape(-1, width).T)


def moments(rows: Sequence[Interval], owner: int) -> set[int]:
    """Those that lie in an owner's intervals, which are half open."""
    return {moment for whose, start, end in rows if whose == owner for moment in range(start, end)}


def disjoint(rows: Sequence[Interval]) -> list[tuple[int, int]]:
    """What the first owner's intervals hold, in stretches that are apart and sorted."""
    held = sorted(moments(rows, 0))
    edges = [-1, *(n for n, (one, two) in enumerate(pairwise(held)) if two > one + 1), len(held) - 1]
    return [(held[a + 1], held[b] + 1) for a, b in pairwise(edges) if b > a]


@given(INTERVALS)
def test_the_same_time_apart(rows: list[Interval]) -> None:
    """No two intervals of an owner overlap, none ends before it begins, and together they hold what they held."""
    owners, starts, ends = apart(*columns(rows))
    made = list(zip(owners.tolist(), starts.tolist(), ends.tolist(), strict=True))
    assert made == sorted(made, key=lambda one: one[:2])
    assert all(start <= end for _, start, end in made)
    assert all(one[2] <= two[1] for one, two in pairwise(made) if one[0] == two[0])
    for owner in range(OWNERS):
        assert moments(made, owner) == moments(rows, owner)
    given_owners, given_starts, given_ends = columns(rows)
    lengths = union(given_owners, given_starts, given_ends, OWNERS).tolist()
    assert lengths == [len(moments(rows, owner)) for owner in range(OWNERS)]


@given(INTERVALS)
def test_how_much_is_covered_by_a_moment(rows: list[Interval]) -> None:
    """Of disjoint intervals."""
    starts, ends = columns(disjoint(rows), 2)
    found = covered(starts, ends, np.arange(END + 2)).tolist()
    assert found == [len([one for one in moments(rows, 0) if one < moment]) for moment in range(END + 2)]


@given(INTERVALS, st.lists(st.tuples(st.integers(0, OWNERS - 1), st.integers(-1, END + 1)), max_size=12))
def test_whether_a_moment_lies_within(rows: list[Interval], asked: list[tuple[int, int]]) -> None:
    """The start of an interval does, its end does not."""
    found = holds(*columns(rows), *columns(asked, 2)).tolist()
    assert found == [moment in moments(rows, owner) for owner, moment in asked]


@given(INTERVALS, INTERVALS)
def test_pieces_lie_within_another_interval_or_outside_of_all(rows: list[Interval], others: list[Interval]) -> None:
    """Each moment of an interval is in one of its pieces, under the number of what holds it; no piece is empty."""
    around = disjoint(others)
    _, starts, ends = columns(rows)
    opens, closes = columns(around, 2)
    found = zip(*(column.tolist() for column in cut(starts, ends, opens, closes)), strict=True)
    held: dict[tuple[int, int], int] = {}
    for whose, start, end, other in found:
        assert start < end
        for moment in range(start, end):
            assert (whose, moment) not in held
            held[whose, moment] = other
    assert held == {
        (whose, moment): next((n for n, (opened, closed) in enumerate(around) if opened <= moment < closed), -1)
        for whose, (_, start, end) in enumerate(rows)
        for moment in range(start, end)
    }


def test_intervals_that_touch_do_not_overlap() -> None:
    """Half open: 5 to 10 overlaps the second of three alone."""
    low, high = overlapping(np.array([5]), np.array([10]), np.array([0, 5, 10]), np.array([5, 10, 12]))
    assert (low.tolist(), high.tolist()) == ([1], [2])
