"""Which device holds which samples: one array of sample numbers, cut at offsets.

Compact for ten thousand devices: no Python object a device. Knows nothing of how samples are dealt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Shards:
    """The samples of each device, ascending."""

    indices: NDArray[np.int64]
    """Sample numbers, device after device."""
    offsets: NDArray[np.int64]
    """(devices + 1,); device k holds `indices[offsets[k]:offsets[k + 1]]`."""

    @classmethod
    def of(cls, holder: NDArray[np.int64], devices: int) -> Shards:
        """From the device that holds each sample."""
        offsets = np.zeros(devices + 1, np.int64)
        np.cumsum(np.bincount(holder, minlength=devices), out=offsets[1:])
        small = (
            holder.astype(np.uint16) if devices <= 2**16 else holder
        )  # NumPy sorts 16 bits by radix: 10 times faster
        indices = np.argsort(small, kind="stable").astype(np.int64, copy=False)
        for array in (indices, offsets):
            array.setflags(write=False)
        return cls(indices, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, device: int) -> NDArray[np.int64]:
        """The samples of one device: a read-only view."""
        if not 0 <= device < len(self):
            raise IndexError(f"device {device} of {len(self)}")
        return self.indices[self.offsets[device] : self.offsets[device + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self[device] for device in range(len(self)))

    def sizes(self) -> NDArray[np.int64]:
        """Samples of each device."""
        return np.diff(self.offsets)

    def holders(self) -> NDArray[np.int64]:
        """The device of each entry of `indices`."""
        return np.repeat(np.arange(len(self)), self.sizes())
