"""Perplexity, accuracy of the next token, and choice among continuations."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.errors import UserError
from fedsim.pruning.mosaic.evaluating import Quality, _places, cloze, consecutive, quality, wilson
from tests.pruning.mosaic import tiny


class Bigram(nn.Module):
    """Expects each token to be the one before it plus one."""

    def __init__(self, vocabulary: int, sure: float) -> None:
        super().__init__()
        self.table = nn.Parameter(sure * torch.eye(vocabulary).roll(1, dims=1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        return self.table[tokens]


def test_windows_follow_each_other() -> None:
    """From the beginning, and what does not fill one is left out."""
    assert consecutive(torch.arange(11), 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert consecutive(torch.arange(11), 3, 2).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(UserError, match="4 windows of 3 tokens need a text of 12 tokens, but this one has 11"):
        consecutive(torch.arange(11), 3, 4)
    with pytest.raises(UserError, match="1 windows of 12 tokens need a text of 12 tokens, but this one has 11"):
        consecutive(torch.arange(11), 12)


def test_perplexity_of_a_known_model() -> None:
    """Each of L - 1 predictions counts once: a uniform model has as many guesses as tokens."""
    found = quality(Bigram(8, 0.0), torch.arange(16).reshape(2, 8) % 8)
    assert found.predictions == 14
    assert found.perplexity == pytest.approx(8, rel=1e-6)
    sure = quality(Bigram(8, 3.0), torch.tensor([[0, 1, 2, 3], [5, 6, 7, 7]]))
    each = math.exp(3) / (math.exp(3) + 7)
    assert sure.right == 5
    assert sure.top1 == pytest.approx(5 / 6)
    losses = [-math.log(each), -(2 * math.log(each) + math.log(1 / (math.exp(3) + 7))) / 3]
    assert sure.losses == pytest.approx(losses, rel=1e-5)
    assert sure.perplexity == pytest.approx(math.exp(sum(losses) / 2), rel=1e-5)


def test_a_model_without_numbers_has_no_perplexity() -> None:
    """It is infinite, as is one that no float can hold."""
    assert Quality(losses=(800.0,), right=0, length=2).perplexity == math.inf
    assert Quality(losses=(math.nan, 1.0), right=0, length=2).perplexity == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_whole_models_and_chunks(family: str) -> None:
    """The same as the loss of all logits at once; the model's mode and weights stay."""
    model = tiny.whole(family)
    model.train()
    windows = tiny.windows(60, 12)  # more than one forward
    logits = tiny.logits(model, windows)
    losses = cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    found = quality(model, windows)
    assert found.loss == pytest.approx(float(losses), rel=1e-5)
    assert found.right == int((logits[:, :-1].argmax(-1) == windows[:, 1:]).sum())
    assert model.training
    model.eval()


@pytest.mark.slow
def test_lists_of_units_take_shorter_windows() -> None:
    """As they would be the beginnings of longer ones; more than the model knows are refused."""
    model = tiny.units()
    windows = tiny.windows(6, tiny.LENGTH)
    logits = tiny.logits(model, windows)[:, :7]
    found = quality(model, windows[:, :8])
    assert found.loss == pytest.approx(float(cross_entropy(logits.flatten(0, 1), windows[:, 1:8].flatten())), rel=1e-5)
    with pytest.raises(UserError, match="windows of 13 tokens, but the model takes 12; take windows of at most"):
        quality(model, tiny.windows(2, 13))


@pytest.mark.slow
def test_hidden_states_are_no_predictions() -> None:
    """A model without its head is refused."""
    with pytest.raises(UserError, match="has no head"):
        quality(tiny.units().block(0, 2), tiny.windows())


def test_what_cannot_be_evaluated() -> None:
    """Windows without predictions."""
    for shape in ((3, 1), (0, 4), (4,)):
        with pytest.raises(UserError, match="evaluation needs windows of 2 or more tokens each"):
            quality(Bigram(8, 0.0), torch.zeros(shape, dtype=torch.int64))


def test_the_true_continuation_is_found() -> None:
    """Where the text follows the model's rule and other places do not fit; ties are wrong."""
    text = torch.arange(400) * (torch.arange(400) // 40 % 7 + 1) % 31
    text[:40] = torch.arange(40) % 31
    rising = torch.arange(400) % 31
    knows = cloze(Bigram(31, 5.0), rising, items=40, context=4, continuation=6)
    assert knows.right > 30  # others may begin with the same token
    assert (knows.items, knows.choices) == (40, 4)
    assert cloze(Bigram(31, 0.0), text, items=10, context=4, continuation=6).right == 0
    assert knows == cloze(Bigram(31, 5.0), rising, items=40, context=4, continuation=6)
    low, high = knows.interval
    assert 0 < low < knows.accuracy < high <= 1


def test_items_are_drawn_from_a_seed() -> None:
    """The same places for the same seed, others for another."""
    first, again, other = (_places(500, 20, 8, 4, 4, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@settings(max_examples=60, deadline=None)
@given(some.integers(1, 9), some.integers(1, 9), some.integers(2, 5), some.integers(1, 12), some.integers(0, 30))
def test_foreign_continuations_do_not_meet_the_item(
    context: int, continuation: int, choices: int, items: int, more: int
) -> None:
    """For any sizes, down to the shortest text that is allowed."""
    total = continuation - 1 + max(items + context, context + 2 * continuation - 1 + choices - 1) + more
    places = _places(total, items, context, continuation, choices, 3)
    assert len(set(places[:, 0].tolist())) == items
    for true, *foreign in places.tolist():
        assert context <= true <= total - continuation
        assert len(set(foreign)) == choices - 1
        for at in foreign:
            assert 0 <= at <= total - continuation
            assert at + continuation <= true - context or at >= true + continuation
    with pytest.raises(UserError, match=f"need a text of {total - more} tokens or more"):
        _places(total - more - 1, items, context, continuation, choices, 3)


def test_wrong_sizes_of_items() -> None:
    """None of anything."""
    with pytest.raises(UserError, match=r"0 items of 4 \+ 2 tokens with 4 choices; there are 1 item or more"):
        _places(100, 0, 4, 2, 4, 0)


def test_intervals_by_hand() -> None:
    """Wilson's for 8 of 10: 0.490 to 0.943; at the ends it stays within 0 and 1."""
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)


def test_continuations_are_chosen_by_all_their_tokens() -> None:
    """A plain loop over items: the sum of the logarithms of each token's probability, given the one before it."""
    rng = torch.Generator().manual_seed(0)
    model = Bigram(11, 0.0)
    with torch.no_grad():
        model.table.copy_(2 * torch.randn(11, 11, generator=rng))
    chances = model.table.softmax(-1).tolist()
    text = torch.randint(0, 11, (300,), generator=rng)
    tokens = text.tolist()
    right = 0
    for true, *foreign in _places(300, 40, 4, 6, 3, seed=5).tolist():
        sums = []
        for at in (true, *foreign):
            row = [tokens[true - 1], *tokens[at : at + 6]]
            sums.append(sum(math.log(chances[before][after]) for before, after in pairwise(row)))
        right += sums[0] > max(sums[1:])
    assert 0 < right < 40
    assert cloze(model, text, items=40, context=4, continuation=6, choices=3, seed=5).right == right
