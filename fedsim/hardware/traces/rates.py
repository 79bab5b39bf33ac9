"""Capacity that changes in steps: what a link carries at each moment of a recording.

Knows seconds, nanoseconds and bytes a second; nothing of files or of what flows.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedsim.seeds import uniforms

_NS: Final = 1e9
_MOST: Final = 20_000_000  # steps; beyond that a recording takes gigabytes


@dataclass(frozen=True, eq=False)
class Series:
    """One direction of a recording: `rates[i]` bytes/s from `times[i]` on (s, the first is 0), `length` s in all."""

    times: NDArray[np.float64]
    rates: NDArray[np.float64]
    length: float

    @classmethod
    def sampled(cls, times: ArrayLike, rates: ArrayLike) -> Series:
        """From samples at ascending times: each holds until the next, the last as long as the one before it.

        Raises:
            ValueError: there is no sample.
        """
        moments = np.asarray(times, np.float64)
        if not len(moments):
            raise ValueError("there is no sample")
        moments = moments - moments[0]
        last = moments[-1] - moments[-2] if len(moments) > 1 else 1.0
        return cls(moments, np.asarray(rates, np.float64), float(moments[-1] + last))

    @classmethod
    def constant(cls, rate: float) -> Series:
        """The same rate for ever."""
        return cls(np.zeros(1), np.full(1, rate), 1.0)

    def scaled(self, factor: float) -> Series:
        """The same with every rate times `factor`."""
        return Series(self.times, self.rates * factor, self.length)


@dataclass(frozen=True, eq=False)
class RateTrace:
    """A link's capacity for messages over time, in steps. Immutable.

    Step i goes from `times[i]` to the next one's time, the last to `length`. After that the trace begins again; one
    that does not `wrap` keeps its last step for ever. Moments are whole nanoseconds, as on the kernel's clock.

    Raises:
        ValueError: the arrays do not fit together, a rate is negative, or a direction would carry nothing for ever.
    """

    times: NDArray[np.float64]
    """(steps,) seconds, ascending; the first is 0."""
    up: NDArray[np.float64]
    """(steps,) bytes/s away from the node; 0 where nothing gets through."""
    down: NDArray[np.float64]
    """(steps,) bytes/s towards the node."""
    length: float
    """Seconds."""
    wrap: bool = True
    _starts: array[int] = field(init=False, repr=False)  # ns; of plain ints, which bisect compares fastest

    def __post_init__(self) -> None:
        if not len(self.times) == len(self.up) == len(self.down) > 0:
            raise ValueError("times, up and down differ in length, or are empty")
        starts = np.rint(np.asarray(self.times, np.float64) * _NS).astype(np.int64)
        if starts[0] != 0 or (np.diff(starts) <= 0).any() or not starts[-1] < round(self.length * _NS):
            raise ValueError("times do not ascend from 0 to less than the length")
        for name, rates in (("up", self.up), ("down", self.down)):
            if not (np.isfinite(rates) & (rates >= 0)).all():
                raise ValueError(f"{name} holds a rate that is negative or not finite")
            if not rates.any() or (not self.wrap and rates[-1] == 0):
                where = "all through" if not rates.any() else "at its end, where it stays since it does not wrap"
                raise ValueError(f"{name} is 0 {where}; nothing would ever arrive")
        object.__setattr__(self, "_starts", array("q", starts.tobytes()))

    def at(self, now: int, offset: float = 0.0) -> tuple[float, float]:
        """Bytes/s (up, down) at `now` (ns) for a node that began `offset` seconds into the trace."""
        step = self._step(self._position(now, offset)[0])
        return float(self.up[step]), float(self.down[step])

    def next_change(self, now: int, offset: float = 0.0) -> int | None:
        """The first moment (ns) after `now` at which a step begins; None when there is none."""
        if len(self.times) == 1:
            return None
        position, base = self._position(now, offset)
        step = self._step(position) + 1
        if step < len(self.times):
            return base + self._starts[step]
        return base + self._length if self.wrap else None

    def offsets(self, seed: int, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(nodes,) seconds; where in the trace each node begins, from (seed, node). 0 in one that does not wrap."""
        return uniforms(seed, nodes, "trace") * (self.length if self.wrap else 0.0)

    @property
    def mean(self) -> tuple[float, float]:
        """Bytes/s (up, down) on average over the length."""
        shares = np.diff(self.times, append=self.length) / self.length
        return float(self.up @ shares), float(self.down @ shares)

    @property
    def _length(self) -> int:
        return round(self.length * _NS)

    def _position(self, now: int, offset: float) -> tuple[int, int]:
        """Nanoseconds into the trace, and the moment on the clock at which this pass of the trace began."""
        position = now + round(offset * _NS)
        passed = position // self._length * self._length if self.wrap else 0
        return position - passed, now - (position - passed)

    def _step(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1


def joined(up: Series, down: Series, *, wrap: bool) -> RateTrace:
    """One trace of two directions; of different lengths, the shorter begins again (or stays) until the longer ends.

    Steps that change nothing are left out.

    Raises:
        ValueError: as RateTrace, or the shorter would begin again too often.
    """
    length = max((series.length for series in (up, down) if len(series.times) > 1), default=max(up.length, down.length))
    up, down = (_stretched(series, length, wrap=wrap) for series in (up, down))
    starts = [np.rint(series.times * _NS).astype(np.int64) for series in (up, down)]
    times = np.union1d(*starts)
    rates = [
        series.rates[np.searchsorted(own, times, "right") - 1] for series, own in zip((up, down), starts, strict=True)
    ]
    kept = np.ones(len(times), bool)
    kept[1:] = (np.diff(rates[0]) != 0) | (np.diff(rates[1]) != 0)
    return RateTrace(times[kept] / _NS, rates[0][kept], rates[1][kept], length, wrap)


def _stretched(series: Series, length: float, *, wrap: bool) -> Series:
    """The series over a longer time: again and again, or with its last rate from its end on."""
    if not wrap or len(series.times) == 1 or series.length >= length:
        return series
    passes = math.ceil(length / series.length)
    if passes * len(series.times) > _MOST:
        raise ValueError(f"one direction is {passes:,} times as long as the other; cut the longer")
    times = (series.times + series.length * np.arange(passes)[:, None]).ravel()
    inside = times < length
    return Series(times[inside], np.tile(series.rates, passes)[inside], length)
