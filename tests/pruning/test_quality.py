"""Perplexity and accuracy, against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.pruning.quality import image_quality, rows, text_quality
from tests.pruning.cuts import tiny_llama


class Shifting(nn.Module):
    """Says with certainty `sure` that a token is followed by the next number."""

    def __init__(self, vocabulary: int, sure: float) -> None:
        super().__init__()
        self.vocabulary, self.sure = vocabulary, sure

    def forward(self, tokens: Tensor) -> Tensor:
        rest = (1 - self.sure) / (self.vocabulary - 1)
        guesses = torch.full((*tokens.shape, self.vocabulary), math.log(rest))
        return guesses.scatter(-1, ((tokens + 1) % self.vocabulary)[..., None], math.log(self.sure))


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    """Of all predictions, the first token of each window being given."""
    found = text_quality(Shifting(5, 0.5), torch.arange(30).view(6, 5) % 5)
    assert (found.windows, found.length) == (6, 5)
    assert found.perplexity == pytest.approx(2)
    assert found.top1 == 1


def test_a_wrong_token_counts_with_its_probability() -> None:
    """One of four predictions is wrong."""
    found = text_quality(Shifting(5, 0.6), torch.tensor([[0, 1, 2, 3, 0]]))
    assert found.perplexity == pytest.approx(math.exp(-(3 * math.log(0.6) + math.log(0.1)) / 4))
    assert found.top1 == 0.75


@pytest.mark.slow
def test_models_of_transformers_are_read_alike_and_left_as_they_were() -> None:
    """By transformers' own loss."""
    model = tiny_llama().train()
    tokens = torch.arange(60).view(5, 12) % 61
    with torch.no_grad():
        loss = model.eval()(input_ids=tokens, labels=tokens).loss
    model.train()
    assert text_quality(model, tokens).perplexity == pytest.approx(math.exp(float(loss)), rel=1e-5)
    assert model.training


def test_windows_follow_one_another() -> None:
    """What is left at the end is dropped."""
    assert rows(np.arange(11), 2, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_accuracy_is_over_all_batches() -> None:
    """The last one smaller."""

    def batch(first: int, last: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(first, last) % 2
        return torch.zeros(last - first, 3), labels

    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    found = image_quality(model, batch, 7, size=3)
    assert (found.accuracy, found.samples) == (pytest.approx(4 / 7), 7)
    loss = (4 * -math.log(math.e / (math.e + 1)) + 3 * -math.log(1 / (math.e + 1))) / 7
    assert found.loss == pytest.approx(loss)
