"""Capacity in steps: at every nanosecond the step it belongs to, again and again, for each device from its moment."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.hardware.traces.rates import RateTrace, Series, joined

S = 10**9


def trace(times: list[float], down: list[float], length: float, *, wrap: bool = True) -> RateTrace:
    """One whose uplink is a tenth of the downlink."""
    return RateTrace(np.array(times), np.array(down) / 10, np.array(down), length, wrap)


def test_a_step_holds_until_the_next() -> None:
    """From its very nanosecond on; then the trace begins again."""
    found = trace([0, 1, 4], [10, 20, 30], 5)
    down = {t: found.at(t)[1] for t in (0, S - 1, S, 4 * S - 1, 4 * S, 5 * S - 1, 5 * S, 6 * S, 505 * S)}
    assert list(down.values()) == [10, 10, 20, 20, 30, 30, 10, 20, 10]
    assert found.at(S) == (2, 20)


def test_changes_follow_each_other() -> None:
    """Each strictly after the one before, across the end of the trace."""
    found, now, moments = trace([0, 1, 4], [10, 20, 30], 5), 0, []
    for _ in range(5):
        after = found.next_change(now)
        assert after is not None
        now = after
        moments.append(now // S)
    assert moments == [1, 4, 5, 6, 9]


def test_a_trace_that_does_not_wrap_keeps_its_last_step() -> None:
    """For ever, and changes no more."""
    found = trace([0, 1], [10, 20], 2, wrap=False)
    assert (found.at(10**6 * S), found.next_change(0), found.next_change(S)) == ((2, 20), S, None)
    assert found.offsets(7, np.arange(5)).tolist() == [0] * 5


def test_a_constant_trace_never_changes() -> None:
    """One step is no reason to wake anybody."""
    assert trace([0], [10], 3).next_change(0) is None


def test_a_device_may_begin_later_in_the_trace() -> None:
    """Its clock is ahead by the offset, beyond the end of the trace if need be."""
    found = trace([0, 1, 4], [10, 20, 30], 5)
    assert [found.at(0, offset)[1] for offset in (0, 1, 4.5, 5.5, 50.5)] == [10, 20, 30, 10, 10]
    assert found.next_change(0, 4.5) == S // 2
    assert found.next_change(S // 2, 4.5) == 3 * S // 2


@given(
    st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=8),
    st.floats(0, 1e5),
    st.integers(0, 10**16),
)
@settings(max_examples=30)
def test_waking_at_a_change_shows_it(lengths: list[float], offset: float, now: int) -> None:
    """At the announced nanosecond the rate is another, one before it still the same: no event comes in vain."""
    edges = np.cumsum([0.0, *lengths])
    found = trace(edges[:-1].tolist(), [float(n) + 1 for n in range(len(lengths))], float(edges[-1]))
    after = found.next_change(now, offset)
    assert after is not None
    assert after > now
    assert found.at(after - 1, offset) == found.at(now, offset)
    assert found.at(after, offset) != found.at(now, offset)


def test_offsets_are_spread_over_the_trace() -> None:
    """By (seed, node) alone."""
    offsets = trace([0, 1], [10, 20], 100).offsets(7, np.arange(10_000))
    assert 0 < offsets.min() < 1
    assert 99 < offsets.max() < 100
    assert offsets.mean() == pytest.approx(50, abs=1)
    np.testing.assert_array_equal(trace([0, 1], [10, 20], 100).offsets(7, np.array([77])), offsets[[77]])


def test_the_mean_weighs_steps_by_their_length() -> None:
    """Up and down."""
    assert trace([0, 1], [10, 20], 4).mean == (1.75, 17.5)


def test_a_trace_can_be_shipped() -> None:
    """To another process."""
    found = pickle.loads(pickle.dumps(trace([0, 1], [10, 20], 4)))
    assert found.at(S) == (2, 20)


@pytest.mark.parametrize(
    ("times", "down", "length", "wrap", "message"),
    [
        ([], [], 1, True, "times, up and down differ in length, or are empty"),
        ([0, 1], [1], 2, True, "times, up and down differ in length, or are empty"),
        ([1], [1], 2, True, "times do not ascend from 0 to less than the length"),
        ([0, 2, 1], [1, 2, 3], 3, True, "times do not ascend from 0 to less than the length"),
        ([0, 1], [1, 2], 1, True, "times do not ascend from 0 to less than the length"),
        ([0, 1], [1, -2], 2, True, "up holds a rate that is negative or not finite"),
        ([0, 1], [1, float("inf")], 2, True, "up holds a rate that is negative or not finite"),
        ([0, 1], [0, 0], 2, True, "up is 0 all through; nothing would ever arrive"),
        ([0, 1], [1, 0], 2, False, "up is 0 at its end, where it stays since it does not wrap; nothing would ever"),
    ],
)
def test_a_trace_that_makes_no_sense_is_refused(
    times: list[float], down: list[float], length: float, wrap: bool, message: str
) -> None:
    """A pause is allowed, as long as something flows later."""
    with pytest.raises(ValueError, match=f"^{message}"):
        trace(times, down, length, wrap=wrap)
    assert trace([0, 1], [1, 0], 2).at(S) == (0, 0)


def series(times: list[float], rates: list[float], length: float) -> Series:
    """A direction."""
    return Series(np.array(times), np.array(rates), length)


def test_two_directions_become_one_trace() -> None:
    """With the steps of both; what changes nothing is left out."""
    found = joined(series([0, 2], [1, 2], 4), series([0, 1, 3], [5, 5, 6], 4), wrap=True)
    assert (found.times.tolist(), found.up.tolist(), found.down.tolist()) == ([0, 2, 3], [1, 2, 2], [5, 5, 6])


def test_the_shorter_direction_begins_again() -> None:
    """Until the longer ends; where nothing wraps it stays instead."""
    up, down = series([0, 1], [1, 2], 2), series([0, 4], [5, 6], 5)
    found = joined(up, down, wrap=True)
    assert (found.times.tolist(), found.up.tolist(), found.length) == ([0, 1, 2, 3, 4], [1, 2, 1, 2, 1], 5)
    found = joined(up, down, wrap=False)
    assert (found.times.tolist(), found.up.tolist(), found.length) == ([0, 1, 4], [1, 2, 2], 5)


def test_a_constant_direction_has_no_length_of_its_own() -> None:
    """It neither stretches the other nor begins again."""
    found = joined(Series.constant(3), series([0, 1e6], [5, 6], 2e6), wrap=True)
    assert (found.times.tolist(), found.length) == ([0, 1e6], 2e6)


def test_directions_of_far_too_different_lengths_are_refused() -> None:
    """Rather than filling the memory."""
    with pytest.raises(ValueError, match=r"^one direction is 20,000,000 times as long as the other; cut the longer$"):
        joined(series([0, 0.05], [1, 2], 0.1), series([0, 1], [1, 2], 2e6), wrap=True)


def test_samples_hold_until_the_next() -> None:
    """The last as long as the one before it; times count from the first; a single one for ever."""
    found = Series.sampled([10, 12, 15], [1, 2, 3])
    assert (found.times.tolist(), found.rates.tolist(), found.length) == ([0, 2, 5], [1, 2, 3], 8)
    assert Series.sampled([10], [1]).length == 1
    with pytest.raises(ValueError, match=r"^there is no sample$"):
        Series.sampled([], [])
