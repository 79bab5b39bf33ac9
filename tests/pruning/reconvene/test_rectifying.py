"""New initial values where a cut has touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.models.building import build
from fedsim.models.initial import drawn, reinitialise
from fedsim.models.options import MobileNet, Plain, ResNet
from fedsim.models.units import UnitList
from fedsim.pruning.pruned import Pruned
from fedsim.pruning.reconvene import Budget, Reconvene, apply, plan, rectify, score
from tests.pruning.reconvene.networks import IMAGES


def pruned(options: Reconvene, model: nn.Module | None = None) -> tuple[nn.Module, Pruned]:
    """A small chain, of which the second layer alone is resilient, and the cut."""
    torch.manual_seed(0)
    parts = (nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 24, 1), nn.BatchNorm2d(24), nn.Conv2d(24, 6, 1))
    model = model or nn.Sequential(*parts, nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1))
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(0.1)
    curve = score(model, options, IMAGES)
    return model, apply(model, plan(model, curve, options, example=IMAGES), IMAGES)[0]


OPTIONS = Reconvene(score="magnitude", density=0.3, tau=0.1)


def differing(first: nn.Module, second: nn.Module) -> list[str]:
    """Names of the tensors that have other values."""
    theirs = second.state_dict()
    return [name for name, tensor in first.state_dict().items() if not torch.equal(tensor, theirs[name])]


def test_what_changed_is_drawn_anew() -> None:
    """Layers whose outputs or inputs were cut, with their norms; nothing else. The input keeps its values."""
    _, cut = pruned(OPTIONS)
    assert set(cut.support.axes) == {"2.weight", "2.bias", "4.weight"} | {
        f"3.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    }
    with torch.no_grad():
        for part in (1, 3, 5):
            cut.module.get_parameter(f"{part}.weight").fill_(0.7)
            cut.module.get_buffer(f"{part}.running_mean").fill_(0.2)
    new = rectify(cut, 1)
    assert new.reinitialised == ("2", "3", "4", "5")
    drawn_again = [
        "2.weight",
        "2.bias",
        "3.weight",
        "3.running_mean",
        "4.weight",
        "4.bias",
        "5.weight",
        "5.running_mean",
    ]
    assert differing(new.module, cut.module) == drawn_again
    assert new.module.get_parameter("5.weight").tolist() == [1.0] * 6
    assert new.plan == cut.plan
    assert new.support == cut.support
    assert "rectify" in new.timings


def test_each_layer_has_a_stream_of_its_own() -> None:
    """Named by seed and layer: the same again, whichever others are drawn; another seed gives others."""
    _, cut = pruned(OPTIONS)
    first, again, other = rectify(cut, 1), rectify(cut, 1), rectify(cut, 2)
    assert not differing(first.module, again.module)
    assert "2.weight" in differing(first.module, other.module)
    alone = replace(cut, realised={**cut.realised, "touched": ("4",)})
    assert torch.equal(rectify(alone, 1).module.get_parameter("4.weight"), first.module.get_parameter("4.weight"))


def test_pytorchs_own_initialiser() -> None:
    """The layer's values are those that PyTorch draws for one of that shape from the stream's seed."""
    from fedsim import seeds

    _, cut = pruned(OPTIONS)
    new = rectify(cut, 1)
    torch.manual_seed(seeds.derive(1, -1, "initial values of 2"))
    alike = nn.Conv2d(6, len(cut.module.get_parameter("2.weight")), 1)
    assert torch.equal(new.module.get_parameter("2.weight"), alike.weight)


@pytest.mark.parametrize(("chosen", "layers"), [("all", ("0", "1", "2", "3", "4", "5", "6")), ("none", ())])
def test_all_or_none(chosen: Any, layers: tuple[str, ...]) -> None:
    """As the options say; PyTorch's generator is left alone."""
    _, cut = pruned(replace(OPTIONS, reinitialise=chosen))
    state = torch.get_rng_state()
    new = rectify(cut, 0)
    assert new.reinitialised == layers
    assert torch.equal(torch.get_rng_state(), state)
    assert bool(differing(new.module, cut.module)) == bool(layers)


def test_trained_weights_are_kept() -> None:
    """With a warning, where the options say it or batch norm has seen batches."""
    _, cut = pruned(replace(OPTIONS, pretrained=True))
    with pytest.warns(UserWarning, match="the weights are trained, so they are kept"):
        assert rectify(cut, 0) is cut
    _, cut = pruned(OPTIONS)
    cut.module.train()(IMAGES)
    with pytest.warns(UserWarning, match="the weights are trained, so they are kept"):
        assert rectify(cut, 0) is cut
    _, none = pruned(replace(OPTIONS, pretrained=True, reinitialise="none"))
    assert rectify(none, 0) is none


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", Plain()),
        ("resnet50", ResNet(width_ratio=0.125)),
        ("mobilenetv3_large", MobileNet(width_ratio=0.25)),
    ],
)
def test_layers_begin_as_the_model_begins(name: str, options: object) -> None:
    """The spread of each large layer's new values is that of the model's own."""
    model = build(name, options, input=(3, 32, 32), classes=4, kind="image", device="cpu")
    again = build(name, options, input=(3, 32, 32), classes=4, kind="image", device="cpu")
    layers = [layer for layer, part in again.named_modules() if drawn(part)]
    reinitialise(again, layers, 5)
    for (layer, old), new in zip(model.named_parameters(), again.parameters(), strict=True):
        if old.numel() > 2000:
            spreads = float(new.detach().std()), float(old.detach().std())
            assert spreads[0] == pytest.approx(spreads[1], rel=0.12), layer
            assert not torch.equal(old, new)
        elif old.dim() == 1 and bool((old == old[0]).all()):
            assert torch.equal(old, new), layer


def test_a_residual_network_learns_after_the_cut() -> None:
    """The variant that is deployed runs forward and backward."""
    model = build("resnet20", Plain(), input=(3, 8, 8), classes=4, kind="image", device="cpu")
    options = Reconvene(budget=Budget(params=0.25))
    cut, _ = apply(model, plan(model, score(model, options, torch.zeros(1, 3, 8, 8)), options))
    new = rectify(cut, 0)
    assert isinstance(new.module, UnitList)
    assert new.module.name == "resnet20"
    new.module.loss(new.module(torch.randn(4, 3, 8, 8)), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in new.module.parameters())
