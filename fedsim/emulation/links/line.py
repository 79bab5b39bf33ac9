"""Pieces of bytes that pass one after the other at a rate that may change: a link's direction as a state machine.

A piece begins when the one before it is through, or when it is ready, whichever is later, and is through when its
bytes have passed. Whoever asks late gets what is due at once, as long as it does not lag by more than the burst: a
sender that was held up makes up for that much and no more. Moments are nanoseconds, rates bytes per second. Has no
clock and no thread: the caller says what time it is.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

BURST: Final = 20_000_000
"""Real nanoseconds that a sender may make up for (TBF's `burst`, as a time)."""

_SHORTEST, _LEAST, _MOST = 5_000_000, 16 * 1024, 256 * 1024  # real ns; bytes


def frame_size(rate: float, dilation: float = 1.0) -> int:
    """Bytes of the frames that a message is cut into, for a link of `rate`: 5 ms each, from 16 KiB to 256 KiB.

    Smaller ones cost too much each; larger ones leave in lumps.
    """
    return int(min(max(rate / dilation * _SHORTEST / 1e9, _LEAST), _MOST))


class Passed(NamedTuple, Generic[T]):
    """A piece that is through, with the moments of its first and its last byte."""

    piece: T
    started: int
    ended: int


class Line(Generic[T]):
    """The line, empty at first.

    Args:
        rate: bytes per second; 0: nothing moves until that changes.
        burst: nanoseconds that may be made up for.
    """

    def __init__(self, rate: float = 0.0, burst: int = BURST) -> None:
        self.lost = 0
        """Nanoseconds that could not be made up for."""
        self.free = 0
        """When the last piece was through."""
        self.started = 0
        """When the first byte of the first piece moves, or moved."""
        self._rate = rate
        self._burst = burst
        self._waiting: deque[tuple[T, int, int]] = deque()  # piece, bytes, ready; the first one moves
        self._left = 0.0  # of the first piece, as of `_since`
        self._since = 0
        self._busy = 0  # since when it has moved at this rate and without a gap
        self._spare = 0.0  # bytes by which rounding up to a nanosecond, and what was made up for, exceed the last piece

    def __len__(self) -> int:
        """How many pieces are not through."""
        return len(self._waiting)

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self._rate

    @property
    def head(self) -> T:
        """The piece that is the next to be through."""
        return self._waiting[0][0]

    def put(self, now: int, piece: T, nbytes: int, ready: int) -> None:
        """Put a piece of `nbytes` behind the others; it does not begin before it is `ready`."""
        self._waiting.append((piece, nbytes, ready))
        if len(self._waiting) == 1:
            self._begin(now)

    def due(self) -> int | None:
        """The moment at which the next piece is through; None: there is none, or it does not move."""
        if not self._waiting:
            return None
        if self._left <= 0 and not self._rate:
            return self._since
        if not self._rate:
            return None
        return max(self.started, self._since + math.ceil(self._left / self._rate * 1e9))

    def release(self, now: int) -> Passed[T]:
        """Take out the piece that is due by `now`, and begin with the next."""
        due = self.due()
        assert due is not None and due <= now, f"nothing is due at {now} ns, but at {due}"
        self._spare = max(0.0, self._rate * (due - self._since) / 1e9 - self._left)
        passed = Passed(self._waiting.popleft()[0], self.started, due)
        self.free = due
        if self._waiting:
            self._begin(now)
        return passed

    def change(self, at: int, rate: float, since: int | None = None) -> None:
        """Another rate, from `at` on.

        With `since`, it should have been the rate from then on, but was not known: what has moved too much or too
        little is made up for, as far back as the burst goes and something has moved. Pieces that are through, are.
        """
        if self._waiting and at > self._since:
            self._left -= self._rate * (at - self._since) / 1e9
            self._since = at
            since = at if since is None else min(max(since, at - self._burst, self._busy), at)
            self._left += (self._rate - rate) * (at - since) / 1e9
            self._busy = since
        elif rate != self._rate:
            self._busy = self._since
        self._rate = rate

    def reset(self, now: int) -> list[T]:
        """Drop all pieces; what comes next need not wait for them."""
        dropped = [piece for piece, _, _ in self._waiting]
        self._waiting.clear()
        self.free = now
        self._spare = 0.0
        return dropped

    def _begin(self, now: int) -> None:
        """The first piece moves, as soon as it can."""
        _, nbytes, ready = self._waiting[0]
        earliest = max(self.free, ready)
        self.started = self._since = max(earliest, now - self._burst)
        self.lost += self.started - earliest
        self._left = float(nbytes)
        if self.started == self.free:
            self._left -= self._spare
        else:
            self._busy = self.started
