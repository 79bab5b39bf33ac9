"""Measured speed of kernels that skip zeros, against dense ones, by the share of weights that are zero.

Knows the points and the lines between them; whose weights are zero is the cost's business.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsim.costs import OpClass
from fedsim.documents.translate import rule
from fedsim.quantities import Fraction

_STRICT = ConfigDict(frozen=True, extra="forbid")
_Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Curve(BaseModel):
    """Speeds at some shares of zeros."""

    model_config = _STRICT

    sparsity: tuple[Fraction, ...] = Field(min_length=1, examples=["[50 %, 80 %, 90 %, 95 %]"])
    """Shares of the weights that are zero, rising."""
    speed: tuple[_Speed, ...] = Field(min_length=1, examples=["[0.15, 0.50, 1.02, 2.4]"])
    """The time of a dense kernel over that of the one that skips zeros, at each of them."""

    @model_validator(mode="after")
    def _points(self) -> Self:
        if len(self.speed) != len(self.sparsity):
            raise rule(
                f"{len(self.speed)} speeds for {len(self.sparsity)} shares; give one for each of {list(self.sparsity)}",
                "speed",
            )
        if any(later <= earlier for earlier, later in pairwise(self.sparsity)):
            raise rule(f"{list(self.sparsity)} does not rise; sort them, each share once", "sparsity")
        if self.sparsity[0] <= 0 or self.sparsity[-1] >= 1:
            raise rule(f"{list(self.sparsity)} must lie between 0 and 1; leave the ends out", "sparsity")
        return self

    def at(self, sparsity: float) -> float:
        """The speed at a share of zeros, 1 or more: where sparse kernels are slower, dense ones are used.

        On the line between the two nearest points; below the first one 1, above the last as there.
        """
        if sparsity < self.sparsity[0]:
            return 1.0
        if sparsity >= self.sparsity[-1]:
            return max(1.0, self.speed[-1])
        right = bisect_right(self.sparsity, sparsity)
        (first, second), (low, high) = self.sparsity[right - 1 : right + 1], self.speed[right - 1 : right + 1]
        return max(1.0, low + (high - low) * (sparsity - first) / (second - first))


class SparseKernels(BaseModel):
    """The curves of a processor by class of operator; zeros save nothing where there is none."""

    model_config = _STRICT

    linear: Curve | None = None
    conv: Curve | None = None
    pointwise: Curve | None = None

    def speed(self, kind: OpClass, sparsity: float) -> float:
        """How many times faster than dense an operator of a class is."""
        curve = {OpClass.LINEAR: self.linear, OpClass.CONV: self.conv, OpClass.POINTWISE: self.pointwise}.get(kind)
        return 1.0 if curve is None or not sparsity else curve.at(sparsity)
