"""PyTorch's intra-op threads for the length of a run: part of what makes its numbers reproducible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """PyTorch with so many intra-op threads, and as it was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_threads(count: int) -> None:
    """So many intra-op threads for as long as this process lives."""
    torch.set_num_threads(count)
