"""PyTorch's threads for the length of a run."""

from __future__ import annotations

import pytest
import torch

from fedsim.learning.threads import intra_op_threads


def test_threads_are_restored_whatever_happens() -> None:
    """After a run that ended, and after one that failed."""
    before = torch.get_num_threads()
    with intra_op_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), intra_op_threads(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
