"""The allocator for flows that share several capacities: it solves for all of its flows at every change, with NumPy.

How rates follow from caps and capacities is a `Filling`: `Tree` or `General`. Here is what both have in common: what is
left of each flow, and when the next one ends.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.network.flow import FOREVER, Capacity, Flow, slack

Floats = NDArray[np.float64]

_FIRST: Final = 64  # flows to have room for at first


class Filling(Protocol):
    """Max-min fair rates of flows that lie in slots 0 to n - 1."""

    def enter(self, slot: int, flow: Flow, /) -> None:
        """A flow takes the slot after the last."""
        ...

    def leave(self, slot: int, flow: Flow, last: int, /) -> None:
        """A flow leaves its slot to the one in the last slot."""
        ...

    def changed(self, flow: Flow, /) -> None:
        """The cap of a flow has changed."""
        ...

    def resized(self, capacity: Capacity, /) -> None:
        """The rate of a capacity has changed."""
        ...

    def rates(self, caps: Floats, weights: Floats | None, /) -> Floats:
        """(n,) bytes/s from (n,) caps and weights; None: all weights are 1."""
        ...


def grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The array, with room for `size` in its last dimension at least: a longer copy where it is too short."""
    if array.shape[-1] >= size:
        return array
    longer = np.zeros((*array.shape[:-1], max(_FIRST, 2 * size)), array.dtype)
    longer[..., : array.shape[-1]] = array
    return longer


class Solved:
    """Flows whose rates a filling gives."""

    def __init__(self, filling: Filling, *, weighted: bool = False) -> None:
        self.ticket = 0
        self._filling = filling
        self._now = 0.0
        self._flows: list[Flow] = []
        self._left = np.zeros(0)
        self._rates = np.zeros(0)
        self._caps = np.zeros(0)
        self._weights = np.zeros(0) if weighted else None

    def start(self, now: float, flow: Flow) -> None:
        """A flow begins."""
        self._advance(now)
        slot = len(self._flows)
        self._left, self._rates, self._caps = (grown(a, slot + 1) for a in (self._left, self._rates, self._caps))
        self._left[slot], self._rates[slot], self._caps[slot] = flow.left, 0.0, flow.cap
        if self._weights is not None:
            self._weights = grown(self._weights, slot + 1)
            self._weights[slot] = flow.weight
        flow.slot, flow.home = slot, self
        self._flows.append(flow)
        self._filling.enter(slot, flow)

    def stop(self, now: float, flow: Flow) -> None:
        """A flow ends before its time; `left` says how many bytes it still had."""
        self._advance(now)
        flow.left = max(0.0, float(self._left[flow.slot]))
        self._remove(flow)

    def change(self, now: float, flow: Flow, cap: float) -> None:
        """A flow gets another cap."""
        self._advance(now)
        flow.cap = self._caps[flow.slot] = cap
        self._filling.changed(flow)

    def resize(self, now: float, capacity: Capacity, rate: float) -> None:
        """A shared capacity gets another rate."""
        self._advance(now)
        capacity.rate = rate
        self._filling.resized(capacity)

    def finished(self, now: float) -> list[Flow]:
        """Take out the flows that have ended by now."""
        self._advance(now)
        n = len(self._flows)
        ended = [self._flows[slot] for slot in np.flatnonzero(self._left[:n] <= self._rates[:n] * slack(now)).tolist()]
        for flow in ended:
            flow.left = 0.0
            self._remove(flow)
        return ended

    def settle(self, now: float) -> float:
        """Solve; answers with the moment at which the next flow will end."""
        self._advance(now)
        n = len(self._flows)
        if not n:
            return FOREVER
        rates = self._filling.rates(self._caps[:n], None if self._weights is None else self._weights[:n])
        self._rates[:n] = rates
        with np.errstate(divide="ignore"):
            return now + max(0.0, float((self._left[:n] / rates).min()))

    def rate(self, flow: Flow) -> float:
        """Bytes per second that a flow gets."""
        return float(self._rates[flow.slot])

    def _advance(self, now: float) -> None:
        if now > self._now:
            n = len(self._flows)
            self._left[:n] -= self._rates[:n] * (now - self._now)
            self._now = now

    def _remove(self, flow: Flow) -> None:
        slot, last = flow.slot, len(self._flows) - 1
        self._filling.leave(slot, flow, last)
        moved = self._flows.pop()
        flow.home = None
        if slot != last:
            self._flows[slot] = moved
            moved.slot = slot
            for array in (self._left, self._rates, self._caps, self._weights):
                if array is not None:
                    array[slot] = array[last]
