"""A flow, what it shares with others, and what an allocator is: whoever gives flows their rates.

Allocators work in seconds and bytes. They have no clock: the caller says what time it is, never earlier than before.
After changes at one moment, `settle` solves once and names the moment at which the next flow ends. The same
allocators serve the virtual clock and a server that hands out rates on the wall clock.
"""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

FOREVER: Final = math.inf

NEVER: Final = 1e10
"""Seconds: more than the kernel's clock can show; what would happen then does not happen."""

ROUNDING: Final = 4e-16
"""Relative error that a few operations on doubles leave behind."""

_SLACK: Final = 1e-12  # seconds


class Capacity:
    """Something that flows share: bytes per second, of all that cross it together."""

    __slots__ = ("rate", "slot", "users")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.slot = 0  # an allocator's number for it
        self.users = 0  # flows that cross it now, where an allocator counts them


class Flow:
    """Bytes under way at a rate between 0 and `cap`.

    `crosses` are the capacities on its path, each with the share of the flow's rate that it takes there: 1, or less
    for what only acknowledges. Of what is shared, flows get amounts in proportion to their weights.
    """

    __slots__ = ("cap", "connection", "crosses", "home", "left", "mark", "number", "ready", "slot", "started", "weight")

    def __init__(
        self,
        left: float,
        cap: float = FOREVER,
        crosses: tuple[tuple[Capacity, float], ...] = (),
        weight: float = 1.0,
        number: int = 0,
    ) -> None:
        self.left = left  # bytes, as of the last time that the allocator looked
        self.cap = cap
        self.crosses = crosses
        self.weight = weight
        self.number = number  # these four are the caller's
        self.ready = 0.0
        self.started: int | None = None
        self.connection: Any = None
        self.home: Any = None  # these three are the allocator's; no home: it does not flow
        self.slot = 0
        self.mark = 0.0


class Allocator(Protocol):
    """Max-min fair rates: no flow can get more without taking from one that has, for its weight, no more than it.

    Whoever changes a cap or a rate asks first what has `finished`: what is left by rounding only would go on for ever
    at a rate of 0.
    """

    ticket: int
    """The caller's, to know an announcement of `settle` that has been overtaken."""

    def start(self, now: float, flow: Flow, /) -> None:
        """A flow begins."""
        ...

    def stop(self, now: float, flow: Flow, /) -> None:
        """A flow ends before its time; `left` says how many bytes it still had."""
        ...

    def change(self, now: float, flow: Flow, cap: float, /) -> None:
        """A flow gets another cap."""
        ...

    def resize(self, now: float, capacity: Capacity, rate: float, /) -> None:
        """A shared capacity gets another rate."""
        ...

    def finished(self, now: float, /) -> list[Flow]:
        """Take out the flows that have ended by now."""
        ...

    def settle(self, now: float, /) -> float:
        """Solve after changes; answers with the moment at which the next flow will end unless something changes."""
        ...

    def rate(self, flow: Flow, /) -> float:
        """Bytes per second that a flow gets, as of the last `settle`."""
        ...


def slack(now: float) -> float:
    """Seconds after `now` within which a flow counts as ended at `now`: rounding errors are not worth a solving."""
    return _SLACK + 10 * ROUNDING * now


def moment(seconds: float) -> int:
    """A time on the kernel's clock, rounded up to whole nanoseconds, but for what is noise of floating point."""
    exact = seconds * 1e9
    return math.ceil(exact - min(0.49, 1e-3 + 1e-15 * exact))
