"""Rates for flows that cross any capacities, each with a share of its rate: progressive filling.

The level of all flows rises together; a flow stops at its cap, or where something that it crosses is full. Levels at
which things would be full can only rise while flows stop below them. So all flows whose cap is at or below the levels
of what they cross can be given their rate at once, and so can all flows of anything whose level is no higher than what
its flows meet elsewhere; it need not be the lowest of all. A round settles many flows; there are as many rounds as
such decisions depend on one another.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.network.flow import FOREVER, Capacity, Flow
from fedsim.network.solved import Floats, grown

_EQUAL: Final = 1 - 1e-12  # levels that differ by no more are the same


class General:
    """A filling of flows over capacities that it numbers while they are in use; number 0 is one without limit."""

    def __init__(self) -> None:
        self._paths: NDArray[np.intp] = np.zeros((1, 0), np.intp)  # by place on the path and flow: a capacity's number
        self._shares: NDArray[np.float64] = np.zeros((1, 0))
        self._rates = np.array([FOREVER])  # by capacity
        self._free: list[int] = []  # numbers that can be given again

    def enter(self, slot: int, flow: Flow) -> None:
        """A flow takes the slot after the last."""
        deeper = len(flow.crosses) - len(self._paths)
        if deeper > 0:
            self._paths = np.pad(self._paths, ((0, deeper), (0, 0)))
            self._shares = np.pad(self._shares, ((0, deeper), (0, 0)))
        self._paths, self._shares = grown(self._paths, slot + 1), grown(self._shares, slot + 1)
        self._paths[:, slot] = 0
        self._shares[:, slot] = 0.0
        for place, (capacity, share) in enumerate(flow.crosses):
            if not capacity.users:
                self._number(capacity)
            capacity.users += 1
            self._paths[place, slot], self._shares[place, slot] = capacity.slot, share

    def leave(self, slot: int, flow: Flow, last: int) -> None:
        """A flow leaves its slot to the one in the last slot."""
        for capacity, _ in flow.crosses:
            capacity.users -= 1
            if not capacity.users:
                self._free.append(capacity.slot)
        self._paths[:, slot], self._shares[:, slot] = self._paths[:, last], self._shares[:, last]

    def changed(self, flow: Flow) -> None:
        """The cap of a flow has changed."""

    def resized(self, capacity: Capacity) -> None:
        """The rate of a capacity has changed."""
        if capacity.users:
            self._rates[capacity.slot] = capacity.rate

    def rates(self, caps: Floats, weights: Floats | None) -> Floats:
        """Fill, in rounds."""
        n, size = len(caps), len(self._rates)
        room = self._rates.copy()
        places = range(len(self._paths))  # row by row: reductions over a short first axis are slow
        paths = [self._paths[place, :n] for place in places]
        loads = [self._shares[place, :n] for place in places]
        limits = caps
        if weights is not None:
            limits, loads = caps / weights, [load * weights for load in loads]
        found = np.empty(n)
        left = np.arange(n)
        while len(left):
            wanted = sum(np.bincount(path, load, size) for path, load in zip(paths, loads, strict=True))
            levels = np.full(size, FOREVER)
            np.divide(room, wanted, out=levels, where=wanted > 0)
            met = [levels[path] for path in paths]
            reach = met[0]
            for other in met[1:]:
                reach = np.minimum(reach, other)
            stops = np.minimum(reach, limits)
            loose = np.zeros(size, bool)
            for path, here in zip(paths, met, strict=True):
                loose[path[stops < here * _EQUAL]] = True
            going = limits > reach
            for path in paths:
                going &= loose[path]
            done = np.flatnonzero(~going)
            stopped = stops[done]
            found[left[done]] = stopped
            if len(done) == len(left):
                break
            for path, load in zip(paths, loads, strict=True):
                room -= np.bincount(path[done], load[done] * stopped, size)
            np.maximum(room, 0.0, out=room)
            kept = np.flatnonzero(going)
            left, limits = left[kept], limits[kept]
            paths, loads = [path[kept] for path in paths], [load[kept] for load in loads]
        return found if weights is None else found * weights

    def _number(self, capacity: Capacity) -> None:
        if not self._free:
            known = len(self._rates)
            self._rates = np.append(self._rates, np.full(known, FOREVER))
            self._free = list(range(2 * known - 1, known - 1, -1))
        capacity.slot = self._free.pop()
        self._rates[capacity.slot] = capacity.rate
