"""How long to wait before the next try to reach a server that was there before. Sleeps nowhere."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from fedsim.emulation.transport.seam import Pace

LONGEST: Final = 10.0
"""Seconds between two tries."""

SPREAD: Final = 0.2
"""Of a wait, by which it is longer or shorter: devices that have lost their server together come back one by one."""


class Backoff:
    """The waits of one device.

    While its server still keeps its place, it tries at least four times a heartbeat.

    Args:
        pace: of the connection.
        now: seconds of a clock.
    """

    def __init__(self, pace: Pace, now: Callable[[], float] = time.monotonic) -> None:
        self._pace = pace
        self._now = now
        self._random = random.Random()
        self._since: float | None = None
        self._next = pace.first

    def reset(self) -> None:
        """The server was reached."""
        self._since = None
        self._next = self._pace.first

    def wait(self) -> float | None:
        """Seconds before the next try; None: there is to be none."""
        now = self._now()
        if self._since is None:
            self._since = now
        gone = now - self._since
        if gone >= self._pace.patience:
            return None
        wait = self._next
        if gone < self._pace.missed * self._pace.heartbeat:
            wait = min(wait, self._pace.heartbeat / 4)
        self._next = min(2 * wait, LONGEST)
        wait *= self._random.uniform(1 - SPREAD, 1 + SPREAD)
        return min(wait, self._pace.patience - gone)
