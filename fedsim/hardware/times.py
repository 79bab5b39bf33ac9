"""Measured times: seconds of the units of a model, forward, backward and for the optimizer, at some batch sizes.

Knows the numbers and the lines between them; which operators of a cost they stand for is the price's business
(`tables`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsim.documents.translate import rule
from fedsim.quantities import Delay, Duration
from fedsim.units import human_seconds

_STRICT = ConfigDict(frozen=True, extra="forbid")
_Batch = Annotated[int, Field(ge=1, strict=True)]


class UnitTimes(BaseModel):
    """Seconds of one unit: forward and backward at each batch size, the optimizer's step at any."""

    model_config = _STRICT

    forward: tuple[Duration, ...] | None = None
    backward: tuple[Duration, ...] | None = None
    optimizer: Delay | None = None
    """0 for a unit without parameters."""


class ModelTimes(BaseModel):
    """Seconds of the units of one model."""

    model_config = _STRICT

    batches: tuple[_Batch, ...] = Field(min_length=1, examples=["[1, 8, 32]"])
    """Samples that the columns of `units` were measured at, rising."""
    units: dict[str, UnitTimes] = Field(
        min_length=1, examples=["{conv1: {forward: [1 ms, 6 ms, 22 ms], backward: [2 ms, 13 ms, 48 ms]}}"]
    )
    """By the unit's name; the loss is the unit `loss`."""

    @model_validator(mode="after")
    def _lines(self) -> Self:
        if any(later <= earlier for earlier, later in pairwise(self.batches)):
            raise rule(f"{list(self.batches)} does not rise; sort them, each batch size once", "batches")
        for name, unit in self.units.items():
            for phase, times in (("forward", unit.forward), ("backward", unit.backward)):
                if times is not None and (wrong := self._wrong(times)):
                    raise rule(wrong, "units", name, phase)
        return self

    def _wrong(self, times: Sequence[float]) -> str:
        """Why times cannot be the columns of `batches`, or the empty string."""
        if len(times) != len(self.batches):
            return f"{len(times)} times for {len(self.batches)} batch sizes; give one for each of {list(self.batches)}"
        for batch, (earlier, later) in zip(self.batches[1:], pairwise(times), strict=True):
            if later < earlier:
                said = f"{human_seconds(later)} at batch {batch}, less than {human_seconds(earlier)} at a smaller one"
                return f"{said}; more samples are never faster, so measure it again"
        if at(1, self.batches, times) <= 0:
            first, second = self.batches[:2]
            return f"the line through batch {first} and {second} falls to zero above batch 1; add the time of batch 1"
        return ""


def at(batch: int, batches: Sequence[int], times: Sequence[float]) -> float:
    """The time at a batch size: on the line between the two nearest, or on the line through the last two beyond them.

    With one batch size only, time is in proportion to the samples.
    """
    if len(batches) == 1:
        return times[0] * batch / batches[0]
    right = min(max(bisect_right(batches, batch), 1), len(batches) - 1)
    left = right - 1
    slope = (times[right] - times[left]) / (batches[right] - batches[left])
    return times[left] + slope * (batch - batches[left])
