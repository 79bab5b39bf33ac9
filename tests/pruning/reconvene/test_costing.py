"""Memory and latency of a cut, by the cost model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.errors import UserError
from fedsim.hardware.machines import machine
from fedsim.hardware.pricing import seconds
from fedsim.hardware.profiles import load_profile
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.measure import forward_cost
from fedsim.models.options import Plain
from fedsim.models.units import UnitList
from fedsim.pruning.reconvene import Budget, Costing, Curve, Planner, Reconvene, apply, plan, score
from tests.pruning.reconvene.networks import IMAGES, network

pytestmark = pytest.mark.slow  # models are measured, a hundred milliseconds each


@pytest.fixture(scope="module")
def vgg() -> UnitList:
    """A network that is measured quickly."""
    return build("vgg5", Plain(), input=(3, 8, 8), classes=4, kind="image", device="cpu")


@pytest.fixture(scope="module")
def curve(vgg: UnitList) -> Curve:
    """Its densities."""
    return score(vgg, Reconvene(), torch.zeros(1, 3, 8, 8))


COSTING = Costing(machine=machine(load_profile("pi-tier-1")), batch=8, slots=1)


def test_memory_by_hand(vgg: UnitList, curve: Curve) -> None:
    """Weights and buffers, a gradient and a momentum a parameter, the batch, its labels, and what autograd keeps."""
    planner = Planner(vgg, curve, Reconvene(density=0.5), costing=COSTING)
    costed = COSTING.of(vgg, planner.coupling)
    parameters = sum(p.numel() for p in vgg.parameters())
    buffers = sum(b.nbytes for b in vgg.buffers())
    fixed = 12 * parameters + buffers + 8 * (3 * 64 * 4 + 8)
    one, two = (Costing(batch=batch, slots=1).of(vgg, planner.coupling) for batch in (16, 32))
    kept = planner.coupling.units
    each = (two.memory(kept) - one.memory(kept)) / 16
    assert costed.memory(kept) == pytest.approx(fixed + 8 * (each - (3 * 64 * 4 + 8)), rel=1e-3)
    block = Costing(batch=8, slots=1, units=2).of(vgg, planner.coupling)
    first = sum(p.numel() for unit in list(vgg.children())[:2] for p in unit.parameters())
    assert 12 * first < block.memory(kept) < costed.memory(kept) - 12 * (parameters - first)


def test_a_cut_costs_what_it_was_said_to(vgg: UnitList, curve: Curve) -> None:
    """The seconds and bytes of the model that is really cut."""
    options = Reconvene(budget=Budget(latency=0.6, memory=0.7), tau=1)
    planner = Planner(vgg, curve, options, costing=COSTING)
    made = planner.plan()
    pruned, _ = apply(vgg, made)
    costed = COSTING.of(vgg, planner.coupling)
    kept = np.array([len(u) for u in planner.coupling.chosen({k.layer: k.indices for k in made.kept})])
    assert isinstance(pruned.module, UnitList)
    assert COSTING.machine is not None
    real = measure(pruned.module)
    assert costed.latency(kept) == seconds(COSTING.machine, forward_cost(real.units, 1, real.name))
    for amount, share in ((costed.latency, 0.6), (costed.memory, 0.7)):
        assert amount(kept) <= share * amount(planner.coupling.units)
    assert costed.latency(kept) > 0.5 * costed.latency(planner.coupling.units)


def test_latency_of_the_first_units_by_hand(vgg: UnitList, curve: Curve) -> None:
    """On a board of one speed: weights times places, for the two convolutions that the device has; at any batch."""
    assert COSTING.machine is not None
    speed = COSTING.machine.profile.speed
    assert speed is not None
    planner = Planner(vgg, curve, Reconvene(density=0.5))
    kept = planner.coupling.units - np.array([8, 0, 0, 0])
    macs = 24 * 3 * 9 * 8 * 8 + 64 * 24 * 9 * 4 * 4
    for samples in (1, 5):
        block = replace(COSTING, units=2, forward_batch=samples).of(vgg, planner.coupling)
        assert block.latency(kept) == pytest.approx(samples * macs / speed)


def test_what_cannot_be_computed(vgg: UnitList, curve: Curve) -> None:
    """Latency without a device, and models that are no unit lists."""
    with pytest.raises(UserError, match=r"budget\.latency needs a device profile to be computed with; name one"):
        plan(vgg, curve, Reconvene(budget=Budget(latency=0.5)), costing=Costing())
    model = network(0, "bn")
    options = Reconvene(budget=Budget(memory=0.5))
    with pytest.raises(UserError, match="memory and latency are computed for unit lists, not for a Sequential"):
        plan(model, score(model, options, IMAGES), options, example=IMAGES, costing=COSTING)
    with pytest.raises(UserError, match=r"latency 0\.0001 % of vgg5 cannot be reached: the smallest is"):
        plan(vgg, curve, Reconvene(budget=Budget(latency="0.0001 %")), costing=COSTING)
