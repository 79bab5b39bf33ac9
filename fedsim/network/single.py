"""The allocator for one shared capacity, all else being private to a flow: a change costs microseconds.

Flows of equal cap (over weight) form a tier and always have equal rates. A tier is either at its cap, or it shares:
all that share have one level, what the capped leave over the weights that share. A tier has a clock that counts the
bytes of a flow of weight 1; a flow ends when the clock reaches its mark. The clocks of the tiers that share run alike,
so they are one clock and an offset each, and a change of the level moves nothing. What a change costs is the tiers
that it turns from one kind into the other.

Nothing is taken out of the middle of a heap: an entry is void when its tier has a newer one, and void ones are cleared
now and then.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import fsum
from typing import Final

from fedsim.network.flow import FOREVER, ROUNDING, Capacity, Flow, slack

_CLEARING: Final = 256  # settlings between two clearings of the heaps, and four more a tier


class _Tier:
    """Flows of one cap, over their weights."""

    __slots__ = ("announced", "base", "cap", "capped", "count", "marks", "ranked", "since", "weight")

    def __init__(self, cap: float) -> None:
        self.cap = cap
        self.capped = False
        self.count = 0
        self.weight = 0.0
        self.marks: list[tuple[float, int, Flow]] = []
        self.base = 0.0  # what its clock showed at `since` if capped; how far it is ahead of the common one if not
        self.since = 0.0
        self.announced = 0  # the entry that says when its next flow ends
        self.ranked = 0  # the entry that says its cap


_Heap = list[tuple[float, int, _Tier]]


class Single:
    """An allocator over one capacity; flows need not say that they cross it."""

    def __init__(self, capacity: Capacity) -> None:
        self.ticket = 0
        self._capacity = capacity
        self._now = 0.0
        self._clock = 0.0  # of the tiers that share
        self._level = FOREVER
        self._tiers: dict[float, _Tier] = {}
        self._capped = 0  # tiers
        self._sharers = 0
        self._taken = 0.0  # bytes/s by the capped
        self._sharing = 0.0  # weight of the others
        self._serial = 0
        self._until_clearing = _CLEARING
        self._ends: _Heap = []  # capped: by the time at which the next flow ends
        self._marks: _Heap = []  # sharing: the same on the common clock
        self._highest: _Heap = []  # capped: by cap, downwards
        self._lowest: _Heap = []  # sharing: by cap

    def start(self, now: float, flow: Flow) -> None:
        """A flow begins."""
        self._advance(now)
        weight = flow.weight
        cap = flow.cap / weight
        tier = self._tiers.get(cap)
        if tier is None:
            tier = self._tiers[cap] = _Tier(cap)
            tier.capped = cap * (self._sharing + weight) <= self._capacity.rate - self._taken
            tier.since = now
            self._enlist(tier)
        tier.count += 1
        tier.weight += weight
        if tier.capped:
            self._taken += cap * weight
        else:
            self._sharing += weight
        self._serial = flow.slot = self._serial + 1
        flow.home = tier
        flow.mark = self._reached(tier) + flow.left / weight
        heappush(tier.marks, (flow.mark, flow.slot, flow))
        if tier.marks[0][1] == flow.slot:
            self._announce(tier)

    def stop(self, now: float, flow: Flow) -> None:
        """A flow ends before its time; `left` says how many bytes it still had."""
        self._advance(now)
        tier: _Tier = flow.home
        flow.left = max(0.0, (flow.mark - self._reached(tier)) * flow.weight)
        self._remove(flow)
        if tier.count and tier.marks[0][1] == flow.slot:
            self._announce(tier)

    def change(self, now: float, flow: Flow, cap: float) -> None:
        """A flow gets another cap."""
        self.stop(now, flow)
        flow.cap = cap
        self.start(now, flow)

    def resize(self, now: float, capacity: Capacity, rate: float) -> None:
        """The capacity gets another rate."""
        assert capacity is self._capacity, "another capacity than the one that flows share here"
        self._advance(now)
        capacity.rate = rate

    def finished(self, now: float) -> list[Flow]:
        """Take out the flows that have ended by now."""
        self._advance(now)
        late = slack(now)
        tiers = []
        while self._ends and self._ends[0][0] <= now + late:
            _, serial, tier = heappop(self._ends)
            if serial == tier.announced:
                tiers.append(tier)
        if self._sharers:
            reached = self._clock * (1 + ROUNDING) + self._level * late
            while self._marks and self._marks[0][0] <= reached:
                _, serial, tier = heappop(self._marks)
                if serial == tier.announced:
                    tiers.append(tier)
        ended: list[Flow] = []
        for tier in tiers:
            reached = self._reached(tier) * (1 + ROUNDING) + (tier.cap if tier.capped else self._level) * late
            while tier.count and tier.marks[0][0] <= reached:
                _, serial, flow = heappop(tier.marks)
                if flow.home is tier and flow.slot == serial:
                    flow.left = 0.0
                    ended.append(flow)
                    self._remove(flow)
            if tier.count:
                self._announce(tier)
        return ended

    def settle(self, now: float) -> float:
        """Turn tiers until none that is capped is above the level and none that shares is at its cap or below."""
        self._advance(now)
        rate = self._capacity.rate
        self._until_clearing -= 1
        if not self._until_clearing:
            self._clear()
        while self._capped:
            tier = self._top(self._highest)
            assert tier is not None
            left = rate - self._taken
            if tier.cap * self._sharing <= left if self._sharers else left >= -ROUNDING * rate:
                break
            self._turn(tier)
        while self._sharers:
            low = self._top(self._lowest)
            if low is None or low.cap * self._sharing > rate - self._taken:
                break
            self._turn(low)
        self._level = (rate - self._taken) / self._sharing if self._sharers else FOREVER
        return self._next()

    def rate(self, flow: Flow) -> float:
        """Bytes per second that a flow gets."""
        tier: _Tier = flow.home
        return (tier.cap if tier.capped else self._level) * flow.weight

    def _advance(self, now: float) -> None:
        if self._sharers and now > self._now:
            self._clock += self._level * (now - self._now)
        self._now = now

    def _reached(self, tier: _Tier) -> float:
        """What a tier's clock shows."""
        return tier.base + (tier.cap * (self._now - tier.since) if tier.capped else self._clock)

    def _next(self) -> float:
        """When the next flow ends."""
        ends, marks = self._ends, self._marks
        while ends and ends[0][1] != ends[0][2].announced:
            heappop(ends)
        while marks and marks[0][1] != marks[0][2].announced:
            heappop(marks)
        due = ends[0][0] if ends else FOREVER
        if marks and self._level > 0:
            due = min(due, self._now + (marks[0][0] - self._clock) / self._level)
        return max(due, self._now)

    def _top(self, heap: _Heap) -> _Tier | None:
        """The first tier of `highest` or `lowest`."""
        while heap and heap[0][1] != heap[0][2].ranked:
            heappop(heap)
        return heap[0][2] if heap else None

    def _enlist(self, tier: _Tier) -> None:
        """Count a tier among its kind, and rank it by its cap."""
        self._serial = tier.ranked = self._serial + 1
        if tier.capped:
            self._capped += 1
            self._taken += tier.cap * tier.weight
            heappush(self._highest, (-tier.cap, tier.ranked, tier))
        else:
            if not self._sharers:
                self._level = 0.0  # until it is settled
            self._sharers += 1
            self._sharing += tier.weight
            tier.base -= self._clock
            if tier.cap < FOREVER:
                heappush(self._lowest, (tier.cap, tier.ranked, tier))

    def _dismiss(self, tier: _Tier) -> None:
        """The opposite of `_enlist`."""
        tier.announced = tier.ranked = 0
        if tier.capped:
            self._capped -= 1
            self._taken = self._taken - tier.cap * tier.weight if self._capped else 0.0
        else:
            self._sharers -= 1
            self._sharing = self._sharing - tier.weight if self._sharers else 0.0
            if not self._sharers:
                self._clock = 0.0

    def _turn(self, tier: _Tier) -> None:
        """Make a capped tier share, or one that shares capped."""
        reached = self._reached(tier)
        self._dismiss(tier)
        tier.capped = not tier.capped
        tier.base, tier.since = reached, self._now
        self._enlist(tier)
        self._announce(tier)

    def _announce(self, tier: _Tier) -> None:
        """Say when the next flow of a tier ends."""
        marks = tier.marks
        while marks[0][2].home is not tier or marks[0][2].slot != marks[0][1]:
            heappop(marks)
        self._serial = tier.announced = self._serial + 1
        if not tier.capped:
            heappush(self._marks, (marks[0][0] - tier.base, tier.announced, tier))
        elif tier.cap > 0:
            end = self._now + (marks[0][0] - self._reached(tier)) / tier.cap
            heappush(self._ends, (end, tier.announced, tier))

    def _remove(self, flow: Flow) -> None:
        tier: _Tier = flow.home
        flow.home = None
        tier.count -= 1
        if not tier.count:
            self._dismiss(tier)
            del self._tiers[tier.cap]
            return
        tier.weight -= flow.weight
        if tier.capped:
            self._taken -= tier.cap * flow.weight
        else:
            self._sharing -= flow.weight

    def _clear(self) -> None:
        """Drop void entries, and sum up anew what additions and subtractions have blurred."""
        self._until_clearing = _CLEARING + 4 * len(self._tiers)
        for heap in (self._ends, self._marks):
            heap[:] = [entry for entry in heap if entry[1] == entry[2].announced]
            heapify(heap)
        for heap in (self._highest, self._lowest):
            heap[:] = [entry for entry in heap if entry[1] == entry[2].ranked]
            heapify(heap)
        tiers = self._tiers.values()
        self._taken = fsum(tier.cap * tier.weight for tier in tiers if tier.capped)
        self._sharing = fsum(tier.weight for tier in tiers if not tier.capped)
