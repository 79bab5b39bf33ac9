"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The same examples on every run and machine, however loaded; nothing is kept in the working directory.
settings.register_profile("fedsim", derandomize=True, deadline=None, database=None)
settings.load_profile("fedsim")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One intra-op thread: the same bits on every machine, and no fight for its cores."""
    import torch

    torch.set_num_threads(1)
