"""The scenario's time on the wall clock: stretched by a dilation, and standing still while the run is paused.

A moment of the scenario is a whole number of nanoseconds since its start; one of the wall clock is a reading of
`time.monotonic_ns`, which all processes of a host share: clocks with one origin and one dilation agree. Knows nothing
of what is done when a moment has come.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

_SPIN: Final = 200_000  # ns; a sleep ends 60 to 150 µs late, so the last of a wait may be spent asking for the time
_LONGEST: Final = 3600.0  # s; of one wait: a lock's timeout is limited


class Clock(Protocol):
    """What tells and awaits the scenario's time."""

    @property
    def dilation(self) -> float:
        """Wall seconds a second of the scenario."""
        ...

    def now(self) -> int:
        """Nanoseconds since the start of the run; below 0 before it. Never goes back."""
        ...

    def wait(self, condition: threading.Condition, until: int | None, /) -> None:
        """Wait, with `condition` held, until it is notified or a moment has come (None: none will).

        May return earlier, for no reason: the caller looks whether what it waits for has come to pass.
        """
        ...


class _State(NamedTuple):
    """Which readings count; replaced as a whole, so that a reader needs no lock."""

    paused_for: int
    """Wall nanoseconds that do not count."""
    paused: int | None
    """A reading of the wall clock: since when time stands still."""
    told: int
    """A moment that was told already: none before it is told again."""


class WallClock:
    """The scenario's time as the wall clock goes.

    Args:
        origin: what `source` says at the start of the run, in nanoseconds; None: now.
        dilation: wall seconds a second of the scenario, above 0.
        spin: whether the last 0.2 ms of a wait are spent asking for the time: more exact, but it takes a core.
        source: the wall clock in nanoseconds.
    """

    def __init__(
        self,
        origin: int | None = None,
        dilation: float = 1.0,
        *,
        spin: bool = False,
        source: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        assert dilation > 0, f"a dilation of {dilation}"
        self._origin = source() if origin is None else origin
        self._dilation = dilation
        self._spin = _SPIN if spin else 0
        self._source = source
        self._state = _State(0, None, -(2**63))
        self._lock = threading.Lock()  # of changes of the state, and of `_held`
        self._held: set[threading.Condition] = set()  # what waits for time to go on

    @property
    def dilation(self) -> float:
        """Wall seconds a second of the scenario."""
        return self._dilation

    @property
    def origin(self) -> int:
        """The reading of the wall clock at the start of the run."""
        return self._origin

    @property
    def paused_for(self) -> int:
        """Wall nanoseconds that did not count, of the pauses that are over."""
        return self._state.paused_for

    def now(self) -> int:
        """Nanoseconds since the start of the run; below 0 before it. Never goes back."""
        state = self._state
        return self._at(self._source() if state.paused is None else state.paused, state)

    def at(self, wall: int) -> int:
        """The moment of the scenario at a reading of the wall clock since the last pause."""
        return self._at(wall, self._state)

    def reading(self, moment: int) -> int:
        """The reading of the wall clock at a moment of the scenario, unless there is a pause before it."""
        return self._origin + self._state.paused_for + math.ceil(moment * self._dilation)

    def wait(self, condition: threading.Condition, until: int | None) -> None:
        """Wait, with `condition` held, until it is notified or a moment has come; may return early."""
        if until is None:
            condition.wait()
            return
        state = self._state
        if state.paused is not None:
            with self._lock:
                if self._state.paused is None:
                    return
                self._held.add(condition)
            condition.wait()
            return
        end = self.reading(until)
        left = end - self._source() - self._spin
        if left > 0 and condition.wait(min(left / 1e9, _LONGEST)):
            return
        if self._spin and end - self._source() <= self._spin:
            while self._source() < end and self._state is state:
                pass

    def sleep(self, until: int) -> None:
        """Wait for a moment."""
        condition = threading.Condition()
        with condition:
            while self.now() < until:
                self.wait(condition, until)

    def pause(self) -> int:
        """Let time stand still; answers with the moment at which it does."""
        with self._lock:
            state = self._state
            if state.paused is None:
                paused = self._source()
                state = self._state = _State(state.paused_for, paused, self._at(paused, state))
            return state.told

    def resume(self, paused_for: int | None = None) -> int:
        """Let time go on; answers with the wall nanoseconds that did not count, of all pauses.

        With `paused_for`, it is so many: clocks of several processes, which hear of a pause at slightly different
        moments, agree again after it.
        """
        with self._lock:
            state = self._state
            if state.paused is not None:
                total = state.paused_for + self._source() - state.paused if paused_for is None else paused_for
                state = self._state = _State(total, None, state.told)
            held, self._held = self._held, set()
        for condition in held:
            with condition:
                condition.notify_all()
        return state.paused_for

    def _at(self, wall: int, state: _State) -> int:
        return max(math.floor((wall - self._origin - state.paused_for) / self._dilation), state.told)
