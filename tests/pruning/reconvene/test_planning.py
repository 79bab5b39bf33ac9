"""Plans from a curve and a budget."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.options import Plain, Vgg
from fedsim.models.units import UnitList
from fedsim.pruning import counting
from fedsim.pruning.plans import Plan
from fedsim.pruning.reconvene import Budget, Curve, Planner, Reconvene, apply, plan, score
from tests.pruning.reconvene.networks import IMAGES, Projected, network

LABELS = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def vgg() -> UnitList:
    """A VGG-16 of an eighth of the width with a single linear layer."""
    options = Vgg(width_ratio=0.125, hidden=None)
    return build("vgg16", options, input=(3, 32, 32), classes=10, kind="image", device="cpu").eval()


@pytest.fixture(scope="module")
def curve(vgg: UnitList) -> Curve:
    """Its densities by SynFlow."""
    return score(vgg, Reconvene(), torch.zeros(1, 3, 32, 32))


def size(model: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("ratio", [1.5, 4.0, 16.21, 30.0])
@pytest.mark.slow
def test_budgets_of_parameters_are_met_nearly(vgg: UnitList, curve: Curve, ratio: float) -> None:
    """Within them, and within 2 % of them; what is cut has exactly the parameters and MACs of the plan."""
    made = plan(vgg, curve, Reconvene(budget=Budget(params=1 / ratio)))
    assert 0.98 / ratio < made.parameters / size(vgg) <= 1 / ratio
    pruned, checks = apply(vgg, made)
    assert size(pruned.module) == made.parameters == checks.parameters
    assert counting.macs(pruned.module, torch.zeros(1, 3, 32, 32)) == made.macs


def test_all_budgets_hold(vgg: UnitList, curve: Curve) -> None:
    """Whichever binds."""
    macs = counting.macs(vgg, torch.zeros(1, 3, 32, 32))
    for params, share, binding in ((0.5, 0.3, "macs"), (0.1, 0.9, "params")):
        made = plan(vgg, curve, Reconvene(budget=Budget(params=params, macs=share)))
        assert made.parameters <= params * size(vgg)
        assert made.macs is not None
        assert made.macs <= share * macs
        slack = {"params": made.parameters / params / size(vgg), "macs": made.macs / share / macs}
        assert slack[binding] > 0.97 > slack["macs" if binding == "params" else "params"]


def test_widths_follow_the_densities(vgg: UnitList, curve: Curve) -> None:
    """The least multiple above C d^gamma for resilient layers, all filters for others; the best filters stay."""
    for gamma, step in ((0.5, 1), (1.0, 4)):
        options = Reconvene(density=0.1, gamma=gamma, round_to=step, min_channels=2)
        planner = Planner(vgg, curve, options)
        made = planner.plan()
        found = made.options["found"]
        kept = {each.layer: each for each in made.kept}
        assert set(kept) <= set(found["resilient"])
        assert len(kept) > 5
        for name in found["resilient"]:
            of, density = planner.coupling.width(name), found["densities"][name]
            assert density < found["tau"]
            least = max(-(-2 // step) * step, step * math.ceil(of * density**gamma / step))
            assert (len(kept[name].indices) if name in kept else of) == min(of, least)
        layer, best = "conv10.0", curve.ranking("conv10.0", found["step"])
        assert set(kept[layer].indices) == set(np.argsort(-best)[: len(kept[layer].indices)].tolist())


def test_a_smaller_variant_lies_within_a_larger_one(vgg: UnitList, curve: Curve) -> None:
    """Its units are all the other's, though its own scores rank them; and its budget holds."""
    outer = plan(vgg, curve, Reconvene(budget=Budget(params=0.5)))
    inner = plan(vgg, curve, Reconvene(budget=Budget(params=0.1)), within=outer)
    assert inner.parameters <= 0.1 * size(vgg) < outer.parameters
    small, large = ({kept.layer: set(kept.indices) for kept in each.kept} for each in (inner, outer))
    assert all(small[name] <= large[name] for name in large)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(["bn", "gn"]), st.floats(0.4, 0.9), st.floats(0.3, 0.9))
@pytest.mark.slow
def test_variants_of_random_networks_nest(seed: int, norm: str, share: float, further: float) -> None:
    """Every coordinate of the smaller one is the larger one's, whichever scores either goes by; both budgets hold."""
    model = network(seed, norm)
    large, small = (
        Reconvene(score="magnitude", iterations=6, budget=Budget(params=each), tau=1.0)
        for each in (share, share * further)
    )
    outer = plan(model, score(model, large, IMAGES), large, example=IMAGES)
    other = replace(small, score="random")
    try:
        inner = plan(model, score(model, other, IMAGES, seed=seed), other, example=IMAGES, within=outer)
    except UserError:  # so small that it cannot be reached
        assume(False)
    assert inner.parameters <= share * further * size(model)
    whole = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    supports = [apply(model, each, IMAGES)[0].support for each in (inner, outer)]
    for name, shape in whole.items():
        narrow, wide = (np.zeros(shape, bool) for _ in range(2))
        narrow[supports[0].index(name, shape)], wide[supports[1].index(name, shape)] = True, True
        assert not (narrow & ~wide).any()


def test_a_larger_budget_within_a_plan_keeps_what_the_plan_keeps(vgg: UnitList, curve: Curve) -> None:
    """A variant is never wider than the one that it lies in."""
    outer = plan(vgg, curve, Reconvene(budget=Budget(params=0.3)))
    inner = plan(vgg, curve, Reconvene(budget=Budget(params=0.8)), within=outer)
    assert inner.kept == outer.kept


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_budgets_of_a_scope_are_of_the_scope_alone(vgg: UnitList, curve: Curve, budget: str) -> None:
    """A share is of what lies inside; the rest of the model, most of it, does not count."""
    names = tuple(f"conv{number}" for number in range(1, 7))
    options = Reconvene(budget=Budget(**{budget: 0.6}), scope=names, tau=1)
    pruned, _ = apply(vgg, plan(vgg, curve, options))
    assert isinstance(pruned.module, UnitList)
    both = (vgg, pruned.module)
    if budget == "params":
        inside, after = (sum(size(each.get_submodule(name)) for name in names) for each in both)
    else:
        inside, after = (counting.macs(each.block(0, 6), torch.zeros(1, 3, 32, 32)) for each in both)
    assert 0.58 * inside < after <= 0.6 * inside
    assert size(pruned.module) > 0.9 * size(vgg)


def test_the_same_inputs_give_the_same_plan(vgg: UnitList, curve: Curve) -> None:
    """Byte for byte, and it survives being written down."""
    options = Reconvene(budget=Budget(params=0.2), protected=("conv2",))
    texts = [plan(vgg, curve, options).text() for _ in range(2)]
    assert texts[0] == texts[1] == Plan.parse(texts[0]).text()
    assert '"protected":["conv2"]' in texts[0]
    assert '"privacy":"data-free"' in texts[0]


def test_a_budget_that_cannot_be_reached(vgg: UnitList, curve: Curve) -> None:
    """What was asked for, the smallest there is, and the reason."""
    options = Reconvene(budget=Budget(params="2 %"), scope=("conv1", "conv2", "conv3"), protected=("conv3",), tau=1)
    message = (
        r"params 2 % of vgg16's conv1, conv2, conv3 cannot be reached: the smallest is 11\.5 %; 2 of 2 sets of coupled "
        r"layers are resilient; "
        r"conv3 must stay whole and nothing outside conv1, conv2, conv3 may change; raise the budget"
    )
    with pytest.raises(UserError, match=message):
        plan(vgg, curve, options)
    with pytest.raises(
        UserError, match="nothing in vgg16 may be cut: conv1 must stay whole and nothing outside conv1 may"
    ):
        plan(vgg, curve, Reconvene(budget=Budget(params=0.5), scope=("conv1",), protected=("conv1",)))


def test_what_plans_need(vgg: UnitList, curve: Curve) -> None:
    """A budget or a density, the model that was scored by this score, and inputs."""
    with pytest.raises(UserError, match=r"neither a budget nor a density is given; set budget.params to 25 %"):
        plan(vgg, curve, Reconvene())
    with pytest.raises(UserError, match="the curve is of score synflow, but the options say random"):
        plan(vgg, curve, Reconvene(score="random", density=0.5))
    with pytest.raises(UserError, match=r"budget\.latency needs a device profile"):
        plan(vgg, curve, Reconvene(budget=Budget(latency=0.5)))
    other = build("resnet20", Plain(), input=(3, 8, 8), classes=4, kind="image", device="cpu")
    with pytest.raises(UserError, match="the curve was made for other weights than this model has"):
        plan(other, curve, Reconvene(density=0.5))
    model = network(0, "bn")
    with pytest.raises(UserError, match="a Sequential does not say what it takes; give an example of its inputs"):
        plan(model, score(model, Reconvene(), IMAGES), Reconvene(density=0.5))


def test_a_protected_cut(vgg: UnitList, curve: Curve) -> None:
    """The width of the activations behind the device block stays, and the server block with it."""
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
    options = Reconvene(budget=Budget(params=0.985), scope=names, tau_scope="scope")
    pruned, _ = apply(vgg, plan(vgg, curve, options))
    module: Any = pruned.module
    assert module.block(0, 6)(torch.zeros(2, 3, 32, 32)).shape == vgg.block(0, 6)(torch.zeros(2, 3, 32, 32)).shape
    assert all(name.partition(".")[0] in names for name in pruned.support.axes)
    assert {kept.layer for kept in pruned.plan.kept} <= {f"{name}.0" for name in names[:-1]}


@pytest.mark.parametrize(
    ("name", "private", "privacy"),
    [("random", True, "data-free"), ("snip", False, "public"), ("snip", True, "device-private")],
)
def test_privacy(name: str, private: bool, privacy: str) -> None:
    """Of what the choice depends on."""
    model = network(1, "bn")
    options = Reconvene(score=name, private=private, density=0.5)
    made = plan(model, score(model, options, IMAGES, LABELS), options, example=IMAGES)
    assert made.privacy == privacy


def test_a_layer_without_weights_is_repaired() -> None:
    """It keeps the least number of channels, and is reported."""
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1))
    with torch.no_grad():
        model.get_parameter("1.weight").mul_(1e-6)
    options = Reconvene(score="magnitude", density=0.1, min_channels=2)
    made = plan(model, score(model, options, IMAGES), options, example=IMAGES)
    assert made.options["found"]["repaired"] == ["1"]
    pruned, _ = apply(model, made, IMAGES)
    assert pruned.realised["kept"]["1"] == 0.25
    assert pruned.realised["repaired"] == ["1"]


def test_a_layer_that_others_share_their_units_with_needs_no_repair() -> None:
    """The shortcut has weights left where the convolution that it is added to has none."""
    torch.manual_seed(0)
    model = nn.Sequential(Projected(2, 8, "bn"), nn.Conv2d(8, 3, 1)).eval()
    with torch.no_grad():
        model.get_parameter("0.second.weight").mul_(1e-6)
    options = Reconvene(score="magnitude", density=0.1)
    curve = score(model, options, IMAGES)
    made = plan(model, curve, options, example=IMAGES)
    assert curve.collapsed(made.options["found"]["step"]) == ("0.second",)
    assert made.options["found"]["repaired"] == []


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.3, 0.95), st.sampled_from(["bn", "gn"]))
@pytest.mark.slow
def test_random_networks(seed: int, share: float, norm: str) -> None:
    """Whatever is coupled in them: within the budget, verified, or an error that says the smallest."""
    model = network(seed, norm)
    options = Reconvene(score="magnitude", iterations=6, budget=Budget(params=share), tau=1.0)
    made = plan(model, score(model, options, IMAGES), options, example=IMAGES)
    assert made.parameters <= share * size(model)
    _, checks = apply(model, made, IMAGES)
    assert checks.parameters == made.parameters
    assert checks.removed > 0


def test_another_model_is_refused(vgg: UnitList, curve: Curve) -> None:
    """Weights that were trained since make it another one."""
    made = plan(vgg, curve, Reconvene(density=0.5))
    other = build(
        "vgg16", Vgg(width_ratio=0.125, hidden=None), input=(3, 32, 32), classes=10, kind="image", device="cpu", seed=1
    )
    with pytest.raises(UserError, match="the plan was made for other weights than this model has"):
        apply(other, made)


def test_a_budget_that_is_met_already(vgg: UnitList, curve: Curve) -> None:
    """Nothing is cut, and that is no mistake."""
    pruned, checks = apply(vgg, plan(vgg, curve, Reconvene(budget=Budget(params="100 %"))))
    assert checks.removed == 0
    assert pruned.support.whole
