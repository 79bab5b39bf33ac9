"""Windows of channels that move from round to round, so that small variants of a model train all of it in the end.

Alam et al., arXiv 2212.01548 (FedRolex): of a layer's K channels, a variant with w of them has those from j on in round
j, and goes on with the first behind the last. NumPy only, no torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.payload.supports import Axes, Indices, Support

_RECENT: Final = 2


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels that several tensors share, and how many of them a variant has at a time."""

    units: int
    kept: int
    places: Mapping[tuple[str, int], NDArray[np.int64]]
    """By tensor and axis (units, places): where each channel lies."""

    def window(self, start: int) -> Indices:
        """The channels that it has in a round, ascending: from `start` on, and then from the first."""
        return np.sort((start + np.arange(self.kept)) % self.units)

    def rounds(self, step: int) -> int:
        """After how many rounds each of them has been in a window, if windows are no narrower than a step."""
        return math.ceil(self.units / step)


class Windows:
    """What a variant has of its parent, round by round. All rounds' supports have the same shapes.

    Args:
        channels: what moves, each at its own width.
        shapes: of the parent's tensors, by name; at least of those that channels name.
        step: by how many channels a window moves on each round.
    """

    def __init__(self, channels: Sequence[Channels], shapes: Mapping[str, tuple[int, ...]], step: int) -> None:
        self.channels = tuple(channels)
        self.step = step
        self._shapes = {name: shapes[name] for each in channels for name, _ in each.places}
        self._recent: dict[int, Support] = {}

    def support(self, round: int) -> Support:
        """What it has in a round; the same object, if asked again soon."""
        if round not in self._recent:
            while len(self._recent) >= _RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[round] = self._made(round)
        return self._recent[round]

    def _made(self, round: int) -> Support:
        kept: dict[tuple[str, int], NDArray[np.bool_]] = {}
        for each in self.channels:
            out = np.ones(each.units, bool)
            out[each.window(round * self.step)] = False
            for (name, axis), places in each.places.items():
                inside = kept.setdefault((name, axis), np.ones(self._shapes[name][axis], bool))
                inside[places[out].ravel()] = False
        axes: dict[str, Axes] = {}
        for name, shape in self._shapes.items():
            found = (kept.get((name, axis)) for axis in range(len(shape)))
            axes[name] = tuple(None if inside is None else np.flatnonzero(inside) for inside in found)
        return Support(axes)
