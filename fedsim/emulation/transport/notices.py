"""What one end of a connection has to say on its control stream, in order, until the other end has seen it.

Notices that must not be lost are numbered and kept; another stream begins with those that may not have been seen.
Probes and their answers are said once or not at all; of grants only the last one counts. Where there is nothing to
say, a heartbeat is. Knows neither gRPC nor what notices mean.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.refusals import WireError

N = TypeVar("N", pb.Up, pb.Down)

LOOSE: Final = frozenset({"probe", "answer"})
"""What may be lost."""

_PATIENT: Final = frozenset({"acknowledgement", "announcement"})  # nobody waits to hear that they have been seen
_OWED: Final = 32  # of these may be seen without saying so before the next heartbeat
_PROBES: Final = 256  # that may wait


class Stream:
    """One stream of gRPC, open until it is closed.

    Args:
        changed: told when it is closed.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self.closed = False
        self.cancel: Callable[[], object] | None = None
        """Ends it at the other end, too."""
        self._changed = changed

    def close(self) -> None:
        """It carries nothing more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close it at both ends."""
        self.close()
        if self.cancel is not None:
            self.cancel()


class Notices(Generic[N]):
    """The notices of one end in one life.

    Args:
        kind: of what this end says.
        heartbeat: seconds between two of them.
        limit: notices that the other end may leave unseen; None: any number.
    """

    def __init__(self, kind: type[N], heartbeat: float, limit: int | None = None) -> None:
        self.changed = threading.Condition()
        self._kind: type[N] = kind
        self._heartbeat = heartbeat
        self._limit = limit
        self._kept: dict[int, N] = {}  # by number, in order
        self._count = 0
        self._loose: deque[N] = deque(maxlen=_PROBES)
        self._grant: N | None = None
        self._seen = 0  # the last number of the other end
        self._said = 0  # of these, what it has been told of
        self._prompt = False  # whether it should be told of the rest at once
        self._farewell: N | None = None
        self._over = False

    # ------------------------------------------------------------------------------------- what is said

    def tell(self, notice: N) -> bool:
        """Say something; answers False where the other end has left too much unseen."""
        copy = self._kind()
        copy.CopyFrom(notice)
        with self.changed:
            if self._over:
                return True
            match copy.WhichOneof("what"):
                case "grant":
                    self._grant = copy
                case what if what in LOOSE:
                    self._loose.append(copy)
                case _:
                    self._count += 1
                    copy.sequence = self._count
                    self._kept[self._count] = copy
            self.changed.notify_all()
            return self._limit is None or len(self._kept) <= self._limit

    def close(self, farewell: N | None = None) -> None:
        """Say nothing more, but what is to be said already, and a last word; without one, not even that."""
        with self.changed:
            self._over = True
            self._farewell = farewell
            self.changed.notify_all()

    def outgoing(self, stream: Stream) -> Iterator[bytes]:
        """What is to be said on a stream, until it is closed or the last word is said."""
        following = 1
        beat = time.monotonic()  # at once: the other end learns what has been seen
        while True:
            with self.changed:
                while (notice := self._next(stream, following, beat)) is None:
                    if stream.closed or self._over:
                        return
                    self.changed.wait(max(0.0, beat - time.monotonic()))
                if notice.sequence:
                    following = notice.sequence + 1
                if notice.WhichOneof("what") == "heartbeat":
                    notice.heartbeat.seen = self._said = self._seen
                    self._prompt = False
                    beat = time.monotonic() + self._heartbeat
                data = notice.SerializeToString()
            yield data

    def _next(self, stream: Stream, following: int, beat: float) -> N | None:
        """What comes first of what there is to say now."""
        following = max(following, next(iter(self._kept), 0))  # what is before that has been seen meanwhile
        notice: N | None = None
        if stream.closed or (self._over and self._farewell is None):
            pass
        elif self._loose:
            notice = self._loose.popleft()
        elif self._grant is not None:
            notice, self._grant = self._grant, None
        elif self._prompt or beat <= time.monotonic():
            notice = self._kind(heartbeat=pb.Heartbeat())
        elif following in self._kept:
            notice = self._kept[following]
        elif self._over:
            notice, self._farewell = self._farewell, None
        return notice

    # ------------------------------------------------------------------------------------- what is heard

    def heard(self, notice: pb.Up | pb.Down) -> bool:
        """Note what a notice says of others; answers whether it has not been seen before.

        Raises:
            WireError: it has a number that is not the next, or speaks of notices that there are not.
        """
        sequence = notice.sequence
        with self.changed:
            seen = notice.heartbeat.seen
            if seen > self._count:
                raise WireError(f"it has seen notice {seen} of {self._count}")
            while (first := next(iter(self._kept), None)) is not None and first <= seen:
                del self._kept[first]
                if not self._kept:
                    self.changed.notify_all()  # whoever flushes
            if not sequence:
                return True
            if sequence <= self._seen:
                return False
            if sequence != self._seen + 1:
                raise WireError(f"notice {sequence} where notice {self._seen + 1} is due")
            self._seen = sequence
            if notice.WhichOneof("what") not in _PATIENT or self._seen - self._said >= _OWED:
                self._prompt = True
                self.changed.notify_all()
            return True

    def flush(self, deadline: float) -> bool:
        """Wait until all that was said is seen, up to a reading of `time.monotonic`; answers whether it is."""
        with self.changed:
            done = self.changed.wait_for(lambda: self._over or not self._kept, max(0.0, deadline - time.monotonic()))
            return done
