"""Both steps together, in either order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.pruning.mosaic import Mosaic, apply, plan, prune, rank, sparsify
from fedsim.pruning.mosaic.adapters import Decoders, found
from fedsim.pruning.mosaic.composing import composed, empty, filled
from fedsim.pruning.mosaic.cutting import FIRST
from fedsim.pruning.mosaic.planning import Outlook
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import fingerprint
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_prune_is_the_three_steps(alpha: float) -> None:
    """Plan, cut and zeros, with the same weights in the end."""
    model, windows = tiny.whole(), tiny.windows()
    ranking, options = rank(model, windows), Mosaic(sparsity=0.5, alpha=alpha)
    pruned, checks = prune(model, ranking, options, windows)
    made = plan(model, ranking, options)
    cut, same = apply(model, made, windows)
    assert fingerprint(sparsify(cut, made, windows).module) == fingerprint(pruned.module)
    assert checks == same
    assert pruned.plan == made
    assert set(pruned.timings) == {"plan", "cut", "verify"} | ({"sparsify"} if alpha < 1 else set())


@pytest.mark.parametrize("order", ["structured-first", "unstructured-first"])
@pytest.mark.parametrize("update", ["least_squares", "none"])
@pytest.mark.parametrize("model", [tiny.whole, tiny.units])
def test_both_orders_meet_the_budget(order: Any, update: Any, model: Any) -> None:
    """Smaller and sparser, to 0.1 points of the target; the same widths; the parent as it was."""
    net = model()
    before = fingerprint(net)
    options = Mosaic(sparsity=0.6, alpha=0.5, order=order, update=update)
    ranking = rank(net, tiny.windows())
    pruned, checks = prune(net, ranking, options, tiny.windows())
    kept = sum(int(mask.sum()) for mask in pruned.support.masks.values())
    total = sum(weight.numel() for weight in tiny.projected(net).values())
    assert kept / total == pytest.approx(0.4, abs=0.001)
    assert tiny.left(pruned.module) / total == pytest.approx(0.4, abs=0.002)
    assert checks.removed > 0
    assert fingerprint(net) == before == pruned.plan.parent
    reference = plan(net, ranking, Mosaic(sparsity=0.6, alpha=0.5))
    widths = [(each.layer, len(each.indices)) for each in pruned.plan.kept]
    assert widths == [(each.layer, len(each.indices)) for each in reference.kept]
    assert pruned.plan.parameters == reference.parameters == checks.parameters


def test_zeros_first_drops_the_emptiest_units() -> None:
    """Of the model that has only zeros yet, no unit that stays has fewer other weights than one that goes."""
    model: Any = tiny.units()
    ranking = rank(model, tiny.windows())
    options = Mosaic(sparsity=0.6, alpha=0.5, order="unstructured-first", pruner="magnitude", policy="uniform")
    pruned, _ = prune(model, ranking, options, tiny.windows())
    blocks = found(Decoders(), model)
    share = Outlook(ranking, blocks, model, options).zeros
    sparse, _ = prune(model, ranking, replace(options, alpha=0.0, sparsity=share), tiny.windows())
    counts = filled(sparse.module, blocks)
    seen = 0
    for block, count in zip(blocks, counts, strict=True):
        for kept in pruned.plan.kept:
            if kept.layer in block.projections.values():
                numbers = (count.channels if kept.kind == "mlp_channels" else count.groups).tolist()
                gone = [numbers[unit] for unit in range(kept.of) if unit not in kept.indices]
                assert min(numbers[unit] for unit in kept.indices) >= max(gone)
                assert len(set(numbers)) > 1
                seen += 1
    assert seen == 4


def test_a_plan_with_zeros_first_says_them() -> None:
    """So that it can be followed from its text alone; the same arguments give the same plan."""
    model: Any = tiny.units()
    ranking = rank(model, tiny.windows())
    options = Mosaic(sparsity=0.6, alpha=0.5, order="unstructured-first")
    made = composed(model, ranking, options, tiny.windows())
    assert composed(model, ranking, options, tiny.windows()).text() == made.text()
    assert made.options[FIRST].keys() == made.sparsity.keys()
    again = Plan.parse(made.text())
    cut, checks = apply(model, again, tiny.windows())
    pruned, same = prune(model, ranking, options, tiny.windows())
    assert fingerprint(sparsify(cut, again, tiny.windows()).module) == fingerprint(pruned.module)
    assert checks == same
    assert pruned.plan == made
    assert set(pruned.timings) == {"plan", "cut", "verify", "sparsify"}
    assert set(made.sparsity) <= set(cut.updated), "values are no longer the parent's"


def test_zeros_are_counted_where_they_stay() -> None:
    """In the rows and columns that are kept; nowhere, where compensation fills them."""
    model: Any = tiny.units()
    block = found(Decoders(), model)[0]
    with torch.no_grad():
        model.get_parameter(block.weight("gate"))[:16] = 0
        model.get_parameter(block.weight("down"))[:, :16] = 0
    options = Mosaic(sparsity=0.4, alpha=1.0, scope=("block1",), policy="uniform")
    made = plan(model, rank(model, tiny.windows()), options)
    channels = next(kept.indices for kept in made.kept if kept.kind == "mlp_channels")
    zeros = sum(channel < 16 for channel in channels) / len(channels)
    shares = empty(model, [block], made.kept, refilled=False)
    assert shares[0] == pytest.approx(np.array([0, 0, 0, 0, zeros, 0, zeros]))
    refilled = empty(model, [block], made.kept, refilled=True)
    assert refilled[0] == pytest.approx(np.array([0, 0, 0, 0, zeros, 0, 0]))
