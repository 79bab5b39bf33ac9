"""Our unit lists against torchvision's whole models with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn

from fedsim.models.building import build
from fedsim.models.options import MobileNet, ResNet, Swin, Vgg, VisionTransformer
from fedsim.models.units import UnitList
from fedsim.torchvision_shim import import_torchvision

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
pytestmark = pytest.mark.slow  # torchvision takes over a second to import


def ours(name: str, options: Any, side: int, *, device: str = "cpu") -> UnitList:
    """One of our models with seven classes."""
    return build(name, options, input=(3, side, side), classes=7, kind="image", device=device, seed=2)


def assert_equal(model: UnitList, theirs: nn.Module, x: Tensor, rename: Mapping[str, str] = NOTHING) -> None:
    """With the same weights: the same outputs and gradients in training, then the same outputs in evaluation.

    Tensors correspond by their order, but for those of torchvision's names in `rename`.
    """
    state = {n: t for n, t in theirs.state_dict().items() if not n.endswith("relative_position_index")}
    rest = iter([n for n in model.state_dict() if n not in rename.values()])
    name_of = {n: rename[n] if n in rename else next(rest) for n in state}
    model.load_state_dict({name_of[n]: t for n, t in state.items()})
    out, expected = model(x), theirs(x)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    out.square().sum().backward()
    expected.square().sum().backward()
    mine = dict(model.named_parameters())
    for n, p in theirs.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(mine.pop(name_of[n]).grad, p.grad, rtol=1e-5, atol=1e-5)
    assert not mine
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(x), theirs.eval()(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets(name: str) -> None:
    """With torchvision's stem, on small images too."""
    models = import_torchvision().models
    model, theirs = ours(name, ResNet(stem="imagenet"), 32), models.get_model(name, num_classes=7)
    assert_equal(model, theirs, torch.randn(3, 3, 32, 32))


def test_mobilenet() -> None:
    """torchvision's begins with the same weights as well."""
    models = import_torchvision().models
    model = ours("mobilenetv3_large", MobileNet(dropout=0.0), 32)
    theirs = models.mobilenet_v3_large(num_classes=7, dropout=0.0)
    theirs.apply(lambda m: setattr(m, "momentum", 0.1) if isinstance(m, nn.BatchNorm2d) else None)
    assert_equal(model, theirs, torch.randn(3, 3, 32, 32))


def test_vision_transformer() -> None:
    """torchvision has no ViT-S; its class in that size, on patches of 4."""
    models = import_torchvision().models
    model = ours("vit_s", VisionTransformer(blocks=3), 32)
    theirs = models.VisionTransformer(32, 4, 3, 6, 384, 1536, num_classes=7)
    nn.init.normal_(theirs.heads.head.weight, std=0.02)
    rename = {
        "class_token": "embedding.class_token",
        "encoder.pos_embedding": "embedding.positions",
        "conv_proj.weight": "embedding.projection.weight",
        "conv_proj.bias": "embedding.projection.bias",
    }
    assert_equal(model, theirs, torch.randn(2, 3, 32, 32), rename)


@pytest.mark.parametrize(("side", "window"), [(56, None), (32, 7), (28, 7)])
def test_swin(side: int, window: int | None) -> None:
    """Windows of 7: shifted on a grid of 14, and padded on grids of 8 and 7, as torchvision does it."""
    models = import_torchvision().models
    model = ours("swin_t", Swin(window=window, blocks=[2, 2], heads=[3, 6]), side)
    theirs = models.SwinTransformer([4, 4], 96, [2, 2], [3, 6], [7, 7], stochastic_depth_prob=0.0, num_classes=7)
    assert_equal(model, theirs, torch.randn(2, 3, side, side))


def test_vgg() -> None:
    """The convolutions of `vgg16_bn`; its linear layers pool maps of other sizes than 7x7 first, ours flatten them."""
    models = import_torchvision().models
    with torch.device("meta"):
        whole = models.vgg16_bn()
    model = build("vgg16", Vgg(), input=(3, 224, 224), classes=1000, kind="image", device="meta")
    assert [p.shape for p in model.parameters()] == [p.shape for p in whole.parameters()]
    small = ours("vgg11", Vgg(hidden=8), 32)
    theirs = models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=True)
    mine = small.block(0, 8)
    mine.load_state_dict(dict(zip(mine.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-6, atol=1e-6)


def initial(module: nn.Module) -> list[tuple[float, float]]:
    """Size and spread of every large weight, in order of both."""
    weights = [p.detach() for p in module.parameters() if p.numel() > 2000]
    return sorted((p.numel(), round(float(p.std()), 6)) for p in weights)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_large", "swin_t"])
def test_weights_begin_as_torchvisions(name: str) -> None:
    """Drawn by the same rules: the spread of every large weight agrees."""
    models = import_torchvision().models
    options = {"resnet18": ResNet(stem="imagenet"), "mobilenetv3_large": MobileNet(), "swin_t": Swin(window=7)}[name]
    maker: Any = partial(models.get_model, num_classes=7)
    torch.manual_seed(0)
    theirs = maker({"mobilenetv3_large": "mobilenet_v3_large"}.get(name, name))
    for (size, mine), (other_size, other) in zip(initial(ours(name, options, 64)), initial(theirs), strict=True):
        assert size == other_size
        assert mine == pytest.approx(other, rel=0.15)
