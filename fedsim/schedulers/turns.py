"""Turns of devices at an asynchronous server, numbered, with weights that grow: those of the code of GAS."""

from __future__ import annotations


class Turns:
    """Who trains in which turn, and how much a device's batches count in the statistics.

    A turn begins at the server's steps so far, summed up over all aggregations, and each batch of it counts for one
    more than the one before: so recent ones weigh more.
    """

    def __init__(self) -> None:
        self.number: dict[int, int] = {}
        """The turn of each device that trains."""
        self.steps = 0
        """Steps of the server block."""
        self._count = 0
        self._base = 1
        self._weight: dict[int, int] = {}

    def begin(self, device: int) -> int:
        """A device begins; answers with the number of its turn."""
        self._count += 1
        self.number[device], self._weight[device] = self._count, self._base
        return self._count

    def weigh(self, device: int) -> int:
        """The weight of a device's next batch."""
        self._weight[device] += 1
        return self._weight[device] - 1

    def aggregated(self) -> None:
        """There is a new device block."""
        self._base += self.steps
