"""Rates in a tree: flows with caps of their own, in branches that have a capacity, under a root that has one.

In a tree the level of a branch does not depend on the root: a flow's rate is the least of its cap, the level that fills
its branch alone, and the level that fills the root with all the flows so limited. So a change costs one branch, and one
filling of the root.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedsim.network.flow import FOREVER, Capacity, Flow
from fedsim.network.solved import Floats, grown


def level(caps: Floats, weights: Floats | None, rate: float) -> float:
    """The level at which flows fill `rate`, each at the least of its cap and the level times its weight.

    Infinite where all of them at their caps do not exceed it.
    """
    if caps.sum() <= rate:
        return FOREVER
    if weights is None:
        limits = np.sort(caps)
        taken = _before(limits)
        sharing = np.arange(len(caps), 0, -1.0)
    else:
        order = np.argsort(caps / weights, kind="stable")
        limits, weights = caps[order], weights[order]
        taken = _before(limits)
        sharing = weights[::-1].cumsum()[::-1]
        limits = limits / weights
    levels = (rate - taken) / sharing
    full = limits >= levels
    at = full.argmax()  # the first flow that is not at its cap
    return float(levels[at]) if full[at] else FOREVER


def _before(limits: Floats) -> Floats:
    """What the flows before each take, at their caps."""
    taken = np.empty(len(limits))
    taken[0] = 0.0
    limits[:-1].cumsum(out=taken[1:])
    return taken


class Tree:
    """A filling of flows that cross (branch, root) or the root only."""

    def __init__(self, root: Capacity, branches: list[Capacity]) -> None:
        """The root and what stands under it."""
        self._root = root
        self._branches = branches
        for number, branch in enumerate(branches):
            branch.slot = number
        self._changed: dict[int, None] = {}  # branches, -1 for flows in none
        self._branch: NDArray[np.intp] = np.zeros(0, np.intp)  # of each flow
        self._limits = np.zeros(0)  # of each flow: the least of its cap and its branch's level

    def enter(self, slot: int, flow: Flow) -> None:
        """A flow takes the slot after the last."""
        self._branch, self._limits = grown(self._branch, slot + 1), grown(self._limits, slot + 1)
        self._branch[slot] = self._of(flow)
        self.changed(flow)

    def leave(self, slot: int, flow: Flow, last: int) -> None:
        """A flow leaves its slot to the one in the last slot."""
        self.changed(flow)
        self._branch[slot], self._limits[slot] = self._branch[last], self._limits[last]

    def changed(self, flow: Flow) -> None:
        """The cap of a flow has changed."""
        self._changed[self._of(flow)] = None

    def resized(self, capacity: Capacity) -> None:
        """The rate of a capacity has changed."""
        if capacity is not self._root:
            self._changed[capacity.slot] = None

    def rates(self, caps: Floats, weights: Floats | None) -> Floats:
        """Fill the branches that have changed, then the root."""
        n = len(caps)
        branch, limits = self._branch[:n], self._limits[:n]
        for number in self._changed:
            there = np.flatnonzero(branch == number)
            if number < 0:
                limits[there] = caps[there]
            elif len(there):
                limits[there] = _filled(
                    caps[there], None if weights is None else weights[there], self._branches[number].rate
                )
        self._changed.clear()
        return _filled(limits, weights, self._root.rate)

    def _of(self, flow: Flow) -> int:
        return flow.crosses[0][0].slot if len(flow.crosses) > 1 else -1


def _filled(caps: Floats, weights: Floats | None, rate: float) -> Floats:
    """What flows get of one capacity."""
    at = level(caps, weights, rate)
    if at == FOREVER:
        return caps
    return np.minimum(caps, at if weights is None else at * weights)
