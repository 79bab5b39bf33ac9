"""Which labels each device holds, for systems that go by them. Plain numbers; the same with learning on and off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data import Shards


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of all training samples, one a sample, and who holds which."""

    labels: NDArray[np.int64]
    shards: Shards
    classes: int

    def __post_init__(self) -> None:
        assert self.labels.ndim == 1, f"labels of shape {self.labels.shape}: one a sample, or nobody can count them"

    def counts(self, device: int) -> NDArray[np.int64]:
        """How many samples of each class a device holds."""
        return np.bincount(self.labels[self.shards[device]], minlength=self.classes)
