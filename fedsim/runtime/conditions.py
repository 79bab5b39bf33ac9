"""What a run is told beforehand: when it ends, when its model is measured, which devices leave.

Seconds come in; the clock's whole nanoseconds go out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from fedsim.errors import UserError
from fedsim.hardware.rounding import whole_nanoseconds
from fedsim.script import Quality

LAST: Final = 2**63 - 1
"""The last moment of the clock in nanoseconds, after 292 years: what a column of a trace can hold."""

LONGEST: Final = 9.2e9
"""Seconds; any moment or duration up to here is before `LAST`."""


class Ending(Enum):
    """Why a run ended."""

    SERVER = "the server's script returned"
    TIME = "until.time was reached"
    QUALITY = "until's accuracy or loss was reached"
    INTERRUPTED = "interrupted"


class Shortage(StrEnum):
    """What happens where a node needs more memory than it may use."""

    REFUSE = "refuse"
    """The run fails."""
    LEAVE = "leave"
    """The device leaves for good; the server cannot, so the run fails."""
    RECORD = "record"
    """It is noted and goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A device that leaves and, perhaps, comes back."""

    device: int
    leave: float
    back: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a run ends, and when its model is evaluated.

    `reached` is asked at every evaluation; `every` None evaluates each published model once.
    """

    time: float | None = None
    every: float | None = None
    reached: Callable[[Quality], bool] | None = None

    def __post_init__(self) -> None:
        if self.time is not None and not 0 <= self.time <= LONGEST:
            raise UserError(f"a run of {self.time} s; give until.time from 0 to {LONGEST:g} s")
        if self.every is not None and not 0 < self.every <= LONGEST:
            raise UserError(f"an evaluation every {self.every} s; give a time above 0 and up to {LONGEST:g} s")

    @property
    def horizon(self) -> int:
        """The last moment (ns) at which something may happen."""
        return LAST if self.time is None else nanoseconds(self.time)


def nanoseconds(seconds: float) -> int:
    """Seconds, at most `LONGEST`, on the clock, rounded up."""
    return whole_nanoseconds(seconds)


def in_order(faults: Iterable[Fault], devices: int) -> list[Fault]:
    """The faults by time of leaving.

    Raises:
        UserError: one of them cannot happen: no such device, a time that is none, or a device that has already left.
    """
    gone: dict[int, float] = {}
    found = sorted(faults, key=lambda fault: (fault.leave, fault.device))
    for fault in found:
        back = math.inf if fault.back is None else fault.back
        if not 0 <= fault.device < devices:
            raise UserError(f"device {fault.device} leaves, but there are devices 0 to {devices - 1}")
        if not 0 <= fault.leave <= LONGEST or (fault.back is not None and not fault.leave < fault.back <= LONGEST):
            raise UserError(
                f"device {fault.device} leaves at {fault.leave} s and is back at {fault.back} s; "
                f"times go from 0 to {LONGEST:g} s, and a device leaves before it is back"
            )
        if fault.leave < gone.get(fault.device, 0):
            raise UserError(f"device {fault.device} leaves at {fault.leave:g} s, but has left already and is not back")
        gone[fault.device] = back
    return found
