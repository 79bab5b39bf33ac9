"""Which window of the model devices have now, and what has been trained of it so far. NumPy only."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from fedsim.learning.plan import BlockPlan
from fedsim.payload.supports import WHOLE, Support, covered


class Rolling:
    """Windows that move with the rounds.

    Args:
        whole: the block that variants have parts of.
    """

    def __init__(self, whole: BlockPlan) -> None:
        self.round = 0
        """By which windows lie where they do."""
        self._whole = whole
        self._shapes = {shape.name: shape.shape for shape in whole.parameters.shapes}
        self._reached = {name: np.zeros(shape, np.bool_) for name, shape in self._shapes.items()}

    def shares(self, held: Collection[BlockPlan]) -> tuple[float, float]:
        """Of the trained parameters, the share that blocks have this round, and that was had in any round until now."""
        supports = [self._support(plan) for plan in held]
        now = covered(supports, self._shapes)
        assert now is not None, "windows have no masks"
        for name, there in self._reached.items():
            for each in supports:
                there[each.index(name, there.shape)] = True
        reached = sum(int(np.count_nonzero(there)) for there in self._reached.values())
        return now, reached / sum(there.size for there in self._reached.values())

    def _support(self, plan: BlockPlan) -> Support:
        if plan is self._whole:
            return WHOLE
        return plan.support if plan.windows is None else plan.windows.support(self.round)
