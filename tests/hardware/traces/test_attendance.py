"""Coming and going: what a recording says, seen from a device that begins somewhere in it."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.hardware.traces.attendance import Absence, Attendance, Availability


def online(*intervals: tuple[float, float], length: float, wrap: bool = True) -> Availability:
    """A device's recording."""
    found = Availability.of(np.array(intervals, np.float64).reshape(-1, 2), length, wrap=wrap)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0, [(0, 2), (4, 6), (9, 12), (14, 16)]),
        (1, [(0, 1), (3, 5), (8, 11), (13, 15)]),
        (2, [(2, 4), (7, 10), (12, 14), (17, 20)]),
        (3, [(1, 3), (6, 9), (11, 13), (16, 19)]),
        (9.5, [(0, 2.5), (4.5, 6.5), (9.5, 12.5), (14.5, 16.5)]),
        (23, [(1, 3), (6, 9), (11, 13), (16, 19)]),
    ],
)
def test_absences_are_the_gaps(offset: float, expected: list[Absence]) -> None:
    """Whoever is not there at the start leaves at 0; a gap over the end of the recording is one absence."""
    device = online((2, 4), (6, 9), length=10)
    assert list(islice(device.absences(offset), 4)) == expected


def test_absences_up_to_a_moment() -> None:
    """Those that begin before it, whole."""
    device = online((2, 4), (6, 9), length=10)
    assert device.intervals(0, 9) == [(0, 2), (4, 6)]
    assert device.intervals(0, 9.1) == [(0, 2), (4, 6), (9, 12)]
    assert device.intervals(0, 0) == []


def test_no_gap_at_the_end_is_no_absence() -> None:
    """Online at the end and at the beginning: online all the while."""
    device = online((0, 4), (6, 10), length=10)
    assert device.intervals(0, 20) == [(4, 6), (14, 16)]


def test_a_device_that_is_always_online_never_leaves() -> None:
    """And asking for its absences comes to an end."""
    assert list(online((0, 10), length=10).absences(3)) == []
    assert online((0, 10), length=10, wrap=False).intervals(0, 1e9) == []


def test_a_recording_that_does_not_wrap_stays_as_it_ends() -> None:
    """Gone for ever, or there for ever."""
    assert list(online((2, 4), (6, 9), length=10, wrap=False).absences()) == [(0, 2), (4, 6), (9, None)]
    assert list(online((2, 4), (6, 10), length=10, wrap=False).absences()) == [(0, 2), (4, 6)]
    assert list(online((2, 4), (6, 9), length=10, wrap=False).absences(5)) == [(0, 1), (4, None)]


@given(st.lists(st.floats(0.5, 50), min_size=2, max_size=9), st.floats(0, 1000))
@settings(max_examples=30)
def test_absences_are_in_order_and_share_the_time(lengths: list[float], offset: float) -> None:
    """Each after the last; over many passes a device is away for the share that the recording says."""
    edges = np.cumsum(lengths)
    intervals = [(float(a), float(b)) for a, b in list(pairwise(edges))[::2]]
    device = online(*intervals, length=float(edges[-1]) + 1)
    until = 200 * device.length
    found = device.intervals(offset, until)
    assert all(left < back for left, back in found if back is not None)
    assert all(first[1] is not None and first[1] < second[0] for first, second in pairwise(found))
    away = sum(back - left for left, back in found if back is not None)
    assert away / until == pytest.approx(1 - device.share, abs=0.02)


def test_intervals_in_any_order_become_one_recording() -> None:
    """Overlapping and touching ones are joined, what lies outside is cut, empty ones vanish."""
    found = online((6, 8), (1, 2), (2, 3), (7, 7.5), (-5, 0.5), (9, 99), (4, 4), length=10)
    assert (found.starts.tolist(), found.ends.tolist()) == ([0, 1, 6, 9], [0.5, 3, 8, 10])
    assert found.share == pytest.approx(0.55)
    assert Availability.of(np.array([[4.0, 4.0]]), 10) is None
    assert Availability.of(np.empty((0, 2)), 10) is None


@pytest.mark.parametrize(
    ("starts", "ends", "message"),
    [
        ([], [], "the device is never online"),
        ([0, 1], [2, 3], "the intervals overlap, or do not ascend from 0 to the length"),
        ([0, 1], [1, 3], "the intervals overlap, or do not ascend from 0 to the length"),
        ([-1], [1], "the intervals overlap, or do not ascend from 0 to the length"),
        ([0], [11], "the intervals overlap, or do not ascend from 0 to the length"),
    ],
)
def test_a_recording_that_makes_no_sense_is_refused(starts: list[float], ends: list[float], message: str) -> None:
    """Python code may give one of its own."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        Availability(np.array(starts, np.float64), np.array(ends, np.float64), 10)


def test_devices_follow_the_recordings_in_turn() -> None:
    """Device k that of k modulo their number, each from a moment of its own, from (seed, node)."""
    fleet = Attendance((online((0, 5), length=10), online((0, 50), length=100)))
    assert [fleet.of(node).length for node in range(3)] == [10, 100, 10]
    assert fleet.share == 0.5
    away = [list(fleet.absences(7, node, 1000)) for node in range(4)]
    assert away == [list(fleet.absences(7, node, 1000)) for node in range(4)]
    assert away[0] != away[2]
    assert list(fleet.absences(8, 0, 1000)) != away[0]
    assert len(away[0]) == pytest.approx(100, abs=1)
    assert len(away[1]) == pytest.approx(10, abs=1)


def test_a_fleet_begins_at_the_start_of_what_does_not_wrap() -> None:
    """Where a later beginning would only lose some of it."""
    fleet = Attendance((online((2, 4), length=10, wrap=False),))
    assert list(fleet.absences(7, 3, 1000)) == [(0, 2), (4, None)]


def test_a_fleet_may_run_without_a_known_end() -> None:
    """Absences are made one by one, so that a run without a limit of time can have them, too."""
    fleet = Attendance((online((0, 5), length=10),))
    assert list(islice(fleet.absences(7, 0), 3)) == list(fleet.absences(7, 0, 30))[:3]
