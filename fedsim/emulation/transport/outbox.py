"""What one end of a connection has to send and the other has not acknowledged: messages of scripts, and notices.

Both are numbered from 1, both are kept until they are known to be there, and a stream that goes on where another has
broken off begins where the other side says. Neither knows any stream.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.wire.frames import Position
from fedsim.wire.refusals import WireError


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way."""

    place: int
    """On the connection, from 1."""
    number: int
    """In the run."""
    header: bytes
    body: Sequence[memoryview]
    size: int
    """Bytes of the body."""
    nbytes: int
    """That are charged for it."""
    queued: int


class Outbox:
    """The messages, in order.

    Args:
        changed: guards all of it, and is notified of changes; held by whoever calls, `put` aside.
        room: bytes that may wait, beside the first message.
    """

    def __init__(self, changed: threading.Condition, room: int) -> None:
        self._changed = changed
        self._room = room
        self._kept: deque[Outgoing] = deque()
        self._bytes = 0
        self._last = 0
        self._closed = False

    def __len__(self) -> int:
        """How many are not acknowledged."""
        return len(self._kept)

    def put(self, number: int, header: bytes, body: Sequence[memoryview], nbytes: int, queued: int) -> bool:
        """Add a message; wait while too many bytes are there. False once it is closed."""
        size = sum(map(len, body))
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._kept or self._bytes + size <= self._room)
            if self._closed:
                return False
            self._last += 1
            self._bytes += size
            self._kept.append(Outgoing(self._last, number, header, body, size, nbytes, queued))
            self._changed.notify_all()
            return True

    def at(self, place: int) -> Outgoing | None:
        """The message of a place; None: it is yet to come."""
        index = place - (self._last - len(self._kept) + 1)
        return self._kept[index] if index < len(self._kept) else None

    def check(self, position: Position) -> None:
        """Whether the other side can go on there.

        Raises:
            WireError: it names what it has acknowledged, or what was never sent.
        """
        first = self._last - len(self._kept) + 1
        if not first <= position.message <= self._last + 1:
            raise WireError(f"a stream from message {position.message} on, where {first} to {self._last + 1} can be")
        message = self.at(position.message)
        if position.offset > (0 if message is None else message.size):
            raise WireError(f"a stream from byte {position.offset} of message {position.message} on: it has fewer")

    def acknowledged(self, place: int) -> int:
        """The first message is there; answers with its number in the run.

        Raises:
            WireError: it is another one that is said to be there.
        """
        if not self._kept or self._kept[0].place != place:
            raise WireError(f"an acknowledgement of message {place}, which is not due")
        message = self._kept.popleft()
        self._bytes -= message.size
        self._changed.notify_all()
        return message.number

    def close(self) -> None:
        """Nothing more is to be sent."""
        self._closed = True
        self._kept.clear()
        self._changed.notify_all()


class Notices:
    """Small messages in order, and which of the other side's have been seen.

    Args:
        changed: as of an `Outbox`; always held by whoever calls.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self.seen = 0
        """The last one of the other side that is here."""
        self._changed = changed
        self._kept: deque[Any] = deque()
        self._last = 0

    def __len__(self) -> int:
        """How many the other side is not known to have seen."""
        return len(self._kept)

    def put(self, notice: Any) -> None:
        """Add one: an `Up` or a `Down`, of which this takes a copy, since the same may be for several peers."""
        self._last += 1
        kept = type(notice)()
        kept.CopyFrom(notice)
        kept.sequence = self._last
        self._kept.append(kept)
        self._changed.notify_all()

    def after(self, sequence: int) -> Any | None:
        """The first one that is kept and comes after this; None: there is none yet."""
        if not self._kept:
            return None
        index = max(0, sequence + 1 - self._kept[0].sequence)
        return self._kept[index] if index < len(self._kept) else None

    def known(self, seen: int) -> None:
        """The other side has seen all up to this.

        Raises:
            WireError: that many were never sent.
        """
        if seen > self._last:
            raise WireError(f"notice {seen} is said to be seen, and {self._last} were sent")
        while self._kept and self._kept[0].sequence <= seen:
            self._kept.popleft()
        self._changed.notify_all()

    def comes(self, sequence: int) -> bool:
        """One of the other side has come; whether it is new.

        Raises:
            WireError: one between is missing.
        """
        if sequence <= self.seen:
            return False
        if sequence != self.seen + 1:
            raise WireError(f"notice {sequence} where {self.seen + 1} is due")
        self.seen = sequence
        return True
