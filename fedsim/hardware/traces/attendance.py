"""When devices are there: for each device of a recording the intervals in which it is online.

Knows seconds; nothing of files, nor of what a device does while it is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
from numpy.typing import NDArray

from fedsim.seeds import uniforms

Absence = tuple[float, float | None]
"""Seconds at which a device leaves and returns; None: never again."""


@dataclass(frozen=True, eq=False)
class Availability:
    """When one device is online: from `starts[i]` to `ends[i]` for every i. Immutable.

    After `length` seconds it begins again; one that does not `wrap` stays as it is at that moment.

    Raises:
        ValueError: the intervals are out of order, overlap, touch, or reach beyond the length; or there is none.
    """

    starts: NDArray[np.float64]
    """(intervals,) seconds, ascending, from 0."""
    ends: NDArray[np.float64]
    """(intervals,) seconds, each after its start and before the next."""
    length: float
    """Seconds."""
    wrap: bool = True

    def __post_init__(self) -> None:
        starts, ends = self.starts, self.ends
        if not len(starts) == len(ends) > 0:
            raise ValueError("the device is never online")
        if starts[0] < 0 or (ends <= starts).any() or (starts[1:] <= ends[:-1]).any() or ends[-1] > self.length:
            raise ValueError("the intervals overlap, or do not ascend from 0 to the length")

    @classmethod
    def of(cls, intervals: NDArray[np.float64], length: float, *, wrap: bool = True) -> Availability | None:
        """From (n, 2) starts and ends in any order: those that overlap or touch become one; None if nothing is left."""
        edges = intervals.ravel()
        if len(edges) and edges[0] >= 0 and edges[-1] <= length and (edges[1:] > edges[:-1]).all():
            return cls(edges[::2], edges[1::2], length, wrap)  # nothing to do, as for most of 100,000 devices
        inside = np.clip(intervals, 0.0, length)
        inside = inside[inside[:, 1] > inside[:, 0]]
        if not len(inside):
            return None
        inside = inside[np.argsort(inside[:, 0], kind="stable")]
        ends = np.maximum.accumulate(inside[:, 1])
        new = np.append(True, inside[1:, 0] > ends[:-1])
        return cls(inside[new, 0], ends[np.append(new[1:], True)], length, wrap)

    @property
    def share(self) -> float:
        """The part of its length during which the device is online."""
        return float((self.ends - self.starts).sum() / self.length)

    def absences(self, offset: float = 0.0) -> Iterator[Absence]:
        """When the device leaves and returns, in order, on the clock of a run that begins `offset` seconds in.

        Never ends where the recording wraps, unless the device is always online. Leaving at 0 means not being there
        at the start.
        """
        if not self.wrap:
            for left, back in self._gaps():
                if back is None or back > offset:
                    yield max(left - offset, 0.0), None if back is None else back - offset
            return
        gaps = self._gaps()
        first = math.floor(offset / self.length) - 1  # the gap around the end of a pass belongs to the pass before
        for number in count(first) if gaps else ():
            moved = number * self.length - offset
            for left, back in gaps:
                assert back is not None  # in a recording that wraps, whoever leaves returns
                if back + moved > 0:
                    yield max(left + moved, 0.0), back + moved

    def intervals(self, offset: float, until: float) -> list[Absence]:
        """The absences that begin before `until` (s, finite)."""
        return list(takewhile(lambda absence: absence[0] < until, self.absences(offset)))

    def _gaps(self) -> list[Absence]:
        """The absences of one pass; where it wraps, the last one reaches into the next pass."""
        starts, ends = self.starts.tolist(), self.ends.tolist()
        gaps: list[Absence] = list(zip(ends[:-1], starts[1:], strict=True))
        if self.wrap:
            after = self.length + starts[0]
            return [*gaps, (ends[-1], after)] if after > ends[-1] else gaps
        before: list[Absence] = [(0.0, starts[0])] if starts[0] > 0 else []
        return before + gaps + ([(ends[-1], None)] if ends[-1] < self.length else [])


@dataclass(frozen=True)
class Attendance:
    """A recording of many devices, or of one, as a fleet uses it. Immutable."""

    members: tuple[Availability, ...]

    def of(self, node: int) -> Availability:
        """The recording that device `node` follows: its number modulo the number of recordings."""
        return self.members[node % len(self.members)]

    def absences(self, seed: int, node: int, until: float = math.inf) -> Iterator[Absence]:
        """When device `node` leaves and returns, as long as it leaves before `until` (s); made as they are asked for.

        It begins at a moment of its recording drawn from (seed, node); in one that does not wrap, at its start.
        """
        member = self.of(node)
        share = float(uniforms(seed, np.array([node]), "availability")[0])
        absences = member.absences(share * member.length if member.wrap else 0.0)
        return takewhile(lambda absence: absence[0] < until, absences)

    @property
    def share(self) -> float:
        """The part of the time during which a device is online, on average over the recordings."""
        return sum(member.share for member in self.members) / len(self.members)
