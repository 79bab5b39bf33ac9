"""WetLinks, two years of Starlink (Laniewski et al. 2024; sys-uos/WetLinks, CC BY-SA 4.0): the iperf measurements.

A row is a second of a measurement, or a whole one: `timestamp_start`, `timestamp_end`, `download` and `upload` in
bit/s, a cell empty where that direction was not measured. Measurements take 15 s every few minutes. As in the data
set's own preprocessing, rows less than 2 s apart are one measurement and are averaged; it holds until the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import shown
from fedsim.hardware.traces.files import Row, TraceFile, rows
from fedsim.hardware.traces.formats.reading import Choice, Directions, Format, columns
from fedsim.hardware.traces.rates import Series

_APART: Final = 2.0  # s, throughput_merger.py of the data set
_BITS: Final = 8
_MISSING: Final = ("", "nan", "NaN")


def _rates(file: TraceFile, choice: Choice) -> Directions:
    times, down, up = np.array(list(_measurements(file))).T
    if np.isnan(down).all():
        raise file.error("there is no download in it; give a file with measurements")
    return Directions(_series(times, down), None if np.isnan(up).all() else _series(times, up))


def _series(times: NDArray[np.float64], rates: NDArray[np.float64]) -> Series:
    """Where a measurement lacks the direction, the one before it holds on; before the first, the first."""
    measured = np.flatnonzero(~np.isnan(rates))
    latest = np.searchsorted(measured, np.arange(len(rates)), "right") - 1
    return Series.sampled(times, rates[measured[np.maximum(latest, 0)]]).scaled(1 / _BITS)


def _measurements(file: TraceFile) -> Iterator[tuple[float, float, float]]:
    """Start, mean download and mean upload of each."""
    together: list[Row] = []
    start = end = -math.inf
    for row in rows(file, ["timestamp_start", "timestamp_end", "download", "upload"]):
        begun = row.time("timestamp_start")
        if begun < start:
            text = shown(row.text("timestamp_start"))
            raise row.error(f"timestamp_start: {text} is before the measurement above; sort the rows")
        if together and begun - end >= _APART:
            yield start, _mean(together, "download"), _mean(together, "upload")
            together = []
        if not together:
            start = begun
        together.append(row)
        end = row.time("timestamp_end")
    yield start, _mean(together, "download"), _mean(together, "upload")


def _mean(measured: list[Row], column: str) -> float:
    found = [rate for row in measured if not math.isnan(rate := row.number(column, _MISSING))]
    return sum(found) / len(found) if found else math.nan


FORMAT: Final = Format(
    name="wetlinks",
    holds="capacity over time",
    recognises=lambda head: {"timestamp_start", "download", "upload"} <= columns(head),
    rates=_rates,
)
