"""Both steps in either order: plan, cut, verify, zeros."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from fedsim.pruning.checks import Checks
from fedsim.pruning.mosaic.adapters import Block, matrix
from fedsim.pruning.mosaic.calibration import Windows, calibrated
from fedsim.pruning.mosaic.cutting import apply
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.planning import Outlook, plan, planned
from fedsim.pruning.mosaic.ranking import Ranking, current
from fedsim.pruning.mosaic.scores import UnitScores, gathered
from fedsim.pruning.mosaic.sparsifying import sparsify
from fedsim.pruning.pruned import Pruned, fingerprint


def prune(model: nn.Module, ranking: Ranking, options: Mosaic, windows: Windows) -> tuple[Pruned, Checks]:
    """From a ranking to a smaller, sparser model. The input is left as it was.

    With `order: unstructured-first` and both steps, weights become zero first and the units with the fewest others
    are cut, as DNNShifter does; then zeros are added until the budget is met. The checks then compare the cut with the
    sparse model. The plan in the result has the units as they were chosen.

    Raises:
        UserError: see `plan`.
        PruningError: see `apply` and `sparsify`.
    """
    calibration = calibrated(windows)
    began = time.perf_counter()
    if options.order == "unstructured-first" and 0 < options.alpha < 1:
        return _zeros_first(model, ranking, options, calibration)
    chosen = plan(model, ranking, options)
    planning = time.perf_counter() - began
    cut, checks = apply(model, chosen, calibration)
    cut = replace(cut, timings={"plan": planning, **cut.timings})
    return sparsify(cut, chosen, calibration), checks


def _zeros_first(model: nn.Module, ranking: Ranking, options: Mosaic, windows: Windows) -> tuple[Pruned, Checks]:
    began = time.perf_counter()
    _, blocks = current(ranking, model, options)
    cut_out = options.alpha * options.sparsity
    before = replace(options, alpha=0.0, sparsity=(options.sparsity - cut_out) / (1 - cut_out))
    first = plan(model, ranking, before)
    planning = time.perf_counter() - began
    whole, _ = apply(model, first, windows)
    sparse = sparsify(whole, first, windows)
    outlook = Outlook(ranking, blocks, model, options)
    chosen = planned(model, blocks, outlook, filled(sparse.module, blocks), ranking, options)
    cut, checks = apply(sparse.module, replace(chosen, parent=fingerprint(sparse.module)), windows)
    cut = replace(cut, plan=chosen, updated=tuple(sorted({*cut.updated, *sparse.updated})))
    made = sparsify(cut, chosen, windows)
    seconds = {"plan": planning, **cut.timings}
    seconds["sparsify"] = sparse.timings["sparsify"] + made.timings.get("sparsify", 0.0)
    return replace(made, timings=seconds), checks


def filled(model: nn.Module, blocks: Sequence[Block]) -> list[UnitScores]:
    """By block and unit: how many of its weights are not zero."""
    return [gathered(block, lambda p, block=block: matrix(model, block, p) != 0) for block in blocks]
