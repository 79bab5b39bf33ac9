"""The solver: the widest model on a path from wide to narrow that a budget allows.

A path gives for every position, from 0 on, how many units each set keeps; further along they are fewer, but for jumps
where a set joins those that are cut or leaves them. Knows nothing of scores and hardware: what a model comes to is
asked of functions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.pruning.reconvene.tracing import Ints

Mask = NDArray[np.bool_]
Path = Callable[[float, Mask | None], tuple[Ints, Mask]]
"""From a position to the units that each set keeps and the sets that are cut; given sets are held fixed."""
Amount = Callable[[Ints], float]

_HALVINGS: Final = 40


@dataclass(frozen=True, eq=False, kw_only=True)
class Limits:
    """What a model may come to at most, cheap to ask first."""

    amounts: Mapping[str, Amount]
    most: Mapping[str, float]
    dear: bool = False
    """Whether a question takes long. Then the size is taken to fall along the path, and no single width is tried."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", {})

    def fit(self, kept: Ints) -> bool:
        """Whether every limit holds."""
        known: dict[bytes, bool] = self._known  # type: ignore[attr-defined]  # a cache, set after freezing
        key = kept.tobytes()
        if key not in known:
            known[key] = all(self.amounts[name](kept) <= most for name, most in self.most.items())
        return known[key]


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """Where on the path the limits begin to hold."""

    kept: Ints
    cut: Mask
    position: float
    frozen: bool
    """Whether the sets that are cut were held fixed, since the size jumps where others join them."""


def solve(path: Path, limits: Limits, positions: Sequence[float], parent: Ints, step: int) -> Found | None:
    """The first model along the path within the limits, refined by single widths; None where there is none.

    Args:
        positions: where to look first, ascending; the path goes on beyond the last, with sets held fixed.
        parent: what the sets have to begin with.
        step: by how many units widths change.
    """
    crossing = _crossing(lambda x: path(x, None), limits, positions)
    if crossing is None:
        return _frozen(path, limits, positions[-1], parent, step)
    below, above = crossing
    before, after = path(below, None), path(above, None)
    if np.array_equal(before[1], after[1]) or below == above:
        kept = _refined(_refined(after[0], before[0], limits, after[1], step), parent, limits, after[1], step)
        return Found(kept=kept, cut=after[1], position=above, frozen=False)
    held = _frozen(path, limits, below, parent, step, before[1]) if before[1].any() else None
    if held is not None:
        return held
    return Found(kept=_refined(after[0], parent, limits, after[1], step), cut=after[1], position=above, frozen=False)


def _frozen(path: Path, limits: Limits, start: float, parent: Ints, step: int, cut: Mask | None = None) -> Found | None:
    """Go on from a position with the same sets cut."""
    held = path(start, None)[1] if cut is None else cut
    further = start + (start + 1) * np.linspace(0, 8, 65) ** 2
    crossing = _crossing(lambda x: path(x, held), limits, further.tolist())
    if crossing is None:
        return None
    below, above = crossing
    near = _refined(path(above, held)[0], path(below, held)[0], limits, held, step)
    kept = _refined(near, parent, limits, held, step)
    return Found(kept=kept, cut=held, position=above, frozen=True)


def _crossing(
    along: Callable[[float], tuple[Ints, Mask]], limits: Limits, positions: Sequence[float]
) -> tuple[float, float] | None:
    """Two positions next to each other, of which only the second is within the limits."""

    def fits(position: float) -> bool:
        return limits.fit(along(position)[0])

    if fits(positions[0]):
        return positions[0], positions[0]
    if limits.dear:
        first = bisect_left(positions, True, key=fits)
    else:
        first = next((n for n, position in enumerate(positions) if fits(position)), len(positions))
    if first == len(positions):
        return None
    below, above = positions[first - 1], positions[first]
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        if fits(middle):
            above = middle
        else:
            below = middle
    return below, above


def _refined(kept: Ints, wider: Ints, limits: Limits, cut: Mask, step: int) -> Ints:
    """Widen one set after the other, by as little as there is, while the limits hold; none beyond `wider`."""
    kept = kept.copy()
    growing = not limits.dear
    while growing:
        growing = False
        for number in np.flatnonzero(cut & (kept < wider)):
            more = kept.copy()
            more[number] = min(kept[number] + step, wider[number])
            if limits.fit(more):
                kept, growing = more, True
    return kept
