"""How many bytes every node holds on the virtual clock, and the most that it has held.

A node holds its process, what its learners and sums hold, what works need while they run or leave behind for their
backward, and messages: at the sender until they have arrived, at the receiver until its script takes them. Knows
neither what the bytes are nor what happens where they do not suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from fedsim.script import Message, Work

Budget = Callable[[int], tuple[int, int]]
"""Of a node: the bytes that its process takes before any model, and the bytes that it may use."""


class Peak(NamedTuple):
    """The most that a node has held, and when (ns) it first did."""

    node: int
    nbytes: int
    time: int


_HELD: Final = 0
_PEAK: Final = 1
_WHEN: Final = 2
_USABLE: Final = 3


class Ledger:
    """Bytes by node. Nodes that never held anything are not in it."""

    __slots__ = ("_budget", "_copies", "_nodes")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._nodes: dict[int, list[int]] = {}
        self._copies: dict[int, int] = {}  # of messages with payloads: transfers not ended yet, by identity

    def take(self, node: int, nbytes: int, now: int) -> bool:
        """Let a node hold `nbytes` more; answers whether that fits: False in the moment in which it no longer does."""
        entry = self._nodes.get(node)
        if entry is None:
            runtime, usable = self._budget(node)
            entry = self._nodes[node] = [runtime, runtime, now, usable]
        before = entry[_HELD]
        held = entry[_HELD] = before + nbytes
        if held > entry[_PEAK]:
            entry[_PEAK], entry[_WHEN] = held, now
        return not before <= entry[_USABLE] < held

    def drop(self, node: int, nbytes: int) -> None:
        """Let a node hold `nbytes` less."""
        entry = self._nodes[node]
        entry[_HELD] -= nbytes
        assert entry[_HELD] >= 0, f"node {node} holds {entry[_HELD]} bytes"

    def queued(self, node: int, message: Message, nbytes: int, copies: int, now: int) -> bool:
        """A message waits at its sender, once for all its receivers; answers as `take`."""
        before = self._copies.get(id(message), 0)
        self._copies[id(message)] = before + copies
        return before > 0 or self.take(node, nbytes, now)

    def ended(self, node: int | None, message: Message, nbytes: int) -> None:
        """A transfer is over; with the last one of its message the sender (None: it has left) lets go of that."""
        left = self._copies.get(id(message))
        if left is None:
            return  # no payloads
        if left > 1:
            self._copies[id(message)] = left - 1
            return
        del self._copies[id(message)]
        if node is not None:
            self.drop(node, nbytes)

    def computing(self, node: int, works: Sequence[Work[Any]], now: int) -> tuple[bool, int]:
        """Works begin: answers as `take`, and with the bytes to let go of when they are done."""
        needs = keeps = holds = 0
        for work in works:
            holds += work.command.holds
            keeps += sum(part.keeps for part in work.parts)
            needs += max((part.memory for part in work.parts), default=0)
        return self.take(node, needs + holds, now), needs - keeps

    def empty(self, node: int) -> None:
        """A node has left: it holds nothing until it takes something again, and then its process first."""
        entry = self._nodes.get(node)
        if entry is not None:
            entry[_HELD] = self._budget(node)[0]

    def held(self, node: int) -> int:
        """Bytes that a node holds."""
        entry = self._nodes.get(node)
        return self._budget(node)[0] if entry is None else entry[_HELD]

    def usable(self, node: int) -> int:
        """Bytes that a node may use."""
        return self._budget(node)[1]

    def peaks(self) -> Iterator[Peak]:
        """The most that each node has held, by node number."""
        for node, entry in sorted(self._nodes.items()):
            yield Peak(node, entry[_PEAK], entry[_WHEN])
