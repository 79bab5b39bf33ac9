"""Accuracy, against a sum by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedsim.pruning.quality import image_quality


def test_accuracy_is_over_all_batches() -> None:
    """The last one smaller."""

    def batch(first: int, last: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(first, last) % 2
        return torch.zeros(last - first, 3), labels

    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    found = image_quality(model, batch, 7, size=3)
    assert found.accuracy == pytest.approx(4 / 7)
    assert found.samples == 7
    loss = (4 * -math.log(math.e / (math.e + 1)) + 3 * -math.log(1 / (math.e + 1))) / 7
    assert found.loss == pytest.approx(loss)
