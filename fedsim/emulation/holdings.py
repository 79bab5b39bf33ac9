"""What one node holds while it runs on the wall clock, by declaration, and what happens where that does not fit.

The same ledger as on the virtual clock, behind a lock: a script, and the threads that bring and take away messages, all
tell it. Shortage is found where it comes about, and acted upon in the script's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fedsim.errors import SimulatedOutOfMemory
from fedsim.runtime.conditions import Shortage
from fedsim.runtime.coroutines import name, out_of_memory
from fedsim.runtime.memory import Ledger, Peak
from fedsim.script import SERVER, Message, Work


class Leaving(Exception):
    """The node leaves for good, since its memory does not suffice."""


class Holdings:
    """The memory of one node.

    Args:
        node: its number.
        ledger: of this node alone.
        shortage: what happens where memory does not suffice.
        mark: records a moment: `out_of_memory`, the bytes needed, those that may be used.
    """

    def __init__(
        self, node: int, ledger: Ledger, shortage: Shortage, mark: Callable[[str, float, dict[str, int]], None]
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._shortage = shortage
        self._mark = mark
        self._lock = threading.Lock()
        self._short: int | None = None  # bytes needed when it came to be short

    def take(self, nbytes: int, now: int) -> None:
        """Hold `nbytes` more (or fewer, below 0)."""
        with self._lock:
            self._noted(self._ledger.take(self._node, nbytes, now))

    def drop(self, nbytes: int) -> None:
        """Hold `nbytes` less."""
        with self._lock:
            self._ledger.drop(self._node, nbytes)

    def queued(self, message: Message, nbytes: int, copies: int, now: int) -> None:
        """A message waits to be sent, once for all its receivers."""
        with self._lock:
            self._noted(self._ledger.queued(self._node, message, nbytes, copies, now))

    def ended(self, message: Message, nbytes: int) -> None:
        """A copy of a message has arrived, or is lost."""
        with self._lock:
            self._ledger.ended(self._node, message, nbytes)

    def computing(self, works: Sequence[Work[Any]], now: int) -> int:
        """Works begin; answers with the bytes to `drop` when they are done."""
        with self._lock:
            fits, kept = self._ledger.computing(self._node, works, now)
            self._noted(fits)
            return kept

    def check(self, now: int) -> None:
        """Act on a shortage that has come about since.

        Raises:
            SimulatedOutOfMemory: the run is not to go on then.
            Leaving: the device is to leave.
        """
        with self._lock:
            needed, self._short = self._short, None
            usable = self._ledger.usable(self._node)
        if needed is None:
            return
        self._mark("out_of_memory", needed, {"usable": usable})
        if self._shortage is Shortage.RECORD:
            return
        if self._shortage is Shortage.LEAVE and self._node != SERVER:
            raise Leaving
        raise SimulatedOutOfMemory(out_of_memory(name(self._node), now / 1e9, needed, usable))

    def exceeded(self, needed: int) -> None:
        """The process itself was seen to need more than the node may use, whatever was declared."""
        with self._lock:
            self._short = self._short or needed

    def empty(self) -> None:
        """The node has left: it holds nothing any more."""
        with self._lock:
            self._ledger.empty(self._node)

    def peaks(self) -> Iterator[Peak]:
        """The most that the node has held."""
        with self._lock:
            yield from list(self._ledger.peaks())

    def _noted(self, fits: bool) -> None:
        if not fits and self._short is None:
            self._short = self._ledger.held(self._node)
