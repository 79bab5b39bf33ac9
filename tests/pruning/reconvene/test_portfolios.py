"""Portfolios of variants."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import UserError
from fedsim.hardware import pricing
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.measure import forward_cost
from fedsim.models.options import Plain
from fedsim.models.units import UnitList
from fedsim.pruning.reconvene import Variant, fuse, magnitude, portfolio
from fedsim.pruning.reconvene.portfolios import COMPRESSIONS, write
from fedsim.pruning.storing import read

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vgg() -> UnitList:
    """A network of five layers, whose filters differ in size, as trained ones do."""
    model = build("vgg5", Plain(), input=(3, 8, 8), classes=4, kind="image", device="cpu")
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.mul_(torch.linspace(0.05, 1, len(part.weight)).view(-1, *[1] * (part.weight.dim() - 1)))
    return model


@pytest.fixture(scope="module")
def variants(vgg: UnitList) -> tuple[Variant, ...]:
    """Its portfolio on a board."""
    return portfolio(vgg, IMAGES, (1, 4, 16, 64), machine=machine(load_profile("pi-tier-1")))


def test_magnitude_keeps_the_largest(vgg: UnitList) -> None:
    """As many as were asked for, of all layers together."""
    made = magnitude(vgg, 4, IMAGES)
    weights, kept = ([p.detach() for p in each.parameters() if p.dim() > 1] for each in (vgg, made))
    assert sum(int(p.count_nonzero()) for p in kept) == round(sum(p.numel() for p in weights) / 4)
    least = min(float(p[p != 0].abs().min()) for p in kept)
    gone = [float(w[k == 0].abs().max()) for w, k in zip(weights, kept, strict=True) if bool((k == 0).any())]
    assert max(gone) <= least


@pytest.mark.slow
def test_variants_shrink(vgg: UnitList, variants: tuple[Variant, ...]) -> None:
    """Rising compression never makes a variant larger, slower, or longer to switch to."""
    for before, after in pairwise(variants):
        assert after.counts.parameters <= before.counts.parameters
        assert after.latency is not None
        assert before.latency is not None
        assert after.latency <= before.latency
        assert after.switching is not None
        assert before.switching is not None
        assert after.switching <= before.switching
    assert variants[0].counts.parameters == sum(p.numel() for p in fuse(vgg, IMAGES).parameters())
    assert variants[-1].counts.parameters < variants[0].counts.parameters / 2
    assert all(each.difference < 1e-5 for each in (v.emptied for v in variants))


@pytest.mark.slow
def test_a_portfolio_is_a_folder_of_models(vgg: UnitList, variants: tuple[Variant, ...], tmp_path: Path) -> None:
    """Each is read back as it was, and an index says what each comes to."""
    write(tmp_path / "all", variants)
    index = json.loads((tmp_path / "all" / "portfolio.json").read_text())
    assert list(index) == ["1", "4", "16", "64"]
    for name, variant in zip(index, variants, strict=True):
        stored = read(tmp_path / "all" / name, fuse(vgg, IMAGES))
        module = variant.emptied.pruned.module.eval()
        assert torch.equal(stored.module.eval()(IMAGES), module(IMAGES))
        assert index[name]["counts"]["parameters"] == sum(p.numel() for p in module.parameters())
        assert index[name]["latency"] == variant.latency
    with pytest.raises(UserError, match="already exists and is not empty"):
        write(tmp_path / "all", variants)


@pytest.mark.slow
def test_switching_moves_parameters_and_buffers_in_and_out() -> None:
    """By the memory's bandwidth: 128 parameters, a norm that cannot be fused with 3 means, 3 variances and a count."""
    norm, convolution = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)
    end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    units = (("norm", norm), ("convolution", convolution), ("end", end))
    board = machine(load_profile("raspberry-pi-4b"))
    assert board.processor is not None
    (made,) = portfolio(UnitList("net", units, input=(3, 8, 8), classes=2), IMAGES, (1,), machine=board)
    held = 4 * (6 + 4 * 3 * 9 + 4 + 2 * 4 + 2) + 4 * 6 + 8
    assert made.switching == pytest.approx(2 * held / board.processor.bandwidth + board.processor.overhead)


@pytest.mark.slow
@pytest.mark.parametrize(("private", "privacy"), [(True, "device-private"), (False, "public")])
def test_privacy_of_variants_is_that_of_the_training(vgg: UnitList, private: bool, privacy: str) -> None:
    """Which filters are empty tells of what the network was trained on; it is written down with the variant."""
    (made,) = portfolio(vgg, IMAGES, (16,), private=private)
    assert made.emptied.pruned.plan.privacy == privacy


def test_what_cannot_be(vgg: UnitList) -> None:
    """Larger models, and devices for what cannot be priced."""
    with pytest.raises(UserError, match=r"compression 0\.5 would make the model larger; choose 1 or more, such as 4"):
        portfolio(vgg, IMAGES, (0.5,))
    with pytest.raises(UserError, match="latency is computed for unit lists, not for a Sequential; leave the device"):
        portfolio(nn.Sequential(nn.Linear(2, 2)), IMAGES, machine=machine(load_profile("pi-tier-1")))


@pytest.mark.slow
def test_sparse_networks_may_come_from_elsewhere(vgg: UnitList) -> None:
    """Whoever trains between the steps hands in how, and needs no device."""
    seen = []

    def sparse(model: nn.Module, compression: float, example: torch.Tensor) -> nn.Module:
        seen.append(compression)
        return magnitude(model, 2 * compression, example)

    made = portfolio(vgg, IMAGES, (2,), sparse=sparse)
    assert seen == [2]
    assert made[0].latency is None
    assert made[0].switching is None
    assert made[0].emptied.pruned.plan.options["density"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.slow
def test_latency_and_switching_are_what_the_cost_model_says(vgg: UnitList) -> None:
    """A forward of the variant, of so many samples; and its tensors, buffers among them, read once and written once."""
    board = machine(load_profile("pi-tier-1"))
    (one,), (four,) = (portfolio(vgg, IMAGES, (16,), machine=board, batch=batch) for batch in (1, 4))
    module = one.emptied.pruned.module
    assert isinstance(module, UnitList)
    for made, batch in ((one, 1), (four, 4)):
        assert made.latency == pricing.seconds(board, forward_cost(measure(module).units, batch, module.name))
    tensors = [*module.parameters(), *module.buffers()]
    moved = 2 * sum(tensor.nbytes for tensor in tensors)
    copy = Operator(OpClass.COPY, Phase.AGGREGATE, sum(tensor.numel() for tensor in tensors), moved)
    assert one.switching == pricing.seconds(board, Cost((copy,)))
    assert COMPRESSIONS == (1, 2, 4, 8, 16)
