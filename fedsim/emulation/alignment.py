"""The server's monotonic clock as another process tells it: probes in, an offset with a bound out.

A probe leaves, is received, answered, and comes back; whatever the ways took, the offset in its middle is known to half
its round trip. Of a round of probes the quickest counts. The last rounds, each as heavy as it is certain, give a line,
whose slope is the drift. Knows neither what carries probes nor the scenario's time: `now` is a source for `WallClock`.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final, NamedTuple

PROBES: Final = 16
"""Probes of a round."""

ROUNDS: Final = 10
"""Rounds that count."""

_FEWEST: Final = 3  # rounds that may tell a drift
_RESOLUTION: Final = 1000  # ns; a round trip below this is not believed to be exacter than others
_UNKNOWN: Final = 100e-6  # of two quartz clocks, each within 50 ppm, before their drift is known
_KNOWN: Final = 15e-6  # what a known drift may change by: the frequency tolerance of NTP (RFC 5905, PHI)

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_TIME: Final = Path("/proc/self/ns/time")


class Sight(NamedTuple):
    """What a probe tells: at `own`, the server's clock was `offset` ahead, give or take `bound`; in nanoseconds."""

    own: int
    offset: int
    bound: int


class _Line(NamedTuple):
    """Offsets, and what was told before they held; replaced as a whole, so that a reader needs no lock."""

    own: int
    offset: int
    drift: float
    """Nanoseconds a nanosecond."""
    bound: int
    told: int

    def at(self, own: int) -> int:
        return self.offset + round(self.drift * (own - self.own))

    def now(self, own: int) -> int:
        return max(own + self.at(own), self.told)


class Alignment:
    """The server's clock, told by this process; one thread adds probes, any number ask for the time.

    Args:
        source: this process's clock in nanoseconds.
    """

    def __init__(self, source: Callable[[], int] = time.monotonic_ns) -> None:
        self._source = source
        self._lock = threading.Lock()  # held while there is no line because it is being replaced
        self._line: _Line | None = None
        self._rounds: tuple[Sight, ...] = ()
        self._probes: list[Sight] = []
        self._takes = True

    @classmethod
    def exact(cls, source: Callable[[], int] = time.monotonic_ns) -> Alignment:
        """That of a process with the same clock as the server's (`same_host`); it takes no probes."""
        made = cls(source)
        made._line, made._takes = _Line(0, 0, 0.0, 0, -(2**63)), False
        return made

    def add(self, asked: int, received: int, answered: int, back: int) -> None:
        """A probe is back.

        It counts when its round is complete; those of the first round count at once.

        Args:
            asked: when it left, by this process's clock (ns).
            received: when the server had it, by the server's.
            answered: when the server sent it back, by the server's.
            back: when it was back, by this process's.
        """
        assert self._takes, "an exact alignment takes no probes"
        trip = max(0, (back - asked) - (answered - received))
        offset = ((received - asked) + (answered - back)) // 2
        self._probes.append(Sight((asked + back) // 2, offset, -(-trip // 2)))
        full = len(self._probes) == PROBES
        if full or not self._rounds:
            best = min(self._probes, key=lambda probe: probe.bound)
            self._replace(fitted((*self._rounds, best)[-ROUNDS:]))
            if full:
                self._rounds = (*self._rounds, best)[-ROUNDS:]
                self._probes.clear()

    @property
    def bound(self) -> int:
        """Nanoseconds that the server's clock may be off from what `now` says, as of the last round."""
        return self._current().bound

    @property
    def drift(self) -> float:
        """Seconds that the server's clock gains a second of this process's; 0 where none is significant."""
        return self._current().drift

    def offset_at(self, own: int) -> int:
        """Nanoseconds by which the server's clock is ahead when this process's shows `own`."""
        return self._current().at(own)

    def now(self) -> int:
        """What the server's clock shows (ns). Never goes back: where it was told too early, it stands still."""
        while True:
            line = self._current()
            own = self._source()
            if self._line is line:  # else the new line might know nothing of what is told here
                return line.now(own)

    def _current(self) -> _Line:
        line = self._line
        if line is None:
            with self._lock:
                line = self._line
        assert line is not None, "the server's clock is not known before the first probe"
        return line

    def _replace(self, line: _Line) -> None:
        """Whatever is told by the old line was asked for before it is gone, so no later than the reading here."""
        with self._lock:
            old, self._line = self._line, None
            told = line.told if old is None else old.now(self._source())
            self._line = line._replace(told=told)


def fitted(rounds: Sequence[Sight]) -> _Line:
    """The line through some rounds, the last of which is the latest.

    Its slope is their weighted least squares, where they tell one: no single offset is within the bounds of all. Else
    it is the offset of the round that is most certain still.
    """
    last = rounds[-1].own
    if len(rounds) < _FEWEST or max(r.offset - r.bound for r in rounds) <= min(r.offset + r.bound for r in rounds):
        most = _most(rounds)
        best = min(rounds, key=lambda r: _aged(r, last, most))
        return _Line(best.own, best.offset, 0.0, math.ceil(_aged(best, last, most)), -(2**63))
    base = rounds[-1].offset  # offsets may need more digits than a float has
    weights = [1 / max(r.bound, _RESOLUTION) ** 2 for r in rounds]
    total = sum(weights)
    x = sum(w * (r.own - last) for w, r in zip(weights, rounds, strict=True)) / total
    y = sum(w * (r.offset - base) for w, r in zip(weights, rounds, strict=True)) / total
    spread = sum(w * (r.own - last - x) ** 2 for w, r in zip(weights, rounds, strict=True))
    common = sum(w * (r.own - last - x) * (r.offset - base - y) for w, r in zip(weights, rounds, strict=True))
    line = _Line(last, base + round(y - common / spread * x), common / spread, 0, -(2**63))
    bound = min(_aged(r, last, _KNOWN) + abs(r.offset - line.at(r.own)) for r in rounds)
    return line._replace(bound=math.ceil(bound))


def _most(rounds: Sequence[Sight]) -> float:
    """The most that a drift could be, either way, with which some rounds are within their bounds."""
    pairs = ((a, b) for a, b in combinations(rounds, 2) if a.own < b.own)
    most = min(((abs(b.offset - a.offset) + a.bound + b.bound) / (b.own - a.own) for a, b in pairs), default=math.inf)
    return min(most, _UNKNOWN)


def _aged(sight: Sight, now: int, drift: float) -> float:
    """What the bound of a sight has grown to."""
    return sight.bound + drift * (now - sight.own)


def same_host() -> str | None:
    """What identifies this boot of this host and its monotonic clock; None where that cannot be told.

    Processes for which it is equal share `time.monotonic_ns`. It says nothing else about the host.
    """
    try:
        boot, clock = _BOOT.read_text(encoding="ascii").strip(), os.readlink(_TIME)
    except OSError:
        return None
    return hashlib.sha256(f"{boot} {clock}".encode()).hexdigest()[:32]
