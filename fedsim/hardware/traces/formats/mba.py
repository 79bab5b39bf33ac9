"""Measuring Broadband America of the FCC (free for public use): `curr_httpgetmt.csv`, `curr_httppostmt.csv`, others.

A row is a speed test of a unit, a measuring box in some home: `unit_id`, `dtime`, `bytes_sec`. A test of several rows
numbers them by `sequence`; the last speaks for it. Tests with `successes` 0 have failed and are left out. The same
columns serve both directions: files called httpget are downloads, httppost uploads. Some older releases come without
the line that names the columns; add it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedsim.errors import shown
from fedsim.hardware.traces.files import Row, TraceFile, rows
from fedsim.hardware.traces.formats.reading import Choice, Directions, Format, Speeds, columns
from fedsim.hardware.traces.rates import Series

_NEEDED: Final = ("unit_id", "dtime", "bytes_sec")
_NAMED: Final = 5  # units that a message lists


@dataclass
class _Test:
    """The latest test of a unit, of its rows the one that speaks for it; and the sum over the tests before."""

    moment: str
    sequence: float
    rate: float
    total: float = 0.0
    count: int = 0

    def add(self, row: Row) -> None:
        moment, sequence = row.text("dtime"), row.number("sequence")
        if moment != self.moment:
            self.total, self.count = self.total + self.rate, self.count + 1
        elif not sequence > self.sequence:
            return
        self.moment, self.sequence, self.rate = moment, sequence, row.number("bytes_sec", ())

    @property
    def mean(self) -> float:
        return (self.total + self.rate) / (self.count + 1)


def _failed(row: Row) -> bool:
    return row.number("successes") == 0 or row.number("bytes_sec", ()) == 0


def _rates(file: TraceFile, choice: Choice) -> Directions:
    found: dict[float, tuple[float, float]] = {}
    units: dict[str, None] = {}
    for row in rows(file, _NEEDED):
        unit = row.text("unit_id")
        if len(units) <= _NAMED:
            units[unit] = None
        if unit == (choice.unit or next(iter(units))) and not _failed(row):
            test = (row.number("sequence"), row.number("bytes_sec", ()))
            moment = row.time("dtime")
            if moment not in found or test[0] > found[moment][0]:
                found[moment] = test
    some = ", ".join(list(units)[:_NAMED])
    if choice.unit is None and len(units) > 1:
        raise file.error(f"there are several units; choose one with unit: {next(iter(units))} (there are {some}, ...)")
    if not found:
        raise file.error(f"there is no successful test of unit {shown(choice.unit or some)}; choose another unit")
    times = sorted(found)
    return Directions(Series.sampled(times, [found[time][1] for time in times]))


def _speeds(file: TraceFile) -> Speeds:
    """For each unit the mean over its tests."""
    tests: dict[str, _Test] = {}
    for row in rows(file, _NEEDED):
        if _failed(row):
            continue
        unit = row.text("unit_id")
        if unit in tests:
            tests[unit].add(row)
        else:
            tests[unit] = _Test(row.text("dtime"), row.number("sequence"), row.number("bytes_sec", ()))
    if not tests:
        raise file.error("there is no successful test in it; give another file")
    return Speeds(np.array([test.mean for test in tests.values()]))


FORMAT: Final = Format(
    name="mba",
    holds="speed tests of one direction, of many units",
    recognises=lambda head: {"unit_id", "dtime", "bytes_sec"} <= columns(head),
    rates=_rates,
    speeds=_speeds,
    one_way=True,
    choices=frozenset({"unit"}),
)
