"""Reconvene behind the seam of all methods."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedsim.errors import UserError
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.models.building import build
from fedsim.models.options import Plain
from fedsim.models.units import UnitList
from fedsim.pruning import counting
from fedsim.pruning.methods import Material, Method, method
from fedsim.pruning.reconvene import Budget, Reconvene, score
from fedsim.pruning.reconvene.costing import Costing
from fedsim.pruning.reconvene.coupling import couple
from fedsim.pruning.reconvene.tracing import Ints

EXAMPLE = torch.zeros(2, 3, 8, 8)
MATERIAL = Material(example=EXAMPLE, seed=3)
OPTIONS = Reconvene(budget=Budget(params=0.5), iterations=6, tau=1)


@pytest.fixture(scope="module")
def vgg() -> UnitList:
    """Five layers."""
    return build("vgg5", Plain(), input=(3, 8, 8), classes=4, kind="image", device="cpu")


def batch(each: int) -> tuple[Tensor, Tensor]:
    """So many samples of each of four classes."""
    labels = torch.arange(4).repeat(each)
    return torch.randn(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(each)), labels


def test_it_is_a_method() -> None:
    """Chosen by its options."""
    found = method(OPTIONS)
    assert isinstance(found, Method)
    assert type(found).__name__ == "ReconveneMethod"


def test_scores_with_data_take_ten_samples_of_each_class(vgg: UnitList) -> None:
    """The others look at no data at all."""
    asked = []

    def given(each: int) -> tuple[Tensor, Tensor]:
        asked.append(each)
        return batch(each)

    material = replace(MATERIAL, batch=given)
    assert not method(OPTIONS).study(vgg, material).data
    assert asked == []
    options = replace(OPTIONS, score="snip")
    study = method(options).study(vgg, material)
    assert asked == [10]
    assert study.digest == score(vgg, options, *batch(10), seed=3).digest
    with pytest.raises(UserError, match="score snip needs samples with a label each, and there are none; take synflow"):
        method(options).study(vgg, MATERIAL)


@pytest.mark.parametrize(
    ("options", "material", "privacy"),
    [(False, False, "public"), (True, False, "device-private"), (False, True, "device-private")],
)
def test_what_either_says_is_private_is(vgg: UnitList, options: bool, material: bool, privacy: str) -> None:
    """A public choice needs both to say so."""
    found = method(replace(OPTIONS, score="snip", private=options))
    given = replace(MATERIAL, batch=batch, private=material)
    assert found.plan(vgg, found.study(vgg, given), given).privacy == privacy


def test_scope_and_protection_come_from_the_material(vgg: UnitList) -> None:
    """The cut of the scenario is protected beside what the options protect; their own scope comes first."""
    material = replace(MATERIAL, scope=("conv1", "conv2", "conv3"), protected=("conv3",))
    options = replace(OPTIONS, budget=Budget(params=0.8))
    found = method(options)
    made = found.plan(vgg, found.study(vgg, material), material)
    assert {kept.layer for kept in made.kept} <= {"conv1.0", "conv2.0"}
    assert made.protected == ("conv3",)
    assert made.options["scope"] == ["conv1", "conv2", "conv3"]
    found = method(replace(options, scope=("conv2", "conv3", "hidden"), protected=("conv3", "hidden")))
    made = found.plan(vgg, found.study(vgg, material), material)
    assert made.protected == ("conv3", "hidden")
    assert [kept.layer for kept in made.kept] == ["conv2.0"]


@pytest.mark.slow
def test_memory_is_that_of_the_device(vgg: UnitList) -> None:
    """Of its units, its batch and its optimizer; latency is of one sample on its machine."""
    board = machine(load_profile("pi-tier-1"))
    material = replace(MATERIAL, machine=board, samples=8, slots=1, units=3, scope=("conv1", "conv2", "conv3"))
    options = replace(OPTIONS, budget=Budget(memory=0.8, latency=0.9))
    found = method(options)
    made = found.plan(vgg, found.study(vgg, material), material)
    coupling = couple(vgg, EXAMPLE, scope=material.scope)
    costed = Costing(machine=board, batch=8, slots=1, units=3).of(vgg, coupling)
    kept: Ints = torch.tensor([len(u) for u in coupling.chosen({k.layer: k.indices for k in made.kept})]).numpy()
    assert 0.5 < costed.memory(kept) / costed.memory(coupling.units) <= 0.8
    assert costed.latency(kept) <= 0.9 * costed.latency(coupling.units)


def test_from_study_to_new_values(vgg: UnitList) -> None:
    """A cut has the model's values until it is finished; then layers that were touched have new ones, by the seed."""
    found = method(OPTIONS)
    made = found.plan(vgg, found.study(vgg, MATERIAL), MATERIAL)
    pruned, checks = found.apply(vgg, made, MATERIAL)
    assert checks.parameters == made.parameters
    first, again, other = (found.finish(pruned, replace(MATERIAL, seed=seed)) for seed in (3, 3, 4))
    assert first.reinitialised
    for name in first.reinitialised:
        if name.endswith(".0"):
            values = [each.module.get_submodule(name).get_parameter("weight") for each in (pruned, first, again, other)]
            assert torch.equal(values[1], values[2])
            assert not torch.equal(values[0], values[1])
            assert not torch.equal(values[1], values[3])


@pytest.mark.parametrize(
    ("options", "pretrained", "renewed"),
    [
        (OPTIONS, False, {"conv2.0"}),
        (replace(OPTIONS, reinitialise="all"), False, {"conv1.0", "conv2.0", "conv3.0", "hidden.1", "head"}),
        (replace(OPTIONS, reinitialise="none"), False, set()),
        (OPTIONS, True, set()),
        (replace(OPTIONS, pretrained=True), False, set()),
    ],
)
def test_variants_share_new_values(options: Reconvene, pretrained: bool, renewed: set[str]) -> None:
    """Of the layers that any of them touched, as far as they have any; of trained models none."""
    model = build("vgg5", Plain(), input=(3, 8, 8), classes=4, kind="image", device="cpu")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    method(options).renew(model, ["conv2.0", "conv2.2"], replace(MATERIAL, pretrained=pretrained))
    changed = {n.rpartition(".")[0] for n, p in model.named_parameters() if p.dim() > 1 and not p.equal(before[n])}
    assert changed == renewed


def test_sizes_and_studies() -> None:
    """A method of another size can share the study; one of another score cannot."""
    found = method(replace(OPTIONS, budget=Budget(macs=0.3)))
    sized = found.sized(0.25)
    assert isinstance(sized, Method)
    assert getattr(sized, "options", None) == replace(OPTIONS, budget=Budget(params=0.25))
    assert method(replace(OPTIONS, density=0.1, budget=Budget())).sized(0.25) == sized
    assert sized.studied == found.studied
    for other in ({"score": "snip"}, {"iterations": 7}, {"lowest_density": 0.1}):
        assert method(replace(OPTIONS, **other)).studied != found.studied


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        (OPTIONS, 6 * 3),
        (replace(OPTIONS, score="snip"), 4 * 10 * 3),
        (replace(OPTIONS, score="grasp"), 4 * 10 * 9),
        (replace(OPTIONS, score="magnitude"), 0),
    ],
)
def test_only_the_study_multiplies(vgg: UnitList, options: Reconvene, passes: int) -> None:
    """A forward and twice as much backward, for every iteration and sample; what shares the study takes none."""
    sight = replace(MATERIAL, batch=batch)
    prunes = method(options)
    plan = prunes.plan(vgg, prunes.study(vgg, sight), sight)
    assert prunes.macs(vgg, plan, sight) == passes * counting.macs(vgg, EXAMPLE)
    assert prunes.macs(vgg, plan, sight, study=False) == 0
