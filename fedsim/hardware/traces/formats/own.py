"""fedsim's own format: CSV with the columns `time_s`, `up_bit_s`, `down_bit_s`, `online`; for several devices `device`.

Rows hold from their time to the next row's; a last row with a time only ends the recording, otherwise the last row
holds as long as the one before it. Columns that are not needed may be missing. While `online` is 0 nothing flows.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

import numpy as np

from fedsim.errors import shown
from fedsim.hardware.traces.attendance import Attendance, Availability
from fedsim.hardware.traces.files import Row, TraceFile, rows
from fedsim.hardware.traces.formats.reading import Choice, Directions, Format, columns
from fedsim.hardware.traces.rates import Series

_SWITCHES: Final = {"1": True, "0": False, "true": True, "false": False, "on": True, "off": False}
_BITS: Final = 8


class _Recording:
    """The rows of one device: their times and values, and whether they have ended."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.values: list[tuple[float, ...]] = []
        self.end: float | None = None

    def add(self, row: Row, values: tuple[float, ...] | None) -> None:
        time = row.number("time_s", missing=())
        before = self.times[-1] if self.times else None
        if self.end is not None:
            raise row.error("a row after the one without values, which ends the recording; fill that one or end there")
        if before is None and (time != 0 or values is None):
            raise row.error(f"the recording begins with {'no values' if time == 0 else f'{time:g} s'}; begin at 0 s")
        if before is not None and time <= before:
            raise row.error(f"time_s: {time:g} s comes after {before:g} s; times must ascend")
        if values is None:
            self.end = time
        else:
            self.times.append(time)
            self.values.append(values)

    @property
    def length(self) -> float:
        return Series.sampled(self.times, self.times).length if self.end is None else self.end

    def column(self, number: int) -> Series:
        rates = np.array([value[number] for value in self.values])
        return Series(np.array(self.times), rates, self.length)


def _online(row: Row) -> bool | None:
    text = row.text("online").lower()
    if text and text not in _SWITCHES:
        raise row.error(f"online: {shown(text)} does not fit; give 1 or 0")
    return _SWITCHES.get(text)


def _rates(file: TraceFile, choice: Choice) -> Directions:
    recording = _Recording()
    unit = choice.unit
    given: list[str] = []
    for row in rows(file, ["time_s"], bare=True):
        if not given:
            given = [name for name in ("up_bit_s", "down_bit_s") if name in row.columns]
            if not given:
                raise file.error("there is neither a column up_bit_s nor down_bit_s; add what the link carries", 1)
        device = row.text("device")
        unit = device if unit is None else unit
        if device == unit:
            recording.add(row, _capacities(row, given))
        elif choice.unit is None:
            raise row.error(f"a second device, {shown(device)}; choose one with unit: {unit}")
    if not recording.times:
        raise file.error(f"there is no device {shown(unit)}; correct unit")
    found = {name: recording.column(number).scaled(1 / _BITS) for number, name in enumerate(given)}
    return Directions(found.get("down_bit_s"), found.get("up_bit_s"))


def _capacities(row: Row, given: list[str]) -> tuple[float, ...] | None:
    found = [row.number(name) for name in given]
    if _online(row) is False:
        return (0.0,) * len(given)
    missing = [name for name, value in zip(given, found, strict=True) if math.isnan(value)]
    if len(missing) == len(given):
        return None
    if missing:
        raise row.error(f"{missing[0]}: no number; give one (the row that ends a recording has no values at all)")
    return tuple(found)


def _attendance(file: TraceFile, wrap: bool) -> Attendance:
    recordings: dict[str, _Recording] = {}
    for row in rows(file, ["time_s", "online"], bare=True):
        online = _online(row)
        values = None if online is None else (float(online),)
        recordings.setdefault(row.text("device"), _Recording()).add(row, values)
    found = (_availability(recording, wrap=wrap) for recording in recordings.values())
    return Attendance(tuple(member for member in found if member is not None))


def _availability(recording: _Recording, *, wrap: bool) -> Availability | None:
    edges = [*recording.times, recording.length]
    online = [step for step, (value,) in zip(pairwise(edges), recording.values, strict=True) if value]
    return Availability.of(np.array(online).reshape(-1, 2), recording.length, wrap=wrap)


FORMAT: Final = Format(
    name="fedsim",
    holds="capacity over time or when devices are online",
    recognises=lambda head: "time_s" in columns(head),
    rates=_rates,
    attendance=_attendance,
    measured=None,
    choices=frozenset({"unit"}),
)
