"""5G and 4G traces of University College Cork (Raca et al., MMSys 2018 and 2020; uccmisl/5Gdataset), as CSV.

G-NetTrack Pro wrote a row a second, some twice: `Timestamp` as `2019.11.28_07.00.00`, `DL_bitrate` in kbit/s, `-` for
what is missing. `UL_bitrate` is the traffic of acknowledgements while something was downloaded, no capacity: it is
not read. `PINGAVG` is not read either: the delay is the link's.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

from fedsim.errors import shown
from fedsim.hardware.traces.files import Row, TraceFile, rows
from fedsim.hardware.traces.formats.reading import Choice, Directions, Format, columns
from fedsim.hardware.traces.rates import Series

_MOMENT: Final = re.compile(r"(\d{4})\.(\d\d?)\.(\d\d?)_(\d\d?)\.(\d\d?)\.(\d\d?)")
_KBIT: Final = 125.0  # bytes


def _rates(file: TraceFile, choice: Choice) -> Directions:
    """Samples of the same second are averaged."""
    times: list[float] = []
    sums: list[float] = []
    counts: list[int] = []
    for row in rows(file, ["Timestamp", "DL_bitrate"]):
        rate = row.number("DL_bitrate", missing=("", "-"))
        if math.isnan(rate):
            continue
        time = _moment(row)
        if times and time < times[-1]:
            raise row.error(f"Timestamp: {shown(row.text('Timestamp'))} is before the row above; sort the rows")
        if not times or time > times[-1]:
            times.append(time)
            sums.append(0.0)
            counts.append(0)
        sums[-1] += rate * _KBIT
        counts[-1] += 1
    return Directions(Series.sampled(times, [total / number for total, number in zip(sums, counts, strict=True)]))


def _moment(row: Row) -> float:
    text = row.text("Timestamp")
    try:
        year, month, day, hour, minute, second = map(int, (_MOMENT.fullmatch(text) or _none(text)).groups())
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        raise row.error(f"Timestamp: {shown(text)} is no time such as 2019.11.28_07.00.00; correct it") from None


def _none(text: str) -> re.Match[str]:
    raise ValueError(text)


FORMAT: Final = Format(
    name="ucc",
    holds="downlink capacity over time",
    recognises=lambda head: {"Timestamp", "DL_bitrate"} <= columns(head),
    rates=_rates,
)
