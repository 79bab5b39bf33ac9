"""Calibration: how far the prices of a profile are from the times that were measured on its machine.

Knows the report that a profile carries; `fedsim calibrate` makes it.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from fedsim.errors import shown
from fedsim.hardware.sources import Text
from fedsim.quantities import Deviation, Duration, Fraction

_STRICT = ConfigDict(frozen=True, extra="forbid")


def _day(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"{shown(text)} is no day; write it like 2026-03-31") from None


class ModelFit(BaseModel):
    """Errors of the prices of one model's works, as shares of their measured times."""

    model_config = _STRICT

    model: Text = Field(examples=["vgg5"])
    mape: Fraction = Field(examples=["6 %"])
    """Mean of the absolute errors."""
    left_out: Fraction = Field(examples=["12 %"])
    """The same, when the profile was fitted to all other models."""


class Measurement(BaseModel):
    """A part of the training steps of one model at one batch size: its time, and what the profile says to it."""

    model_config = _STRICT

    model: Text = Field(examples=["vgg5"])
    batch: Annotated[int, Field(ge=1, strict=True)] = Field(examples=[8])
    part: Text = Field(examples=["forward"])
    measured: Duration = Field(examples=["3.2 ms"])
    """The median of the repeats."""
    priced: Duration = Field(examples=["3.3 ms"])
    left_out: Duration = Field(examples=["3.6 ms"])
    """What a profile says that was fitted to all other models."""
    scatter: Fraction = Field(examples=["2 %"])
    """Half of the distance between the quartiles of the repeats, as a share of the median."""


class Calibration(BaseModel):
    """Errors of the prices of a profile, as shares of the times that were measured, and how these were made."""

    model_config = _STRICT

    mape: Fraction = Field(examples=["7 %"])
    """Mean of the absolute errors."""
    bias: Deviation = Field(examples=["-1 %"])
    """Mean of the errors; below zero: prices are too low."""
    worst: Fraction = Field(examples=["24 %"])
    """Largest absolute error."""
    left_out: Fraction = Field(examples=["15 %"])
    """`mape` of models that were left out of the fit, each in its turn: the timing error to expect."""
    rho: Annotated[float, Field(ge=-1, le=1)] = Field(examples=[0.99])
    """Spearman's correlation of the ranks of priced and measured times."""
    machine: Text = Field(examples=["the machine's name and processor"])
    threads: Annotated[int, Field(ge=1, strict=True)] = Field(examples=[1])
    """Of an operator."""
    versions: dict[str, Text] = Field(examples=["{torch: 2.13.0}"])
    """Of the programs that were measured."""
    date: Annotated[Text, AfterValidator(_day)] = Field(examples=["2026-03-31"])
    load: Fraction | None = None
    """Share of the machine that other processes took meanwhile."""
    scatter: Fraction | None = None
    """Median of the scatter of all measurements."""
    models: tuple[ModelFit, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    """The evidence."""


def _none(value: Any) -> Any:  # whatever stands in the file
    return None if value == "none" else value


CalibrationOrNone = Annotated[Calibration | None, BeforeValidator(_none)]
"""`none` in a file: the figures were put together from sources, not fitted to this machine."""
