"""What all tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One intra-op thread: the same bits on every machine, and no fight for its cores."""
    import torch

    torch.set_num_threads(1)
