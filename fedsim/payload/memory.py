"""Memory for weights: outside the malloc heap, and used again once nobody looks at it any more.

Weights are the large blocks that live across rounds. In the heap they would leave holes of their size between small
objects, which are never given back: up to twice the memory, by chance (`benchmarks/memory.py`). A block returns here
when the last tensor on it is gone, views included, so it can never be overwritten under somebody's eyes.
"""

from __future__ import annotations

import ctypes
import mmap
from weakref import finalize

import torch
from torch import Tensor

SMALL = 65_536
"""Bytes up to which a tensor comes from the heap: pages of its own would not pay."""


class Recycler:
    """Blocks of memory by size."""

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = {}

    def empty(self, elements: int, dtype: torch.dtype) -> Tensor:
        """A flat tensor with arbitrary contents, on a page boundary."""
        nbytes = elements * dtype.itemsize
        if nbytes <= SMALL:
            return torch.empty(elements, dtype=dtype)
        free = self._free.setdefault(nbytes, [])
        block = free.pop() if free else mmap.mmap(-1, nbytes)
        view = memoryview(block)  # the tensor's storage holds the view, not the block, so its end can be noticed
        finalize(view, free.append, block).atexit = False
        return torch.frombuffer(view, dtype=dtype)


def trim() -> None:
    """Give free pages of the heap back to the system, after a burst of large temporaries; glibc only."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
