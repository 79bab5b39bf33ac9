"""A thread that lets frames go when their last byte has flowed: the sender's side of a connection on the wall clock.

When that is, is `shaping`'s business. The queue is bounded: whoever puts frames waits while it is full. Knows nothing
of what a frame is, nor of how it is delivered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from fedsim.emulation.clock import Clock
from fedsim.emulation.links.shaping import Connection, Frame, Grant

T = TypeVar("T")

ROOM: Final = 4 * 2**20
"""Bytes that may wait to flow, unless said otherwise."""


@dataclass(slots=True)
class Shaped:
    """What has passed so far."""

    messages: int = 0
    frames: int = 0
    nbytes: int = 0
    """Bytes that were charged."""
    latest: int = 0
    """Nanoseconds by which a frame was late at most."""
    lost: int = 0
    """Nanoseconds by which all that followed was late, since the sender was held up for too long."""
    blocked: int = 0
    """Real nanoseconds that whoever put frames waited for room."""


class Shaper(Generic[T]):
    """A connection with a queue and a thread, until it is closed.

    `open` and `put` are called by one thread at a time, all else by any.

    Args:
        connection: nobody else calls it.
        clock: the scenario's time.
        deliver: takes a frame to the other side; called by the shaper's thread.
        announce: told of a message that needs a grant, and of the moment (ns) from which on it could flow.
        began: told of a message whose first frame is about to be delivered: number and start of its flow (ns).
        ended: told of a message whose last frame has been delivered: number, start and end of its flow (ns).
        room: bytes that may wait to flow, beside those under way on the link.
    """

    def __init__(
        self,
        connection: Connection[T],
        clock: Clock,
        deliver: Callable[[T], None],
        *,
        announce: Callable[[int, int], None] | None = None,
        began: Callable[[int, int], None] | None = None,
        ended: Callable[[int, int, int], None] | None = None,
        room: int = ROOM,
    ) -> None:
        assert announce is not None or not connection.shared, "a connection that shares its way has to announce"
        self.passed = Shaped()
        self._connection = connection
        self._clock = clock
        self._deliver = deliver
        self._announce = announce
        self._began = began
        self._ended = ended
        self._room = room + round(connection.own_rate(0) * connection.delay / 1e9)
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # for the thread
        self._freed = threading.Condition(lock)  # for whoever waits for room, or for the end
        self._waiting = 0  # frames that are not delivered
        self._queued = 0  # their bytes
        self._epoch = 0
        self._passing = -1  # the message whose first frame was delivered last
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="shaper", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        """How often it was reset."""
        return self._epoch

    def open(self, number: int, nbytes: int, queued: int, *, again: bool = False, epoch: int | None = None) -> bool:
        """The frames of a message follow, which was sent at `queued` (ns); `nbytes` are charged for all of them.

        Numbers ascend. `again`: it is the rest of a message that was interrupted. With `epoch`, it is not opened if
        the shaper was reset since; answers whether it is.

        Raises:
            Exception: what delivering a frame has raised, until the next reset.
        """
        with self._changed:
            if epoch is not None and epoch != self._epoch:
                return False
            self._check()
            ready = self._connection.open(self._clock.now(), number, nbytes, queued, again=again)
        if ready is not None and self._announce is not None:
            self._announce(number, ready)
        return True

    def put(self, frame: T, nbytes: int, *, last: bool, epoch: int | None = None) -> bool:
        """Queue a frame for which `nbytes` are charged; wait while there is no room.

        Answers whether it is queued: not if the shaper was reset, since `epoch` if that is given, or closed meanwhile.

        Raises:
            Exception: as `open`.
        """
        with self._changed:
            if epoch is not None and epoch != self._epoch:
                return False
            epoch = self._epoch
            if self._queued and self._queued + nbytes > self._room:
                began = time.monotonic_ns()
                while self._queued and self._queued + nbytes > self._room and epoch == self._epoch and self._alive():
                    self._freed.wait()
                self.passed.blocked += time.monotonic_ns() - began
            self._check()
            if self._closed or epoch != self._epoch:
                return False
            self._waiting += 1
            self._queued += nbytes
            self._connection.put(self._clock.now(), frame, nbytes, last=last)
            if len(self._connection) == 1:
                self._changed.notify()
            return True

    def grant(self, grant: Grant) -> None:
        """The server has allotted a rate."""
        with self._changed:
            self._connection.grant(self._clock.now(), grant)
            self._changed.notify()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait, for real seconds at most, until all that was put is delivered; answers whether it is.

        Raises:
            Exception: as `open`.
        """
        with self._changed:
            self._freed.wait_for(lambda: not self._waiting or not self._alive(), timeout)
            self._check()
            return not self._waiting

    def reset(self) -> list[T]:
        """Drop what is queued, in order, in the middle of a message too: the other side is gone.

        A frame that is being delivered may still get there.
        """
        with self._changed:
            self._epoch += 1
            self._passing = -1
            self._waiting = self._queued = 0
            self._error = None
            dropped = self._connection.reset(self._clock.now())
            self._freed.notify_all()
            self._changed.notify()
            return dropped

    def close(self) -> None:
        """Deliver nothing more; what is queued is dropped. Waits for a frame that is being delivered."""
        with self._changed:
            self._closed = True
            self._freed.notify_all()
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # -------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                due = [] if self._error is not None else self._connection.advance(self._clock.now())
                epoch = self._epoch
                for frame in due:
                    if self._closed or epoch != self._epoch or self._error is not None:
                        break
                    self._pass(frame)
                if not due:
                    self._clock.wait(self._changed, None if self._error is not None else self._connection.next())

    def _pass(self, frame: Frame[T]) -> None:
        """Deliver a frame, without the lock."""
        epoch = self._epoch
        begins, self._passing = frame.number != self._passing, frame.number
        self._changed.release()
        error: BaseException | None = None
        try:
            if begins and self._began is not None:
                self._began(frame.number, frame.started)
            self._deliver(frame.frame)
            if frame.last and self._ended is not None:
                self._ended(frame.number, frame.started, frame.ended)
        except Exception as raised:  # it belongs to whoever puts frames
            error = raised
        finally:
            self._changed.acquire()
        if epoch == self._epoch:
            self._waiting -= 1
            self._queued -= frame.nbytes
            self._error = error
        passed = self.passed
        passed.frames += 1
        passed.messages += frame.last
        passed.nbytes += frame.nbytes
        passed.latest = max(passed.latest, self._clock.now() - frame.ended)
        passed.lost = self._connection.lost
        self._freed.notify_all()

    def _alive(self) -> bool:
        return not self._closed and self._error is None

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
