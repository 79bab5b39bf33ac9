"""Who trains at the same time in an asynchronous system: all devices, or so many of them in turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fedsim.script import Connected, Disconnected, Port


class Crew:
    """At most `places` devices train at once; when one is done, one that sits out takes its place.

    Who sits out is marked `benched`, who is called in again `called`, so that reports can tell that time apart.

    Args:
        port: the server's.
        present: the devices that are there.
        places: devices that train at once, at most.
        rng: draws who begins, and who is next.
    """

    def __init__(self, port: Port, present: Sequence[int], places: int, rng: np.random.Generator) -> None:
        self._port = port
        self._rng = rng
        self._places = places
        order = present if places >= len(present) else [present[i] for i in rng.permutation(len(present)).tolist()]
        self._active = set(order[:places])
        self._bench = list(order[places:])
        self.lives: Counter[int] = Counter()
        """How often each device has left: what it was asked for in an earlier life is not answered by a new order."""
        for k in self._bench:
            port.mark("benched", k)

    @property
    def active(self) -> tuple[int, ...]:
        """Who trains now, sorted."""
        return tuple(sorted(self._active))

    def turn(self, device: int) -> int:
        """`device` is done: who goes on in its place; itself, where nobody sits out."""
        if not self._bench:
            return device
        waiting = len(self._bench)
        self._sit_out(device)
        return self._call(waiting)

    def heed(self, notice: Disconnected | Connected) -> int | None:
        """A device has left, or is back: who is to begin now because of that, if anybody."""
        if isinstance(notice, Connected):
            return self._join(notice.device)
        self.lives[notice.device] += 1
        return self._leave(notice.device)

    def _leave(self, device: int) -> int | None:
        if device in self._bench:
            self._bench.remove(device)
            return None
        self._active.discard(device)
        free = len(self._active) < self._places  # it may have been absent from the start
        return self._call(len(self._bench)) if free and self._bench else None

    def _join(self, device: int) -> int | None:
        if len(self._active) < self._places:
            self._active.add(device)
            return device
        self._sit_out(device)
        return None

    def _sit_out(self, device: int) -> None:
        self._active.discard(device)
        self._bench.append(device)
        self._port.mark("benched", device)

    def _call(self, among: int) -> int:
        """Draw one of the first `among` of those who sit out."""
        chosen = self._bench.pop(int(self._rng.integers(among)))
        self._active.add(chosen)
        self._port.mark("called", chosen)
        return chosen
