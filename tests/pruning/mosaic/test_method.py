"""Mosaic behind the seam of all methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from fedsim.errors import UserError
from fedsim.pruning.methods import Material, method
from fedsim.pruning.mosaic import Mosaic, prune, rank
from fedsim.pruning.mosaic.method import MosaicMethod
from fedsim.pruning.pruned import Pruned, fingerprint
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import

SIGHT = Material(example=tiny.windows(1), windows=tiny.windows, private=True, seed=4)


def whole(options: Mosaic, model: Any, material: Material = SIGHT) -> Pruned:
    """All of the seam's steps."""
    prunes = method(options)
    planned = prunes.plan(model, prunes.study(model, material), material)
    cut, checks = prunes.apply(model, planned, material)
    assert checks.parameters == planned.parameters
    return prunes.finish(cut, material)


@pytest.mark.parametrize("order", ["structured-first", "unstructured-first"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("make", [tiny.units, tiny.whole])
def test_its_steps_are_those_of_prune(order: Any, alpha: float, make: Any) -> None:
    """In either order, with the material's windows, seed and privacy."""
    model = make()
    before = fingerprint(model)
    options = Mosaic(sparsity=0.5, alpha=alpha, order=order)
    found = whole(options, model)
    expected, _ = prune(model, rank(model, tiny.windows()), replace(options, seed=4), tiny.windows())
    assert fingerprint(found.module) == fingerprint(expected.module)
    assert found.support == expected.support
    assert found.plan.seed == 4
    assert found.plan.privacy == "device-private"
    assert fingerprint(model) == before
    public = whole(options, model, replace(SIGHT, private=False))
    assert public.plan.privacy == "public"


@pytest.mark.parametrize("order", ["structured-first", "unstructured-first"])
def test_a_smaller_variant_lies_within_a_larger_one(order: Literal["structured-first", "unstructured-first"]) -> None:
    """Through the seam: of every tensor, the smaller one has none but indices of the larger one."""
    model = tiny.units(3)
    larger, smaller = (method(Mosaic(sparsity=share, alpha=0.5, order=order)) for share in (0.3, 0.6))
    study = larger.study(model, SIGHT)
    outer = larger.plan(model, study, SIGHT)
    inner = smaller.plan(model, study, SIGHT, outer)
    first, second = (larger.apply(model, each, SIGHT)[0].support for each in (outer, inner))
    assert inner.parameters < outer.parameters
    assert first.axes.keys() <= second.axes.keys()
    for name, axes in first.axes.items():
        for kept, mine in zip(axes, second.axes[name], strict=True):
            if kept is not None:
                assert mine is not None
                assert np.isin(mine, kept).all()


def test_only_decoder_blocks_among_what_may_shrink() -> None:
    """A device block's embedding is none; without any decoder block there is nothing to do; the options' scope wins."""
    model = tiny.units(3)
    sight = replace(SIGHT, scope=("embedding", "block1", "block2"))
    found = whole(Mosaic(sparsity=0.5), model, sight)
    assert found.plan.options["scope"] == ["block1", "block2"]
    assert {name.split(".")[0] for name in found.plan.sparsity} == {"block1", "block2"}
    own = whole(Mosaic(sparsity=0.5, scope=("block3",)), model, sight)
    assert {name.split(".")[0] for name in own.plan.sparsity} == {"block3"}
    nothing = replace(SIGHT, scope=("embedding",))
    with pytest.raises(UserError, match="none of embedding, which may shrink, is a decoder block; the first is block1"):
        whole(Mosaic(), model, nothing)


def test_without_text_there_is_nothing_to_go_by() -> None:
    """Pictures cannot calibrate a language model."""
    with pytest.raises(UserError, match="mosaic prunes language models by what they do on text, and there is none"):
        whole(Mosaic(), tiny.units(), replace(SIGHT, windows=None))


def test_sizes_for_a_memory() -> None:
    """What is left is what was asked for; zeros alone make nothing smaller."""
    model = tiny.units()
    sized = method(Mosaic(sparsity=0.1, alpha=1.0, round_to=1)).sized(0.6)
    found = whole(sized.options, model)  # type: ignore[attr-defined]
    held, all_of = (sum(w.numel() for w in tiny.projected(each).values()) for each in (found.module, model))
    assert held / all_of == pytest.approx(0.6, abs=0.01)
    with pytest.raises(UserError, match="fit: memory, but with alpha 0 weights only become zero"):
        method(Mosaic()).sized(0.5)


def test_what_can_share_a_study() -> None:
    """Targets, policies and splits can; other scores cannot."""
    one = MosaicMethod(Mosaic()).studied
    assert MosaicMethod(Mosaic(sparsity=0.7, policy="layer", alpha=1.0)).studied == one
    assert MosaicMethod(Mosaic(unit_score="magnitude")).studied != one
    assert MosaicMethod(Mosaic(outlier_factor=3.0)).studied != one


def test_making_it_costs_more_with_zeros_first() -> None:
    """They are set once to plan and once to cut: two more forwards, and what each solves."""
    model = tiny.units()
    costs = {}
    for order in ("structured-first", "unstructured-first"):
        options = Mosaic(alpha=0.5, order=order)
        prunes = method(options)
        planned = prunes.plan(model, prunes.study(model, SIGHT), SIGHT)
        costs[order] = prunes.macs(model, planned, SIGHT)
        forward = tiny.WINDOWS * _forward(model)
        assert prunes.macs(model, planned, SIGHT, study=False) == costs[order] - forward, "the ranking"
    assert costs["unstructured-first"] - costs["structured-first"] > 2 * forward
    assert costs["structured-first"] > 3 * forward


def _forward(model: Any) -> int:
    from fedsim.pruning import counting

    return counting.macs(model, torch.zeros((1, tiny.LENGTH), dtype=torch.int64))


def test_a_loss_takes_a_backward_and_plain_cutting_no_look_at_the_text() -> None:
    """Four forwards for a ranking by a loss; none to cut what nothing makes up for."""
    model = tiny.units()
    forward = tiny.WINDOWS * _forward(model)

    def cost(study: bool, **options: Any) -> int:
        prunes = method(Mosaic(alpha=1.0, update="none", **options))
        planned = prunes.plan(model, prunes.study(model, SIGHT), SIGHT)
        return prunes.macs(model, planned, SIGHT, study=study)

    assert cost(study=True, unit_score="taylor") == 4 * forward
    assert cost(study=True) == forward
    assert cost(study=False) == 0


def test_what_sparsegpt_multiplies_by_hand() -> None:
    """Second moments of the four inputs of a block, a factorisation each matrix, and its rows; two forwards."""
    model = tiny.units()
    prunes = method(Mosaic())
    planned = prunes.plan(model, prunes.study(model, SIGHT), SIGHT)
    shapes = [p.shape for name, p in model.named_parameters() if "_proj" in name]
    assert len(shapes) % 7 == 0
    solved = sum(columns**3 + rows * columns**2 for rows, columns in shapes)
    inputs = [
        p.shape[1] for name, p in model.named_parameters() if any(f"{n}_proj" in name for n in ("q", "o", "up", "down"))
    ]
    seen = tiny.WINDOWS * tiny.LENGTH * sum(columns**2 for columns in inputs)
    assert prunes.macs(model, planned, SIGHT) == 2 * tiny.WINDOWS * _forward(model) + seen + solved
