"""Which processor is measured."""

from __future__ import annotations

import pytest
import torch

from fedsim.calibration.targets import target
from fedsim.errors import UserError


def test_the_cpu_needs_no_waiting() -> None:
    """What PyTorch computes there has been computed when the call returns."""
    found = target("cpu")
    assert (found.processor, found.device) == ("cpu", torch.device("cpu"))
    found.wait()


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the version of torch, which may be one without CUDA, and the way out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--processor gpu, but torch .* finds no CUDA device; measure the CPU with"):
        target("gpu")


def test_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes while Python goes on, so the clock must not be read before it is done."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = target("gpu")
    assert (found.processor, found.device) == ("gpu", torch.device("cuda"))
    assert found.wait is torch.cuda.synchronize
