"""How many heads and MLP channels each block keeps, so that the parameters removed are as many as asked for.

Our reconstruction. q, k, v and o shrink together, as do gate, up and down: seven shares drive two widths. Attention,
whose steps are coarse, goes first; the MLPs absorb what is left of the budget. Numbers alone: which units these are is
chosen elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import ATTENTION, MLP, PROJECTIONS, Block, Projection
from fedsim.pruning.mosaic.policies import Shares, exact

_SLACK: Final = 1e-9
"""Of a channel: what a rounding error may be."""

KvUnit = Literal["group", "query_head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """What one block keeps."""

    kv_heads: int
    repeats: int
    """Query heads of each key and value head."""
    channels: int

    def elements(self, block: Block, projection: Projection) -> int:
        """Weights that a projection has then."""
        if projection in MLP:
            return block.width * self.channels
        heads = self.kv_heads if projection in ("k", "v") else self.kv_heads * self.repeats
        return block.width * heads * block.head_size

    def total(self, block: Block) -> int:
        """Weights that the seven projections have then."""
        return sum(self.elements(block, projection) for projection in PROJECTIONS)


def whole(block: Block) -> Width:
    """All of a block."""
    return Width(kv_heads=block.kv_heads, repeats=block.repeats, channels=block.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What widths have to keep to."""

    kv_unit: KvUnit
    round_to: int
    most: float
    uniform: bool
    """Whether all blocks get the same."""


def widths(
    blocks: Sequence[Block], cuttable: Sequence[bool], shares: Shares, target: float, rules: Rules
) -> tuple[Width, ...]:
    """Widths of all blocks, which together lose the share `target` of their weights, to within half a step.

    A step is `round_to` channels of one block, or of all blocks where they are to be alike.

    Args:
        shares: by block and projection, what a policy wants to be removed.

    Raises:
        UserError: no widths come near the target; the message has the nearest share that some do.
    """
    made = [whole(block) for block in blocks]
    if target == 0:
        return tuple(made)
    if rules.uniform and len(set(made)) > 1:
        raise UserError("uniform_widths: this model's blocks differ in width already; leave uniform_widths out")
    free = [number for number, cuts in enumerate(cuttable) if cuts]
    total = sum(width.total(block) for width, block in zip(made, blocks, strict=True))
    if free:
        chosen = [blocks[number] for number in free]
        cut = _cut(chosen, _budgeted(chosen, shares[free], target * total, rules), target * total, rules)
        for number, width in zip(free, cut, strict=True):
            made[number] = width
    removed = total - sum(width.total(block) for width, block in zip(made, blocks, strict=True))
    steps = [rules.round_to * len(MLP) * blocks[number].width for number in free] or [0]
    if removed == 0 or abs(removed - target * total) > (sum(steps) if rules.uniform else max(steps)) / 2 + 1:
        raise UserError(
            f"{target:.2%} of the decoder blocks' parameters cannot be cut out in whole heads and channels; the "
            f"nearest share that can is {removed / total:.2%}: change sparsity or alpha, take a smaller round_to, or "
            "protect fewer blocks"
        )
    return tuple(made)


def _budgeted(blocks: Sequence[Block], shares: Shares, budget: float, rules: Rules) -> Shares:
    """The shares of the blocks that are cut, moved where others are spared; their mean where all are to be alike."""
    elements = np.array([[block.elements(p) for p in PROJECTIONS] for block in blocks], np.int64)
    if budget > (shares * elements).sum() * (1 + _SLACK):
        shares = exact(shares, elements, min(budget / elements.sum(), rules.most), rules.most)
    if rules.uniform:
        shares = np.repeat(shares.mean(0)[None], len(blocks), axis=0)  # blocks of one width weigh the same
    return shares


def _cut(blocks: Sequence[Block], shares: Shares, budget: float, rules: Rules) -> list[Width]:
    """Widths that remove `budget` weights: attention by its shares, MLPs by theirs and what is left to remove."""
    heads = [_attention(block, row, rules) for block, row in zip(blocks, shares, strict=True)]
    left = budget - sum(whole(b).total(b) - width.total(b) for b, width in zip(blocks, heads, strict=True))
    channels = _mlp(blocks, shares, left, rules)
    return [replace(width, channels=count) for width, count in zip(heads, channels, strict=True)]


def _attention(block: Block, shares: NDArray[np.float64], rules: Rules) -> Width:
    """Heads of one block by the weighted mean of the shares of what shrinks with them."""
    shrinking = ATTENTION if rules.kv_unit == "group" else ("q", "o")
    share = _mean(block, shares, shrinking)
    width = whole(block)
    if rules.kv_unit == "group":
        return replace(width, kv_heads=_rounded(block.kv_heads, share))
    return replace(width, repeats=_rounded(block.repeats, share))


def _rounded(of: int, share: float) -> int:
    """What is left of some units, halves up; never none."""
    return max(1, math.floor(of * (1 - share) + 0.5))


def _mean(block: Block, shares: NDArray[np.float64], projections: Sequence[Projection]) -> float:
    weights = [block.elements(projection) for projection in projections]
    return float(np.average([shares[PROJECTIONS.index(p)] for p in projections], weights=weights))


def _mlp(blocks: Sequence[Block], shares: Shares, budget: float, rules: Rules) -> list[int]:
    """Channels of all blocks, so that the weights removed are as near to `budget` as may be."""
    costs = np.array([len(MLP) * block.width for block in blocks], np.int64)  # weights of a channel
    sizes = np.array([block.channels for block in blocks], np.int64)
    share = min(max(budget / float((costs * sizes).sum()), 0.0), rules.most)
    wanted = np.array([_mean(block, row, MLP) for block, row in zip(blocks, shares, strict=True)])
    ideal = sizes * (1 - exact(wanted, costs * sizes, share, rules.most))
    ladders = [[*range(rules.round_to, block.channels, rules.round_to), block.channels] for block in blocks]
    if rules.uniform:
        removed = [costs.sum() * (blocks[0].channels - channels) for channels in ladders[0]]
        nearest = min(range(len(removed)), key=lambda step: abs(removed[step] - budget))
        return [ladders[0][nearest]] * len(blocks)
    # Rounded down, too much is removed; those who lost most by it are rounded up until the budget is met.
    steps = [
        max((step for step, channels in enumerate(ladder) if channels <= wish + _SLACK), default=0)
        for ladder, wish in zip(ladders, ideal, strict=True)
    ]
    kept = [ladder[step] for ladder, step in zip(ladders, steps, strict=True)]
    over = float((costs * (sizes - np.array(kept))).sum()) - budget
    for number in sorted(range(len(blocks)), key=lambda n: kept[n] - ideal[n]):
        if steps[number] + 1 == len(ladders[number]):
            continue
        larger = ladders[number][steps[number] + 1]
        cost = float(costs[number] * (larger - kept[number]))
        if abs(over - cost) < abs(over):
            over -= cost
            kept[number] = larger
    return kept
