"""Baselines of one size."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.options import Vgg
from fedsim.models.units import UnitList
from fedsim.pruning.plans import Plan
from fedsim.pruning.reconvene import Budget, Planner, Reconvene, apply, baseline, masked, score

EXAMPLE = torch.zeros(2, 3, 32, 32)
OPTIONS = Reconvene(budget=Budget(params=0.25))


@pytest.fixture(scope="module")
def vgg() -> UnitList:
    """A VGG-11 of an eighth of the width."""
    options = Vgg(width_ratio=0.125, hidden=None)
    return build("vgg11", options, input=(3, 32, 32), classes=10, kind="image", device="cpu")


@pytest.fixture(scope="module")
def planner(vgg: UnitList) -> Planner:
    """It, scored."""
    return Planner(vgg, score(vgg, OPTIONS, EXAMPLE), OPTIONS)


@pytest.fixture(scope="module")
def like(planner: Planner) -> Plan:
    """What the baselines are compared with."""
    return planner.plan()


def shares(plan: Plan) -> dict[str, float]:
    """What each layer that is cut keeps."""
    return {kept.layer: len(kept.indices) / kept.of for kept in plan.kept}


@pytest.mark.parametrize("name", ["uniform", "all-layers", "random-layers", "inverted"])
def test_sizes_are_equal(vgg: UnitList, planner: Planner, like: Plan, name: str) -> None:
    """Within 2 %, never above, and each a sound cut."""
    made = baseline(planner, name, like)
    assert made.method == name
    assert 0.98 * like.parameters < made.parameters <= like.parameters
    assert apply(vgg, made)[1].parameters == made.parameters


def test_uniform_has_one_ratio(planner: Planner, like: Plan) -> None:
    """All layers lose the same share, but for rounding."""
    found = shares(baseline(planner, "uniform", like))
    assert len(found) == 8
    assert max(found.values()) - min(found.values()) < 0.13


def test_all_layers_asks_for_no_sensitivity(planner: Planner, like: Plan) -> None:
    """It also cuts layers that Reconvene finds sensitive, by their densities."""
    assert set(shares(baseline(planner, "all-layers", like))) > set(shares(like))


def test_inverted_takes_the_sensitive_layers_first(planner: Planner, like: Plan) -> None:
    """Whatever it leaves whole is less dense than anything that it cuts."""
    found = shares(baseline(planner, "inverted", like))
    densities = like.options["found"]["densities"]
    left = [value for name, value in densities.items() if name not in found]
    assert left
    assert max(left) <= min(densities[name] for name in found)
    assert set(found) >= {name for name in densities if name not in shares(like)}


@pytest.mark.parametrize("name", ["uniform", "random-layers", "inverted"])
def test_the_best_filters_by_the_scores_of_the_plan_stay(planner: Planner, like: Plan, name: str) -> None:
    """Cuts by one ratio are compared with the plan by its own scores, those of the step where it was found."""
    made, step = baseline(planner, name, like), like.options["found"]["step"]
    assert made.options["found"]["step"] == step
    for kept in made.kept:
        best = np.argsort(-planner.curve.filters[kept.layer][math.ceil(step)], kind="stable")
        assert set(kept.indices) == set(best[: len(kept.indices)].tolist()), kept.layer


@pytest.mark.parametrize("name", ["random-layers", "inverted"])
def test_no_layer_is_cut_further_than_the_plan_cuts_one(planner: Planner, like: Plan, name: str) -> None:
    """Though fewer parameters were asked for than that leaves."""
    least = min(shares(like).values())
    assert min(shares(baseline(planner, name, like)).values()) >= least
    small = replace(like, parameters=like.parameters // 8)
    with (
        pytest.warns(UserWarning, match=f"baseline {name} has to cut all layers"),
        pytest.raises(UserError, match=rf"baseline {name} cannot come down to {small.parameters} parameters; ask for"),
    ):
        baseline(planner, name, small)


def test_random_layers_depend_on_the_seed(planner: Planner, like: Plan) -> None:
    """And on nothing else."""
    made = [baseline(planner, "random-layers", like, seed=seed) for seed in (0, 0, 1, 2)]
    assert made[0] == made[1]
    assert len({tuple(shares(each)) for each in made}) > 1


def test_the_mask_has_as_many_values_as_the_cut(vgg: UnitList, like: Plan) -> None:
    """Counted with biases and norms, which stay; nothing is cut, and the model itself is left alone."""
    made = masked(vgg, OPTIONS, like.parameters, EXAMPLE)
    held = sum(int(p.count_nonzero()) if p.dim() > 1 else p.numel() for p in made.module.parameters())
    assert held == like.parameters == made.realised["nonzero"]
    for name, mask in made.support.masks.items():
        kept = vgg.get_parameter(name) * torch.from_numpy(mask)
        assert torch.equal(made.module.get_parameter(name), kept)
        assert made.plan.sparsity[name] == pytest.approx(1 - mask.mean())
    assert made.plan.kept == ()
    assert made.plan.parameters == sum(p.numel() for p in vgg.parameters())


def test_what_cannot_be(vgg: UnitList, planner: Planner, like: Plan) -> None:
    """Unknown names, and sizes below what there is anyway."""
    with pytest.raises(UserError, match=r"unknown baseline 'unifrom'; did you mean uniform\?"):
        baseline(planner, "unifrom", like)
    with pytest.raises(UserError, match=r"700 values cannot be kept: biases and norms alone have 1042"):
        masked(vgg, OPTIONS, 700, EXAMPLE)


def test_layers_that_are_all_cut_are_warned_of(planner: Planner) -> None:
    """Where a size needs all of them, it tells nothing which ones are cut."""
    small = Planner(planner.model, planner.curve, replace(OPTIONS, budget=Budget(params=0.02), tau=1.0)).plan()
    with pytest.warns(UserWarning, match=r"baseline inverted has to cut all layers to come down to [\d,]+ parameters"):
        made = baseline(planner, "inverted", small)
    assert shares(made).keys() == shares(baseline(planner, "uniform", small)).keys()
