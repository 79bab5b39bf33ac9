"""The unstructured step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.errors import UserError
from fedsim.pruning.mosaic import Mosaic, apply, plan, prune, rank, sparsify
from fedsim.pruning.mosaic.adapters import Decoders, found
from fedsim.pruning.mosaic.pruners import SparseGpt
from fedsim.pruning.mosaic.sparsifying import resolved
from fedsim.pruning.mosaic.streaming import Stream, reading
from fedsim.pruning.pruned import Pruned, PruningError, fingerprint
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import


def sparse(model: Any, **changed: Any) -> Pruned:
    """Pruned with some options."""
    options = Mosaic(**{"sparsity": 0.6} | changed)
    return prune(model, rank(model, tiny.windows(), options), options, tiny.windows())[0]


@pytest.mark.parametrize("pruner", ["sparsegpt", "wanda", "magnitude"])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_realised_shares_are_the_targets(pruner: str, alpha: float) -> None:
    """By projection, to the nearest weight; in all, to 0.1 points; masks have the variant's shapes and cover all
    that is not zero."""
    model = tiny.whole("qwen2")
    before = fingerprint(model)
    pruned = sparse(model, pruner=pruner, alpha=alpha)
    weights = tiny.projected(pruned.module)
    assert set(weights) == set(pruned.support.masks) == set(pruned.plan.sparsity)
    for name, weight in weights.items():
        mask = torch.from_numpy(pruned.support.masks[name])
        assert mask.shape == weight.shape
        assert not weight[~mask].any()
        realised = 1 - float(mask.sum()) / mask.numel()
        assert realised == pytest.approx(pruned.realised["sparsity"][name])
        assert abs(realised - pruned.plan.sparsity[name]) <= 0.5 / mask.numel() + 1e-9
    total = sum(weight.numel() for weight in tiny.projected(model).values())
    assert tiny.left(pruned.module) / total == pytest.approx(0.4, abs=0.001)
    assert fingerprint(model) == before


def test_the_second_block_sees_what_the_pruned_first_one_gives() -> None:
    """Its weights are those of SparseGPT on inputs recomputed through the first, not on the dense model's."""
    model = tiny.whole()
    pruned = sparse(model, sparsity=0.7)
    blocks = found(Decoders(), model)
    name = blocks[1].weight("gate")
    rule, target = SparseGpt(), pruned.plan.sparsity[blocks[1].weight("q")]

    def query_weights(first: Any) -> Tensor:
        with reading(first):
            stream = Stream(first, Decoders(), blocks, tiny.windows())
            stream.advance(first, 0, blocks[0])
            seen = stream.watch(first, 1, blocks[1], hessian=True, only=("q",))
        return rule(model.get_parameter(blocks[1].weight("q")).detach(), seen["q"], target)[0]

    made = pruned.module.get_parameter(blocks[1].weight("q")).detach()
    torch.testing.assert_close(made, query_weights(pruned.module), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made, query_weights(model), rtol=1e-2, atol=1e-3)
    assert name in pruned.updated


def test_patterns_in_a_whole_model() -> None:
    """2:4 in every row of every projection."""
    pruned = sparse(tiny.whole(), sparsity=0.5, policy="uniform", pattern="2:4")
    for mask in pruned.support.masks.values():
        assert (mask.reshape(len(mask), -1, 4).sum(-1) == 2).all()
    with pytest.raises(UserError, match=r"pattern 1:8 needs rows of a multiple of 8 weights, but model.layers.0.self"):
        sparse(tiny.whole(), sparsity=0.125, policy="uniform", pattern="1:8")


def test_zeros_only_in_scope() -> None:
    """Other blocks keep their weights."""
    model = tiny.units()
    pruned = sparse(model, scope=("block2",))
    for name, weight in tiny.projected(model).items():
        same = torch.equal(weight, pruned.module.get_parameter(name))
        assert same == name.startswith("block1.")
    assert {name.split(".")[0] for name in pruned.support.masks} == {"block2"}


def test_nothing_to_do_is_nothing_done() -> None:
    """A plan that only cuts."""
    model = tiny.whole()
    made = plan(model, rank(model, tiny.windows()), Mosaic(alpha=1.0))
    cut, _ = apply(model, made, tiny.windows())
    assert sparsify(cut, made, tiny.windows()) is cut


class Lazy:
    """A pruner that leaves everything as it is."""

    hessian = False

    def __call__(self, weight: Tensor, inputs: Any, sparsity: float) -> tuple[Tensor, Tensor]:
        return weight, torch.ones_like(weight, dtype=torch.bool)


def test_pruners_are_held_to_their_share() -> None:
    """A projection with too few zeros is an error that names it."""
    with pytest.raises(PruningError, match=r"layers.0.self_attn.q_proj.weight: 0.00% zeros, but .* were planned; the"):
        sparse(tiny.whole(), pruner=f"{__name__}:Lazy")


def test_plans_that_do_not_fit_are_refused() -> None:
    """Of another method, or for weights that are not there."""
    model = tiny.whole()
    made = plan(model, rank(model, tiny.windows()), Mosaic())
    with pytest.raises(UserError, match="a plan of method reconvene is not for Mosaic"):
        resolved(replace(made, method="reconvene"))
    cut, _ = apply(model, made, tiny.windows())
    with pytest.raises(UserError, match=r"sets weights of lm_head.weight to zero, which is no projection"):
        sparsify(cut, replace(made, sparsity={"lm_head.weight": 0.5}), tiny.windows())
