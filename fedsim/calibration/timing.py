"""Repeating something and telling its time: the median, and how far the repeats scatter.

Knows clocks, not what is timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

Clock = Callable[[], float]
"""Seconds since some moment; `time.perf_counter`, or a fake."""

Lap = Callable[[], Sequence[float]]
"""Does the work once and answers with the seconds of its parts."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one part of a work."""

    seconds: float
    """The median."""
    scatter: float
    """Half of the distance between the quartiles, as a share of the median: 0 where every repeat took as long."""
    repeats: int


@dataclass(frozen=True, slots=True)
class Patience:
    """How often something is repeated: `most` times, fewer where that takes longer than `seconds`, `least` at any rate.

    What takes longer than `longest` for the least is left out, where it can be.
    """

    most: int = 20
    least: int = 3
    seconds: float = 1.5
    longest: float = 12.0

    def allows(self, lap: float) -> bool:
        """Whether a lap of so many seconds can be waited for as often as needed."""
        return lap * self.least <= self.longest


USUAL: Final = Patience()
QUICK: Final = Patience(most=7, seconds=0.5, longest=6.0)


def first(lap: Lap, clock: Clock) -> float:
    """Seconds of a first lap, which does not count: it allocates, and libraries choose their kernels in it."""
    began = clock()
    lap()
    return clock() - began


def repeated(lap: Lap, patience: Patience, clock: Clock) -> list[Timing]:
    """The timing of each part of a lap."""
    laps: list[Sequence[float]] = []
    began = clock()
    while len(laps) < patience.least or (len(laps) < patience.most and clock() - began < patience.seconds):
        laps.append(lap())
    return [timing(part) for part in zip(*laps, strict=True)]


def timing(seconds: Sequence[float]) -> Timing:
    """The timing that repeats come to."""
    median = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (median,) * 3
    return Timing(median, (high - low) / 2 / median if median > 0 else 0.0, len(seconds))
