"""Scores of heads and channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedsim.errors import UserError
from fedsim.pruning.mosaic import Mosaic, rank
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Decoders, Projection, found
from fedsim.pruning.mosaic.scores import by_fluctuation, by_loss, by_magnitude, by_metric, gathered
from tests.pruning.mosaic import tiny

READ: tuple[Projection, ...] = ("q", "o", "gate", "down")
pytestmark = pytest.mark.slow  # transformers takes seconds to import


def test_units_own_their_weights_and_no_others() -> None:
    """Weights of one unit alone give a score to that unit alone: a head to its group, a group to no head."""
    model = tiny.whole()
    block = found(Decoders(), model)[0]

    def scores(projection: str, index: tuple[int, int]) -> tuple[list[int], list[int], list[int]]:
        amounts = {p: torch.zeros(block.shape(p)) for p in PROJECTIONS}
        amounts[projection][index] = 1  # type: ignore[index]
        made = gathered(block, lambda p: amounts[p])
        return tuple(x.nonzero()[:, 0].tolist() for x in (made.heads, made.groups, made.channels))  # type: ignore[return-value]

    assert scores("q", (7 * 4 + 3, 0)) == ([7], [2], [])
    assert scores("o", (35, 4 * 4)) == ([4], [1], [])
    assert scores("k", (1 * 4, 5)) == ([], [1], [])
    assert scores("v", (11, 5)) == ([], [2], [])
    assert scores("gate", (63, 1)) == scores("up", (63, 9)) == scores("down", (3, 63)) == ([], [], [63])


def test_sums_cover_all_weights() -> None:
    """Groups and channels together have all of a block's metric, or magnitudes."""
    model = tiny.whole("qwen2")
    block = found(Decoders(), model)[1]
    norms = {p: tiny.positive(block.shape(p)[1]) for p in READ}
    made = by_magnitude(model, block)
    total = sum(model.get_parameter(block.weight(p)).abs().sum().item() for p in PROJECTIONS)
    assert float(made.groups.sum() + made.channels.sum()) == pytest.approx(total, rel=1e-5)
    ones = by_metric(model, block, {p: torch.ones_like(x) for p, x in norms.items()})
    assert torch.allclose(ones.groups, made.groups)
    assert not torch.allclose(by_metric(model, block, norms).channels, made.channels)


def test_fluctuation_by_hand() -> None:
    """Variance of a column's input times the squared norm of the column."""
    model = tiny.whole()
    block = found(Decoders(), model)[0]
    variances = {p: tiny.positive(block.shape(p)[1]) for p in READ}
    made = by_fluctuation(model, block, variances)
    down, o = (model.get_parameter(block.weight(p)).detach() for p in ("down", "o"))
    torch.testing.assert_close(made.channels, (down.square().sum(0) * variances["down"]).double(), rtol=1e-5, atol=1e-5)
    heads = (o.square().sum(0) * variances["o"]).reshape(9, 4).sum(1).double()
    torch.testing.assert_close(made.heads, heads, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.groups, heads.reshape(3, 3).sum(1), rtol=1e-5, atol=1e-5)


def test_first_order_of_the_loss() -> None:
    """Weight times gradient of the mean loss over windows; the model has no gradients afterwards."""
    model, tokens = tiny.whole(), tiny.windows(3)
    blocks = found(Decoders(), model)
    name = blocks[1].weight("down")
    made = by_loss(model, Decoders(), blocks, tokens)
    weight = model.get_parameter(name)
    logits = model(input_ids=tokens, use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    (gradient,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(made[1]["down"], (gradient * weight).abs(), rtol=1e-3, atol=1e-6)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_block_without_a_head_has_no_loss() -> None:
    """The device's part of a list of units, and a whole model's decoder, give hidden states rather than logits."""
    whole: Any = tiny.whole()
    for model in (tiny.units().block(0, 2), whole.model):
        with pytest.raises(UserError, match=r"has no head: it gives 36 numbers for a token .* of 29 tokens, so it pre"):
            rank(model, tiny.windows(), Mosaic(unit_score="taylor"))
        assert rank(model, tiny.windows()).blocks, "other scores need no loss"
