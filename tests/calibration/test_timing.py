"""Repeats by a fake clock: how many, which count, what they come to."""

from __future__ import annotations

import pytest

from fedsim.calibration.timing import Patience, first, repeated, timing


class Fake:
    """A clock that moves when it is told to; and works that take so long."""

    def __init__(self, *seconds: float) -> None:
        self.now = 0.0
        self.seconds = list(seconds)
        self.laps = 0

    def __call__(self) -> float:
        return self.now

    def lap(self) -> tuple[float, float]:
        """Takes the next of the given times, the last one from then on; of two parts, the second takes a tenth."""
        took = self.seconds[min(self.laps, len(self.seconds) - 1)]
        self.laps += 1
        self.now += took
        return took, took / 10


def test_the_median_counts_and_half_the_distance_of_the_quartiles() -> None:
    """1, 2, 3, 4 and 100 s: 3 s, quartiles 2 and 4; one outlier among five moves neither."""
    found = timing([100.0, 2.0, 1.0, 4.0, 3.0])
    assert (found.seconds, found.repeats) == (3.0, 5)
    assert found.scatter == pytest.approx(1 / 3)


def test_a_single_repeat_does_not_scatter() -> None:
    """Nor does one that took no time at all."""
    assert (timing([2.0]).scatter, timing([0.0, 0.0]).scatter) == (0.0, 0.0)


def test_quick_works_are_repeated_as_often_as_wanted() -> None:
    """20 laps of a tenth of a second within 10 s."""
    fake = Fake(0.1)
    found = repeated(fake.lap, Patience(most=20, seconds=10), fake)
    assert [one.repeats for one in found] == [20, 20]
    assert [one.seconds for one in found] == pytest.approx([0.1, 0.01])


def test_slow_works_are_repeated_until_time_is_over_and_at_least_so_often() -> None:
    """Of 1 s each, 5 in 5 s; of 4 s each, 3 in 5 s, since three are the least."""
    for took, laps in ((1.0, 5), (4.0, 3)):
        fake = Fake(took)
        assert repeated(fake.lap, Patience(most=20, least=3, seconds=5), fake)[0].repeats == laps


def test_the_first_lap_does_not_count() -> None:
    """It is timed by itself: 7 s, and then laps of 1 s."""
    fake = Fake(7.0, 1.0)
    assert first(fake.lap, fake) == 7.0
    assert repeated(fake.lap, Patience(), fake)[0].seconds == 1.0


def test_what_is_too_slow_for_the_least_repeats_is_not_waited_for() -> None:
    """Three laps of 4 s are 12 s, which is the most; of 4.1 s they are not allowed."""
    patience = Patience(least=3, longest=12)
    assert patience.allows(4.0)
    assert not patience.allows(4.1)
