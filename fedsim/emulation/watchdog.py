"""What watches an emulation from outside of its scripts: the memory of a process, and whether a run goes on at all.

Knows neither nodes' scripts nor transports; it is told, and it tells.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import psutil

from fedsim.runtime.conditions import LAST
from fedsim.runtime.deadlock import Waiting, deadlock
from fedsim.units import human_seconds

INTERVAL: Final = 0.3
"""Seconds between two looks at a process's memory: the rate of CoLExT (sands-lab/colext)."""

DISAGREEMENT: Final = 0.2
"""Share by which a measured peak may differ from the predicted one before it is worth telling."""

PATIENCE: Final = 60.0
"""Wall seconds without any effect completed that a host may need for itself."""

TARGETS: Final = 20
"""How many times the longest work nothing may be completed."""


def resident() -> int:
    """Bytes of this process in memory."""
    return int(psutil.Process().memory_info().rss)


class MemoryWatch:
    """The memory of the one node that this process is, measured.

    Used is what the process has grown by since `base`, and what a node's process takes before any model.

    Args:
        runtime: bytes of the latter, as the node's profile says.
        usable: bytes that the node may use.
        exceeded: told, once and from the watch's thread, of the bytes needed when they are more than that.
        now: moment (ns) that a peak is put down with.
        sample: bytes that the process has.
        interval: seconds between two samples.
    """

    def __init__(
        self,
        runtime: int,
        usable: int,
        exceeded: Callable[[int], None],
        *,
        now: Callable[[], int] = time.monotonic_ns,
        sample: Callable[[], int] = resident,
        interval: float = INTERVAL,
    ) -> None:
        self._runtime = runtime
        self._usable = usable
        self._exceeded = exceeded
        self._now = now
        self._sample = sample
        self._interval = interval
        self._base: int | None = None
        self._peak = (0, 0)
        self._told = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fedsim-memory", daemon=True)

    def base(self) -> int:
        """What the process has now is not the model's: to be called once, before that is built."""
        self._base = self._sample()
        return self._base

    def start(self) -> None:
        """Look from now on, until `close`."""
        assert self._base is not None, "what the process had before the model is not known"
        self._thread.start()

    def look(self) -> int:
        """Look once; answers with the bytes used. For the watch's own thread, or where there is none."""
        assert self._base is not None, "what the process had before the model is not known"
        used = self._sample() - self._base + self._runtime
        if used > self._peak[0]:
            self._peak = (used, self._now())
        if used > self._usable and not self._told:
            self._told = True
            self._exceeded(used)
        return used

    @property
    def peak(self) -> tuple[int, int]:
        """The most bytes that were used at any look, and when (ns) first."""
        return self._peak

    def disagreement(self, predicted_peak: int) -> float | None:
        """By what share the peak is above (or, below 0, under) the predicted one, if that is worth telling.

        Args:
            predicted_peak: bytes, with those of `runtime`; above 0.
        """
        share = self._peak[0] / predicted_peak - 1
        return share if abs(share) > DISAGREEMENT else None

    def close(self) -> None:
        """Look once more, and no longer."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._base is not None:
            self.look()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self.look()


class Progress:
    """Whether anything still happens in a run, as far as its watcher has been told.

    Everything is in the scenario's time, so that it stands still in pauses, and a long work is as long as it is. Only
    the patience with the host itself is in seconds of the wall.

    Args:
        now: the present moment (ns).
        dilation: wall seconds a second of the scenario.
        longest: seconds of the scenario that the longest work of any node takes.
    """

    def __init__(self, now: Callable[[], int], dilation: float = 1.0, longest: float = 0.0) -> None:
        self._now = now
        self._limit = round(max(PATIENCE / dilation, TARGETS * longest) * 1e9)
        self._dilation = dilation
        self._lock = threading.Lock()
        self._last = now()
        self._due: dict[int, int] = {}

    @property
    def limit(self) -> int:
        """Nanoseconds of the scenario for which nothing may happen."""
        return self._limit

    def beat(self, node: int, until: int | None = None) -> None:
        """A node has completed an effect, or something has come from it: bytes of a message count, a heartbeat not.

        Args:
            node: its number; what was told of it before is over.
            until: moment (ns) at which what it does now ends by itself, at the latest: a work, a sleep, a wait with a
                timeout. Until then nothing is stuck.
        """
        with self._lock:
            self._last = max(self._last, self._now())
            if until is None or until >= LAST:
                self._due.pop(node, None)
            else:
                self._due[node] = until

    def check(self, now: int | None = None) -> bool:
        """Whether nothing has happened for too long, and nothing was due."""
        return self._idle(now) > self._limit

    def text(self, waits: Iterable[Waiting], rest: Mapping[str, int] | None = None) -> str:
        """The text of the `Deadlock` that this is.

        Args:
            waits: what every node waits for that waits, in the order of their numbers.
            rest: how many devices there are beside them, by what they have done.
        """
        idle = self._idle(None) / 1e9
        wall = "" if self._dilation == 1 else f" ({human_seconds(idle * self._dilation)} of the wall clock)"
        why = f"no node has completed anything for {human_seconds(idle)}{wall}, and nothing was due"
        return deadlock(self._now(), why, waits, rest or {})

    def _idle(self, now: int | None) -> int:
        """Nanoseconds since something happened or was due."""
        with self._lock:
            return (self._now() if now is None else now) - max((self._last, *self._due.values()))
