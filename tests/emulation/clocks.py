"""A clock that is moved by hand, and by whoever waits for it: no test sleeps.

It passes the real clock's tests. What is planned happens when its moment comes, in the thread that lets time pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from heapq import heappop, heappush


class FakeClock:
    """Time that passes only when somebody waits or works.

    A wait without an end, with nothing planned, is one for another thread.
    """

    def __init__(self, dilation: float = 1.0, now: int = 0) -> None:
        self.dilation = dilation
        self._now = now
        self._planned: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def now(self) -> int:
        """The present moment."""
        return self._now

    def plan(self, moment: int, action: Callable[[], None]) -> None:
        """Let something happen at a moment; what is planned for one moment happens in the order of planning."""
        self._count += 1
        heappush(self._planned, (moment, self._count, action))

    def work(self, nanoseconds: int) -> None:
        """Let time pass, with all that is planned."""
        end = self._now + nanoseconds
        while self._planned and self._planned[0][0] <= end:
            self._happen()
        self._now = end

    def wait(self, condition: threading.Condition, until: int | None) -> None:
        """Go on to the next thing that is planned, or to the moment."""
        if until is not None and until <= self._now:
            return
        if self._planned and (until is None or self._planned[0][0] <= until):
            self._happen()
        elif until is not None:
            self._now = until
        else:
            condition.wait()

    def sleep(self, until: int) -> None:
        """Let time pass up to a moment."""
        self.work(max(0, until - self._now))

    def _happen(self) -> None:
        moment, _, action = heappop(self._planned)
        self._now = max(self._now, moment)
        action()
