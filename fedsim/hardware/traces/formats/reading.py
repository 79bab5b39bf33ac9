"""What a file of recordings may give: capacity over time, the rates that users had, when devices are online.

Knows what is given, not how a file says it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.hardware.traces.attendance import Attendance
from fedsim.hardware.traces.files import TraceFile
from fedsim.hardware.traces.rates import Series


@dataclass(frozen=True)
class Choice:
    """What of a file is wanted."""

    unit: str | None = None
    """Which device of a file that holds several."""
    step: float = 0.5
    """Seconds over which single packets are counted together."""


@dataclass(frozen=True)
class Directions:
    """Capacity over time; a direction that the file says nothing of is None."""

    down: Series | None
    up: Series | None = None


@dataclass(frozen=True, eq=False)
class Speeds:
    """Rates that users had, bytes/s: (users,) each; of a direction that the file says nothing of, None."""

    down: NDArray[np.float64]
    up: NDArray[np.float64] | None = None
    down_deviation: NDArray[np.float64] | None = None
    """Where a user's rate varied: the standard deviation of a normal distribution, cut at 0."""
    up_deviation: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Format:
    """A way of writing recordings, and how to read what it holds; None for what it does not hold."""

    name: str
    holds: str
    """For messages: `rates of users, without times`."""
    recognises: Callable[[bytes], bool]
    """Whether a file that begins so may be one."""
    rates: Callable[[TraceFile, Choice], Directions] | None = None
    speeds: Callable[[TraceFile], Speeds] | None = None
    attendance: Callable[[TraceFile, bool], Attendance] | None = None
    """Given the file, and whether the recordings wrap."""
    measured: Literal["goodput", "line"] | None = "goodput"
    """Whether its capacities are above TCP or on the wire; None: as the link says."""
    one_way: bool = False
    """A file holds one direction; which, only its name or place can say."""
    choices: frozenset[str] = frozenset()
    """The fields of Choice that mean something here."""


def columns(head: bytes) -> set[str]:
    """The names in the first line of a CSV file."""
    first = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    return {name.strip().strip('"') for name in first.decode("utf-8", "replace").split(",")}
