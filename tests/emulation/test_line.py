"""The line: pieces pass at its rate, whatever it was before, and a sender makes up for a short hold-up only."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.emulation.links.line import BURST, Line, Passed, frame_size

T = TypeVar("T")
S, MS, KB = 1_000_000_000, 1_000_000, 1000


def drained(line: Line[T]) -> list[Passed[T]]:
    """All pieces, each taken out when it is due."""
    found = []
    while (due := line.due()) is not None:
        found.append(line.release(due))
    return found


def test_frames_are_five_milliseconds_long() -> None:
    """Of wall-clock time, and from 16 KiB to 256 KiB."""
    assert frame_size(20e6) == 100_000
    assert frame_size(1e3) == 16 * 1024
    assert frame_size(1e9) == 256 * 1024
    assert frame_size(200e6, dilation=10.0) == 100_000


def test_pieces_pass_one_after_the_other() -> None:
    """10 KB each at 1 MB/s: 10 ms."""
    line: Line[str] = Line(1e6)
    for name in "abc":
        line.put(0, name, 10 * KB, 0)
    assert drained(line) == [Passed("a", 0, 10 * MS), Passed("b", 10 * MS, 20 * MS), Passed("c", 20 * MS, 30 * MS)]
    assert (line.free, line.lost, len(line)) == (30 * MS, 0, 0)


def test_a_piece_begins_when_it_is_ready() -> None:
    """Before that the line is idle, and that earns nothing."""
    line: Line[str] = Line(1e6)
    line.put(0, "a", 10 * KB, 5 * MS)
    line.put(0, "b", 10 * KB, 40 * MS)
    assert drained(line) == [Passed("a", 5 * MS, 15 * MS), Passed("b", 40 * MS, 50 * MS)]


def test_nothing_takes_no_time() -> None:
    """A piece for which nothing is charged passes with what is before it, even where nothing else moves."""
    line: Line[str] = Line(1e6)
    line.put(0, "a", 10 * KB, 0)
    line.put(0, "b", 0, 0)
    assert drained(line) == [Passed("a", 0, 10 * MS), Passed("b", 10 * MS, 10 * MS)]
    still: Line[str] = Line()
    still.put(7, "a", 0, 7)
    assert still.due() == 7


def test_a_late_sender_makes_up_for_it() -> None:
    """Taken out 15 ms late, the pieces behind keep their moments."""
    line: Line[str] = Line(1e6)
    for name in "ab":
        line.put(0, name, 10 * KB, 0)
    assert line.release(25 * MS) == Passed("a", 0, 10 * MS)
    assert line.due() == 20 * MS
    assert line.lost == 0


def test_a_sender_that_is_later_than_the_burst_has_lost_time() -> None:
    """Taken out 50 ms late: 20 are made up for, 30 are lost."""
    line: Line[str] = Line(1e6)
    for name in "ab":
        line.put(0, name, 10 * KB, 0)
    line.release(60 * MS)
    assert line.due() == 60 * MS - BURST + 10 * MS
    assert line.lost == 30 * MS


def test_so_has_one_whose_pieces_come_late() -> None:
    """Ready at 0 but put at 50 ms."""
    line: Line[str] = Line(1e6)
    line.put(50 * MS, "a", 40 * KB, 0)
    assert drained(line) == [Passed("a", 30 * MS, 70 * MS)]
    assert line.lost == 30 * MS


def test_another_rate_is_for_what_is_left() -> None:
    """Half of a piece at 1 MB/s, the other half at 0.5; then it stands still, then it goes on."""
    line: Line[str] = Line(1e6)
    line.put(0, "a", 10 * KB, 0)
    line.change(5 * MS, 0.5e6)
    assert line.due() == 15 * MS
    line.change(10 * MS, 0.0)
    assert line.due() is None
    line.change(100 * MS, 0.25e6)
    assert line.due() == 110 * MS


def test_a_rate_that_holds_for_longer_than_it_is_known() -> None:
    """Told at 5 ms that since 1 ms it is 2 MB/s: the piece is as far as if it had been known."""
    line: Line[str] = Line(1e6)
    line.put(0, "a", 10 * KB, 0)
    line.change(5 * MS, 2e6, 1 * MS)
    assert line.due() == 1 * MS + 9 * KB * S // 2_000_000


def test_too_fast_for_a_while_is_made_up_for() -> None:
    """Told at 9 ms that since 1 ms it is 0.5 MB/s: 4 KB too many have passed, of this piece and the one before."""
    line: Line[str] = Line(1e6)
    for name, size in (("a", 2), ("b", 8)):
        line.put(0, name, size * KB, 0)
    assert line.release(3 * MS) == Passed("a", 0, 2 * MS)
    line.change(9 * MS, 0.5e6, 1 * MS)
    assert line.due() == 1 * MS + 9 * KB * S // 500_000


def test_nothing_moved_before_the_line_was_busy() -> None:
    """A rate that holds since before the piece was ready has moved nothing then; one since long ago counts a burst."""
    line: Line[str] = Line()
    line.put(0, "a", 10 * KB, 3 * MS)
    line.change(5 * MS, 1e6, 0)
    assert line.due() == 13 * MS
    line = Line()
    line.put(0, "a", 40 * KB, 0)
    line.change(50 * MS, 1e6, 0)
    assert line.due() == 50 * MS - BURST + 40 * MS


def test_what_should_have_passed_already_is_due_at_once() -> None:
    """And what was behind it has moved on since."""
    line: Line[str] = Line()
    for name in "ab":
        line.put(0, name, 10 * KB, 0)
    line.change(15 * MS, 1e6, 0)
    assert drained(line) == [Passed("a", 0, 10 * MS), Passed("b", 10 * MS, 20 * MS)]


def test_a_reset_drops_what_is_there() -> None:
    """What comes next waits for nothing old."""
    line: Line[str] = Line(1e6)
    for name in "ab":
        line.put(0, name, 1000 * KB, 0)
    assert line.reset(40 * MS) == ["a", "b"]
    line.put(40 * MS, "c", 10 * KB, 0)
    assert drained(line) == [Passed("c", 40 * MS, 50 * MS)]


def test_only_what_is_due_can_be_taken_out() -> None:
    """Anything else is a mistake of ours."""
    line: Line[str] = Line(1e6)
    line.put(0, "a", 10 * KB, 0)
    with pytest.raises(AssertionError, match="nothing is due at 5 ns, but at 10000000"):
        line.release(5)


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=60), st.floats(1e3, 1e9))
def test_rounding_does_not_add_up(sizes: list[int], rate: float) -> None:
    """The last piece is through when all bytes have passed at the rate, to a nanosecond and a rounding error."""
    line: Line[str] = Line(rate)
    for size in sizes:
        line.put(0, "", size, 0)
    ended = drained(line)[-1].ended
    exact = sum(sizes) / rate * 1e9
    assert exact * (1 - 1e-12) <= ended <= exact * (1 + 1e-12) + 1.001


@given(
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 200 * MS)), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 500 * MS), st.floats(1e4, 1e8), st.integers(0, 30 * MS)), max_size=20),
)
def test_order_and_time_never_go_back(pieces: list[tuple[int, int]], changes: list[tuple[int, float, int]]) -> None:
    """Whatever the rates and however late they are known, pieces end in order, none before it was ready."""
    line: Line[int] = Line(1e6)
    for number, (size, ready) in enumerate(pieces):
        line.put(0, number, size, ready)
    found: list[Passed[int]] = []
    for at, rate, known in sorted(changes):
        while (due := line.due()) is not None and due <= at:
            found.append(line.release(at))
        line.change(at, rate, at - known)
    found += drained(line)
    assert [passed.piece for passed in found] == list(range(len(pieces)))
    assert all(one.ended <= other.started <= other.ended for one, other in pairwise(found))
    assert all(passed.started >= pieces[passed.piece][1] for passed in found)
