"""Speed tests of phones in China, 2021 (Yang et al., SIGCOMM 2022; mobilebandwidth.github.io, Apache-2.0), as CSV.

A row is a test of one user: `bandwidth_Mbps` is the downlink, in Mbit/s. There are no times.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fedsim.hardware.traces.files import TraceFile, rows
from fedsim.hardware.traces.formats.reading import Format, Speeds, columns

_COLUMN: Final = "bandwidth_Mbps"
_MBIT: Final = 125e3  # bytes


def _speeds(file: TraceFile) -> Speeds:
    """Tests that measured 0 are left out: such a user is not connected."""
    found = np.array([row.number(_COLUMN, ()) for row in rows(file, [_COLUMN])])
    if not found.any():
        raise file.error(f"{_COLUMN} is 0 in every row; give a file with measurements")
    return Speeds(found[found > 0] * _MBIT)


FORMAT: Final = Format(
    name="mobilebandwidth",
    holds="rates of users, without times",
    recognises=lambda head: _COLUMN in columns(head),
    speeds=_speeds,
)
