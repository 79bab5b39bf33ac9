"""How much a block's heads and channels matter: one number for each query head, group of heads and MLP channel.

The sum of the metric, or of magnitudes, over all weights that belong to the unit; the first order of the loss after
LLM-Pruner (arXiv 2305.11627); the variance of what the unit hands on, after FLAP (arXiv 2312.11983).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.pruning.mosaic.adapters import (
    PROJECTIONS,
    READERS,
    Adapter,
    Block,
    Projection,
    evaluate,
    matrix,
    restore,
)
from fedsim.pruning.mosaic.evaluating import predicted
from fedsim.pruning.mosaic.outliers import Norms, finite, metric

Amounts = Callable[[Projection], Tensor]
"""By projection: what each of its weights counts, `rows columns`."""


@dataclass(frozen=True, kw_only=True)
class UnitScores:
    """A block's units, in float64."""

    heads: Tensor
    """By query head: its rows of q and its columns of o."""
    groups: Tensor
    """By key and value head: its rows of k and v, and its query heads."""
    channels: Tensor
    """By MLP channel: its rows of gate and up, and its column of down."""


def gathered(block: Block, amounts: Amounts) -> UnitScores:
    """Sums over the weights that each unit owns.

    Raises:
        UserError: a sum is not finite.
    """

    def by(projection: Projection, axis: int, units: int) -> Tensor:
        """Sums over the other axis, and over the neighbours that make up a unit."""
        sums = amounts(projection).sum(1 - axis, dtype=torch.float64)
        return finite(sums, block.projections[projection]).reshape(units, -1).sum(1)

    heads = by("q", 0, block.heads) + by("o", 1, block.heads)
    shared = by("k", 0, block.kv_heads) + by("v", 0, block.kv_heads)
    channels = by("gate", 0, block.channels) + by("up", 0, block.channels) + by("down", 1, block.channels)
    return UnitScores(heads=heads, groups=shared + heads.reshape(block.kv_heads, -1).sum(1), channels=channels)


def by_metric(model: nn.Module, block: Block, norms: Norms) -> UnitScores:
    """Sums of the metric."""
    return gathered(block, lambda p: metric(matrix(model, block, p), norms[READERS[p]]))


def by_magnitude(model: nn.Module, block: Block) -> UnitScores:
    """Sums of the weights' magnitudes."""
    return gathered(block, lambda p: matrix(model, block, p).float().abs())


def by_fluctuation(model: nn.Module, block: Block, variances: Norms) -> UnitScores:
    """Variance of each column's input times the column's squared norm, for o and down; other projections are none."""

    def amounts(projection: Projection) -> Tensor:
        weight = matrix(model, block, projection).float()
        if projection in ("o", "down"):
            return weight.square() * variances[projection].to(weight.device)
        return torch.zeros_like(weight)

    return gathered(block, amounts)


def by_loss(
    model: nn.Module, adapter: Adapter, blocks: tuple[Block, ...], tokens: Tensor
) -> tuple[Mapping[Projection, Tensor], ...]:
    """By block: magnitudes of weights times the gradients of the mean next-token loss over all windows.

    Holds a gradient of every projection, and the activations of one window.

    Raises:
        UserError: the model has no head, such as the block of a device alone.
    """
    weights = [model.get_submodule(b.projections[p]).get_parameter("weight") for b in blocks for p in PROJECTIONS]
    totals = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    wanted = {id(weight) for weight in weights}
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = evaluate(model)
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in wanted)
        for window in tokens.split(1):
            with torch.enable_grad():
                logits, given = predicted(model, window, adapter)
                loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), given[:, 1:].flatten())
            for total, gradient in zip(totals, torch.autograd.grad(loss, weights), strict=True):
                total.add_(gradient)
    finally:
        restore(model, modes)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required[name])
    amounts = [
        (weight.detach().float() * total).abs() / len(tokens) for weight, total in zip(weights, totals, strict=True)
    ]
    per = len(PROJECTIONS)
    return tuple(dict(zip(PROJECTIONS, amounts[n * per :], strict=False)) for n in range(len(blocks)))
