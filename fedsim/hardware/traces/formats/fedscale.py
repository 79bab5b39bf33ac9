"""FedScale's two device traces (Lai et al., ICML 2022; SymbioticLab/FedScale, benchmark/dataset/data/device_info).

Both are pickled dictionaries with an entry a client. `client_device_capacity`: `computation`, milliseconds of inference
a sample, and `communication`, kbit/s, the same both ways; a kbit is 1024 bits, as FedScale divides bytes by 1024 and
multiplies by 8 before it divides by the rate. `client_behave_trace`: `active` and `inactive`, the seconds at which a
device comes and goes, and `finish_time`, after which it begins again; `duration` and `model` are not read. The data
are for research purposes and do not ship.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import shown
from fedsim.hardware.traces.attendance import Attendance, Availability
from fedsim.hardware.traces.files import TraceFile
from fedsim.hardware.traces.formats.reading import Format, Speeds
from fedsim.hardware.traces.unpickling import plain_data

_KBIT: Final = 128.0  # bytes: 1024 bits
_MS: Final = 1e-3


@dataclass(frozen=True, eq=False)
class Capacities:
    """What FedScale says of its clients, in the order of the file."""

    seconds_per_sample: NDArray[np.float64]
    """(clients,) of inference; FedScale takes three times as much for training."""
    rates: NDArray[np.float64]
    """(clients,) bytes/s, either way."""


def capacities(file: TraceFile) -> Capacities:
    """The devices of `client_device_capacity`.

    Raises:
        UserError: the file is not such a file.
    """
    found = np.array(
        [
            (_number(file, name, entry, "computation"), _number(file, name, entry, "communication"))
            for name, entry in _entries(file, "communication", "active", "availability: ...")
        ]
    )
    return Capacities(found[:, 0] * _MS, found[:, 1] * _KBIT)


def _speeds(file: TraceFile) -> Speeds:
    rates = capacities(file).rates
    return Speeds(rates, rates)


def _attendance(file: TraceFile, wrap: bool) -> Attendance:
    """Clients that are never there are left out."""
    found = []
    for name, entry in _entries(file, "active", "communication", "population: {kind: file, ...}"):
        length = _number(file, name, entry, "finish_time")
        starts, ends = (_moments(file, name, entry, key) for key in ("active", "inactive"))
        if len(ends) == len(starts) - 1:
            ends.append(length)  # still there at the end
        if len(starts) != len(ends):
            wrong = f"{len(starts)} times in active, but {len(ends)} in inactive"
            raise file.error(f"{wrong}; each coming needs its going", f"client {name}")
        intervals = np.array([starts, ends], np.float64).T
        if not np.isfinite(intervals).all():
            raise file.error("active or inactive holds a time that is not finite; correct it", f"client {name}")
        member = Availability.of(intervals, length, wrap=wrap)
        if member is not None:
            found.append(member)
    return Attendance(tuple(found))


def _entries(file: TraceFile, wanted: str, other: str, use: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and entries, once it is clear that this is the file with the key that is `wanted`."""
    data = plain_data(file)
    if not isinstance(data, dict) or not data:
        raise file.error("no dictionary with an entry a client; give one of FedScale's own files")
    for name, entry in data.items():
        if not isinstance(entry, dict) or wanted not in entry:
            if isinstance(entry, dict) and other in entry:
                raise file.error(f"this file of FedScale's holds {other}, not {wanted}; it serves {use}")
            raise file.error(f"no key {wanted}; give FedScale's own file", f"client {shown(name)}")
        yield shown(name), entry


def _number(file: TraceFile, name: str, entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise file.error(f"{key}: {shown(value)} is no number above zero; correct it", f"client {name}")
    return float(value)


def _moments(file: TraceFile, name: str, entry: Mapping[str, Any], key: str) -> list[float]:
    values = entry.get(key)
    if not isinstance(values, list | tuple) or not {*map(type, values)} <= {int, float}:
        raise file.error(f"{key}: no list of seconds; correct it", f"client {name}")
    return [*values]


FORMAT: Final = Format(
    name="fedscale",
    holds="rates of devices, or when they are online",
    recognises=lambda head: head.startswith((b"\x80", b"}q", b"(dp")),
    speeds=_speeds,
    attendance=_attendance,
)
