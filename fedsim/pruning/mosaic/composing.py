"""Both steps in either order: plan, cut, verify, zeros."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from fedsim.payload.supports import Support
from fedsim.pruning.checks import Checks
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Block, matrix
from fedsim.pruning.mosaic.calibration import Windows, calibrated
from fedsim.pruning.mosaic.cutting import FIRST, apply, zeroed
from fedsim.pruning.mosaic.indexing import axes, chosen
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.planning import Outlook, plan, planned
from fedsim.pruning.mosaic.policies import Shares
from fedsim.pruning.mosaic.ranking import Ranking, current
from fedsim.pruning.mosaic.scores import UnitScores, gathered
from fedsim.pruning.mosaic.sparsifying import sparsified
from fedsim.pruning.plans import Kept, Plan
from fedsim.pruning.pruned import Pruned


def prune(model: nn.Module, ranking: Ranking, options: Mosaic, windows: Windows) -> tuple[Pruned, Checks]:
    """From a ranking to a smaller, sparser model. The input is left as it was.

    Raises:
        UserError: see `plan`.
        PruningError: see `apply` and `sparsify`.
    """
    calibration = calibrated(windows)
    began = time.perf_counter()
    made = composed(model, ranking, options, calibration)
    planning = time.perf_counter() - began
    smaller, checks = apply(model, made, calibration)
    smaller = replace(smaller, timings={"plan": planning, **smaller.timings})
    return sparsified(smaller, made, calibration), checks


def composed(
    model: nn.Module, ranking: Ranking, options: Mosaic, windows: Windows, *, within: Plan | None = None
) -> Plan:
    """The plan for steps in either order.

    With `order: unstructured-first` and both steps, weights become zero first and the units with the fewest others are
    cut, as DNNShifter does; then zeros are added until the budget is met. So the first step is done here, to see which
    units those are; the plan has its shares, too, so that `apply` can do it again.

    Raises:
        UserError: see `plan`.
        PruningError: see `sparsify`.
    """
    seen = "data-free" if options.data_free else calibrated(windows).privacy
    if not options.zeros_first:
        return plan(model, ranking, options, within=within).depending(seen)
    _, blocks = current(ranking, model, options)
    outlook = Outlook(ranking, blocks, model, options, within)
    first = plan(model, ranking, replace(options, alpha=0.0, sparsity=outlook.zeros))
    sparse = zeroed(model, options, first.sparsity, windows).module
    scope = [blocks[number] for number in outlook.scope]
    second = planned(
        model,
        blocks,
        outlook,
        filled(sparse, blocks),
        ranking,
        options,
        least=lambda kept: empty(sparse, scope, kept, refilled=options.update != "none"),
    )
    return replace(second, options={**second.options, FIRST: dict(first.sparsity)}).depending(seen)


def filled(model: nn.Module, blocks: Sequence[Block]) -> list[UnitScores]:
    """By block and unit: how many of its weights are not zero."""

    def counted(block: Block) -> UnitScores:
        return gathered(block, lambda projection: matrix(model, block, projection) != 0)

    return [counted(block) for block in blocks]


def empty(model: nn.Module, blocks: Sequence[Block], kept: tuple[Kept, ...], *, refilled: bool) -> Shares:
    """By block and projection: the share of zeros among the weights that are kept.

    Args:
        refilled: whether columns that stay make up for those that go, and have no zeros then.
    """
    units = chosen(blocks, kept)
    shares = np.zeros((len(blocks), len(PROJECTIONS)))
    for number, block in enumerate(blocks):
        support = Support(axes(model, block, units[number]) if number in units else {})
        for column, projection in enumerate(PROJECTIONS):
            name = block.weight(projection)
            if refilled and projection in ("o", "down") and name in support.axes:
                continue
            weight = matrix(model, block, projection).cpu().numpy()
            shares[number, column] = (weight[support.index(name, weight.shape)] == 0).mean()
    return shares
