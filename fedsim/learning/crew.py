"""Who trains at the same time in an asynchronous system: all devices, or so many of them in turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.script import Port


class Crew:
    """At most `concurrency` devices train at once; when one is done, one that sits out takes its place.

    Who sits out is marked `benched`, who is called in again `called`, so that reports can tell that time apart.
    """

    def __init__(self, port: Port, devices: Sequence[int], concurrency: int | None, rng: np.random.Generator) -> None:
        self._port = port
        self._rng = rng
        self._places = len(devices) if concurrency is None else min(concurrency, len(devices))
        present = [k for k in devices if k not in port.absent]
        order = present if self._places >= len(present) else [present[i] for i in rng.permutation(len(present))]
        self._bench = order[self._places :]
        self.active: set[int] = set(order[: self._places])
        """Who trains now."""
        for k in self._bench:
            port.mark("benched", k)

    def turn(self, device: int) -> int:
        """`device` is done: who goes on in its place; itself, where nobody sits out."""
        if not self._bench:
            return device
        self._bench.append(device)
        self.active.discard(device)
        self._port.mark("benched", device)
        return self._call()

    def leave(self, device: int) -> int | None:
        """`device` has left: who takes its place, if it had one and somebody sits out."""
        if device in self._bench:
            self._bench.remove(device)
            return None
        self.active.discard(device)
        return self._call() if self._bench and len(self.active) < self._places else None

    def join(self, device: int) -> int | None:
        """`device` has come back: itself, if there is a place for it now."""
        if len(self.active) < self._places:
            self.active.add(device)
            return device
        self._bench.append(device)
        self._port.mark("benched", device)
        return None

    def _call(self) -> int:
        """Draw one of those who sit out; the one that has just come is not called first if others wait."""
        waiting = len(self._bench) - 1 if len(self._bench) > 1 else 1
        chosen = self._bench.pop(int(self._rng.integers(waiting)))
        self.active.add(chosen)
        self._port.mark("called", chosen)
        return chosen
