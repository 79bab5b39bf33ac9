"""Accuracy, against a sum by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.learning import measuring
from fedsim.models.units import UnitList


class SevenSamples:
    """Held out."""

    def held_out(self, split: str, first: int, last: int) -> tuple[Tensor, Tensor]:
        assert split == "test"
        labels = torch.arange(first, last) % 2
        return torch.zeros(last - first, 3), labels

    def held_out_size(self, split: str) -> int:
        return 7


def test_accuracy_is_over_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one smaller."""
    monkeypatch.setattr(measuring, "BATCH", 3)
    data: Any = SevenSamples()
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    found = measuring.quality(model, UnitList.loss, data, "test", 2)
    assert found.accuracy == pytest.approx(4 / 7)
    assert found.samples == 7
    loss = (4 * -math.log(math.e / (math.e + 1)) + 3 * -math.log(1 / (math.e + 1))) / 7
    assert found.loss == pytest.approx(loss)
