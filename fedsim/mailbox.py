"""Messages that wait for a script, and the choice among them.

A message waits in order of arrival. `take` gives the first one of some kinds or, with `by`, the one that the key
ranks lowest. A key may only grow while its message waits, so one lazy heap a (kinds, key) is enough: an entry whose
key has grown goes back in with its new key. Knows nothing of time and transports; both runtimes use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Final, Generic, TypeVar

from fedsim.script import Message

Kinds = tuple[type[Message], ...]
Key = Callable[[Any], Any]
H = TypeVar("H", bound=Hashable)

_HOLES: Final = 64  # cells taken out of order before a queue is looked at for compaction
_HEAPS: Final = 4  # heaps kept a mailbox; a script that makes a new key function for each recv must not pile them up


class _Cell:
    """A waiting message; `message` is None once it has been taken."""

    __slots__ = ("arrival", "message")

    def __init__(self, arrival: int, message: Message) -> None:
        self.arrival = arrival
        self.message: Message | None = message


class Mailbox:
    """The waiting messages of one node."""

    __slots__ = ("_arrivals", "_heaps", "_holes", "_queues")

    def __init__(self) -> None:
        self._arrivals = 0
        self._holes = 0  # cells taken from the middle of a queue, still in it
        self._queues: dict[type[Message], deque[_Cell]] = {}
        self._heaps: dict[tuple[Kinds, Key], list[tuple[Any, int, _Cell]]] = {}

    def put(self, message: Message) -> None:
        """Let a message wait behind all others."""
        kind = type(message)
        cell = _Cell(self._arrivals, message)
        self._arrivals += 1
        queue = self._queues.get(kind)
        if queue is None:
            queue = self._queues[kind] = deque()
        queue.append(cell)
        for (kinds, by), heap in self._heaps.items():
            if kind in kinds:
                heappush(heap, (by(message), cell.arrival, cell))

    def take(self, kinds: Kinds, source: int | None = None, by: Key | None = None) -> Message | None:
        """Remove and return the message of `kinds` (from `source`) that ranks first, or None where none waits."""
        if source is not None:
            return self._take_from(kinds, source, by)
        if by is not None:
            return self._take_ranked(kinds, by)
        first: _Cell | None = None
        for kind in kinds:
            queue = self._queues.get(kind)
            if queue is None:
                continue
            while queue and queue[0].message is None:
                queue.popleft()
            if queue and (first is None or queue[0].arrival < first.arrival):
                first = queue[0]
        if first is None:
            return None
        message = first.message
        assert message is not None
        self._queues[type(message)].popleft()
        first.message = None
        return message

    def waiting(self) -> dict[str, int]:
        """How many messages of each kind wait, by class name."""
        counts = {kind.__name__: sum(c.message is not None for c in queue) for kind, queue in self._queues.items()}
        return {name: count for name, count in sorted(counts.items()) if count}

    def clear(self) -> None:
        """Forget everything."""
        self._queues.clear()
        self._heaps.clear()

    def _cells(self, kinds: Kinds) -> Iterable[_Cell]:
        for kind in kinds:
            queue = self._queues.get(kind, ())
            for cell in queue:
                if cell.message is not None:
                    yield cell

    def _take_from(self, kinds: Kinds, source: int, by: Key | None) -> Message | None:
        cells = [c for c in self._cells(kinds) if c.message is not None and c.message.sender == source]
        if not cells:
            return None
        cell = min(cells, key=(lambda c: c.arrival) if by is None else (lambda c: (by(c.message), c.arrival)))
        message, cell.message = cell.message, None
        self._count_hole()
        return message

    def _count_hole(self) -> None:
        self._holes += 1
        if self._holes > _HOLES and 2 * self._holes > sum(map(len, self._queues.values())):
            for kind, queue in self._queues.items():
                self._queues[kind] = deque(c for c in queue if c.message is not None)
            self._holes = 0

    def _take_ranked(self, kinds: Kinds, by: Key) -> Message | None:
        heap = self._heaps.get((kinds, by))
        if heap is None:
            heap = [(by(c.message), c.arrival, c) for c in self._cells(kinds)]
            heapify(heap)
            if len(self._heaps) >= _HEAPS:
                del self._heaps[next(iter(self._heaps))]
            self._heaps[kinds, by] = heap
        while heap:
            key, arrival, cell = heap[0]
            message = cell.message
            if message is None:
                heappop(heap)
                continue
            now = by(message)
            if now != key:
                heapreplace(heap, (now, arrival, cell))
                continue
            heappop(heap)
            cell.message = None
            self._count_hole()
            return message
        return None


class Ranking(Generic[H]):
    """Members ordered by a key that may only grow; the lowest in O(log n).

    For choosing the next device: `Ranking(lambda k: (consumed[k] + slots[k], k))`.
    """

    __slots__ = ("_heap", "_key", "_members", "_queued")

    def __init__(self, key: Callable[[H], Any], members: Iterable[H] = ()) -> None:
        self._key = key
        self._members: set[H] = set()
        self._queued: set[H] = set()  # members, and former ones, that have an entry in the heap
        self._heap: list[tuple[Any, H]] = []
        for member in members:
            self.add(member)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def add(self, member: H) -> None:
        """Let `member` be chosen from now on."""
        self._members.add(member)
        if member not in self._queued:
            self._queued.add(member)
            heappush(self._heap, (self._key(member), member))

    def discard(self, member: H) -> None:
        """Let `member` no longer be chosen."""
        self._members.discard(member)

    def lowest(self) -> H | None:
        """The member whose key is lowest now; it stays a member."""
        heap = self._heap
        while heap:
            key, member = heap[0]
            if member not in self._members:
                heappop(heap)
                self._queued.discard(member)
                continue
            now = self._key(member)
            if now == key:
                return member
            heapreplace(heap, (now, member))
        return None
