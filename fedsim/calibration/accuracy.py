"""How far prices are from measured times: the figures that a profile and a report quote.

Errors are relative to the measured time: 0.1 is a price that is a tenth too high. Pure functions of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of some prices."""

    mape: float
    """Mean of the absolute errors."""
    bias: float
    """Mean of the errors; below 0: prices are too low."""
    worst: float
    """The largest absolute error."""
    rho: float
    """Spearman's correlation of the ranks of priced and measured times."""


def accuracy(measured: Sequence[float] | NDArray[np.float64], priced: NDArray[np.float64]) -> Accuracy:
    """The accuracy of prices, at least one."""
    error = errors(measured, priced)
    ranks = np.corrcoef(_ranks(np.asarray(measured)), _ranks(priced))[0, 1] if len(error) > 1 else 1.0
    return Accuracy(float(np.abs(error).mean()), float(error.mean()), float(np.abs(error).max()), float(ranks))


def errors(measured: Sequence[float] | NDArray[np.float64], priced: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative errors of prices."""
    return np.asarray(priced / np.asarray(measured) - 1)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places in rising order; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])
