"""The server's sharing on the wall clock: told by any thread, it gives grants when they are due.

What is granted is `sharing`'s business, how a grant reaches a sender is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from fedsim.emulation.clock import Clock
from fedsim.emulation.links.shaping import Grant
from fedsim.emulation.links.sharing import Sharing


class Ingress:
    """A sharing with a lock and a thread, until it is closed.

    Args:
        sharing: nobody else calls it.
        clock: the scenario's time.
        give: takes a grant to its sender: to the device where it sends, to the server's own shaper where it does not.
            Called by whatever thread caused it, one at a time and in order; it does not wait for anything, and calls
            nothing here.
    """

    def __init__(self, sharing: Sharing, clock: Clock, give: Callable[[Grant], None]) -> None:
        self._sharing = sharing
        self._clock = clock
        self._give = give
        self._changed = threading.Condition()
        self._closed = False
        self._next: int | None = None
        self._thread = threading.Thread(target=self._run, name="ingress", daemon=True)
        self._thread.start()

    def announce(self, source: int, target: int, number: int, ready: int) -> None:
        """A message between a device and the server could flow from `ready` (ns) on."""
        with self._changed:
            self._sharing.announce(self._clock.now(), source, target, number, ready)
            self._grant()

    def finish(self, source: int, target: int, number: int) -> None:
        """A message has arrived, or is not going to."""
        with self._changed:
            self._sharing.finish(self._clock.now(), source, target, number)
            self._grant()

    def leave(self, device: int) -> None:
        """A device has left."""
        with self._changed:
            self._sharing.leave(self._clock.now(), device)
            self._grant()

    def repeat(self, device: int) -> None:
        """Give the grants of a device again: it has lost its connection and may have missed some."""
        with self._changed:
            for grant in self._sharing.current(device):
                self._give(grant)

    def close(self) -> None:
        """Give no more grants."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _grant(self) -> None:
        """Give what is due, with the lock held; the thread is woken where something is due earlier than it thinks."""
        if self._closed:
            return
        for grant in self._sharing.grants(self._clock.now()):
            self._give(grant)
        before, self._next = self._next, self._sharing.next()
        if self._next is not None and (before is None or self._next < before):
            self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                if self._next is not None and self._next <= self._clock.now():
                    self._grant()
                else:
                    self._clock.wait(self._changed, self._next)
