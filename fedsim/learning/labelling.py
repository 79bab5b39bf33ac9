"""Which labels each device holds, for systems that go by them. Plain numbers; the same with learning on and off."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedsim import seeds
from fedsim.data import Shards
from fedsim.learning.learners import Batch


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of all training samples, one a sample, and who holds which."""

    labels: NDArray[np.int64]
    shards: Shards
    classes: int
    _passes: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        assert self.labels.ndim == 1, f"labels of shape {self.labels.shape}: one a sample, or nobody can count them"

    def counts(self, device: int) -> NDArray[np.int64]:
        """How many samples of each class a device holds."""
        return self._counted(self.labels[self.shards[device]])

    def held(self) -> tuple[int, ...]:
        """The classes that some device has a sample of."""
        classes: list[int] = np.flatnonzero(self._counted(self.labels[self.shards.indices])).tolist()
        return tuple(classes)

    def tally(self, seed: int, device: int, batch: Batch) -> tuple[int, ...]:
        """How many samples of each class a device's batch has."""
        held = self._passes.get(device)
        if held is None or held[0] != batch.epoch:
            shard = self.shards[device]
            order = seeds.generator(seed, device, "batches", batch.epoch).permutation(len(shard))  # as a host draws it
            held = self._passes[device] = (batch.epoch, self.labels[shard[order]])
        counted: list[int] = self._counted(held[1][batch.start : batch.start + batch.size]).tolist()
        return tuple(counted)

    def _counted(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=self.classes)
