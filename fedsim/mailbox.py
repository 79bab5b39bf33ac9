"""Messages that wait for a script, and the choice among them.

A message waits in order of arrival. `take` gives the first one of some kinds or, with `by`, the one that the key
ranks lowest. A key may only grow while its message waits, so one lazy heap a (kinds, key) is enough: an entry whose
key has grown goes back in with its new key (once for each message that shares it: cheap while a sender has few
waiting, as under flow control). A key is asked only while a `take` by it runs, never when a message
comes. Knows nothing of time and transports; both runtimes use it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Final, Generic, TypeVar

from fedsim.script import Message

Kinds = tuple[type[Message], ...]
Key = Callable[[Any], Any]
Queue = OrderedDict[int, Message]  # by number of arrival
H = TypeVar("H", bound=Hashable)

_SLACK: Final = 64  # entries of what is gone that a heap may hold beside as many as there are living ones
_RANKINGS: Final = 4  # heaps kept a mailbox: a script that makes a new key function for each recv must not pile them up


class Mailbox:
    """The waiting messages of one node."""

    __slots__ = ("_arrivals", "_queues", "_rankings", "_watched")

    def __init__(self) -> None:
        self._arrivals = 0
        self._queues: dict[type[Message], Queue] = {}
        self._rankings: dict[tuple[Kinds, Key], _Ranked] | None = None
        self._watched: dict[type[Message], list[Message]] | None = None

    def put(self, message: Message) -> None:
        """Let a message wait behind all others."""
        self.note(message)
        kind = type(message)
        queue = self._queues.get(kind)
        if queue is None:
            queue = self._queues[kind] = OrderedDict()
        self._arrivals = arrival = self._arrivals + 1
        queue[arrival] = message
        if self._rankings:
            self._tell_rankings(arrival, kind)

    def take(self, kinds: Kinds, source: int | None = None, by: Key | None = None) -> Message | None:
        """Remove and return the message of `kinds` (from `source`) that ranks first, or None where none waits."""
        if source is None and by is None:
            first: Queue | None = None
            for kind in kinds:
                queue = self._queues.get(kind)
                if queue and (first is None or next(iter(queue)) < next(iter(first))):
                    first = queue
            return None if first is None else first.popitem(last=False)[1]
        if not any(map(self._queues.get, kinds)):
            return None
        if source is None:
            assert by is not None
            return self._take_ranked(kinds, by)
        return self._take_from(kinds, source, by)

    def arrived(self, kind: type[Message]) -> list[Message]:
        """The messages of `kind` that have come since this was last asked, whether they still wait or not.

        The first time, those that wait.
        """
        if self._watched is None:
            self._watched = {}
        found = self._watched.get(kind)
        self._watched[kind] = []
        return list(self._queues.get(kind, {}).values()) if found is None else found

    def note(self, message: Message) -> None:
        """Note that a message has come, for `arrived`; whoever brings one that does not have to wait says so."""
        if self._watched is not None and type(message) in self._watched:
            self._watched[type(message)].append(message)

    def drop(self, message: Message) -> bool:
        """Remove one message that waits, looking at the last ones first; whether it was there."""
        queue = self._queues.get(type(message), OrderedDict())
        for arrival in reversed(queue):
            if queue[arrival] is message:
                del queue[arrival]
                return True
        return False

    def waiting(self) -> dict[str, int]:
        """How many messages of each kind wait, by class name."""
        counts = ((kind.__name__, len(queue)) for kind, queue in self._queues.items())
        return {name: count for name, count in sorted(counts) if count}

    def _take_from(self, kinds: Kinds, source: int, by: Key | None) -> Message | None:
        """The first, or lowest, message of one sender; looks at all that wait."""
        best: tuple[Any, int, Queue] | None = None
        for queue in filter(None, map(self._queues.get, kinds)):
            for arrival, message in queue.items():
                if message.sender == source:
                    key = None if by is None else by(message)
                    if best is None or (arrival < best[1] if key == best[0] else key < best[0]):
                        best = (key, arrival, queue)
                    if by is None:
                        break  # the others of this class came later
        return None if best is None else best[2].pop(best[1])

    def _take_ranked(self, kinds: Kinds, by: Key) -> Message:
        """The lowest message of `kinds`, of which at least one waits."""
        rankings = self._rankings
        if rankings is None:
            rankings = self._rankings = {}
        ranked = rankings.get((kinds, by))
        if ranked is None:
            if len(rankings) >= _RANKINGS:
                del rankings[next(iter(rankings))]
            ranked = rankings[kinds, by] = _Ranked()
            for kind in kinds:
                ranked.fresh.extend((arrival, kind) for arrival in self._queues.get(kind, ()))
        arrival, kind = ranked.lowest(by, self._queues)
        return self._queues[kind].pop(arrival)

    def _tell_rankings(self, arrival: int, kind: type[Message]) -> None:
        """Let the rankings know of a message; one that holds too many that are gone is made anew when asked for."""
        assert self._rankings is not None
        stale = []
        for name, ranked in self._rankings.items():
            if kind in name[0]:
                ranked.fresh.append((arrival, kind))
                if len(ranked) > _SLACK and len(ranked) > _SLACK + 2 * sum(map(len, self._queues.values())):
                    stale.append(name)
        for name in stale:
            del self._rankings[name]


class _Ranked:
    """Waiting messages in order of a key: a lazy heap, and those that came since it was last asked.

    It names messages by arrival and class and holds none, so that what was taken elsewhere is not kept alive.
    """

    __slots__ = ("_heap", "fresh")

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, type[Message]]] = []
        self.fresh: list[tuple[int, type[Message]]] = []

    def __len__(self) -> int:
        return len(self._heap) + len(self.fresh)

    def lowest(self, by: Key, queues: dict[type[Message], Queue]) -> tuple[int, type[Message]]:
        """Forget the lowest of those that wait in `queues`; answers with its arrival and class."""
        heap = self._heap
        if self.fresh:
            fresh = [(by(queues[kind][n]), n, kind) for n, kind in self.fresh if n in queues[kind]]
            self.fresh = []
            if len(fresh) > len(heap):
                heap += fresh
                heapify(heap)
            else:
                for entry in fresh:
                    heappush(heap, entry)
        while True:
            key, arrival, kind = heap[0]
            message = queues[kind].get(arrival)
            if message is None:
                heappop(heap)
                continue
            now = by(message)
            if key < now:
                heapreplace(heap, (now, arrival, kind))
                continue
            heappop(heap)
            return arrival, kind


class Ranking(Generic[H]):
    """Members ordered by a key that may only grow while they are members; the lowest in O(log n).

    For choosing the next device: `Ranking(lambda k: consumed[k] + slots[k])`. Of equal keys the member that was
    added first comes first.
    """

    __slots__ = ("_added", "_heap", "_key", "_members")

    def __init__(self, key: Callable[[H], Any], members: Iterable[H] = ()) -> None:
        self._key = key
        self._added = 0
        self._members: dict[H, int] = {}  # the number under which each was added last
        self._heap: list[tuple[Any, int, H]] = []
        for member in members:
            self.add(member)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def add(self, member: H) -> None:
        """Let `member` be chosen from now on."""
        if member in self._members:
            return
        self._added += 1
        self._members[member] = self._added
        heappush(self._heap, (self._key(member), self._added, member))
        if len(self._heap) > _SLACK + 2 * len(self._members):
            self._heap = [entry for entry in self._heap if self._members.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def discard(self, member: H) -> None:
        """Let `member` no longer be chosen."""
        self._members.pop(member, None)

    def lowest(self) -> H | None:
        """The member whose key is lowest now; it stays a member."""
        heap = self._heap
        while heap:
            key, number, member = heap[0]
            if self._members.get(member) != number:
                heappop(heap)
                continue
            now = self._key(member)
            if key < now:
                heapreplace(heap, (now, number, member))
                continue
            return member
        return None
