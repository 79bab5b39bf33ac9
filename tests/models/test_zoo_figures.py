"""MACs, parameters and activations of the zoo against published figures and against formulas by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from fedsim.models.building import build
from fedsim.models.catalogue import ENTRIES
from fedsim.models.counting import measure
from fedsim.models.measure import ModelMeasure
from fedsim.models.options import MobileNet, ResNet, Swin, Vgg, VisionTransformer
from fedsim.torchvision_shim import import_torchvision

pytestmark = pytest.mark.slow  # large models, on `meta`


def counted(name: str, side: int, classes: int, options: Any = None) -> ModelMeasure:
    """A model's measure on square colour images."""
    if options is None:
        return usual(name, side, classes)
    return measure(build(name, options, input=(3, side, side), classes=classes, kind="image", device="meta"))


@cache
def usual(name: str, side: int, classes: int) -> ModelMeasure:
    """The same, of a model without options given, once."""
    return counted(name, side, classes, ENTRIES[name].options())


def device_block(model: ModelMeasure, cut: int) -> tuple[int, int, float]:
    """MACs, parameters and KiB of activations a sample of the first `cut` units."""
    block = model.units[:cut]
    return sum(u.macs for u in block), sum(u.trainable for u in block), model.activation_bytes(cut) / 1024


@pytest.mark.parametrize(
    ("name", "side", "classes", "macs", "parameters"),
    [
        ("vgg5", 32, 10, "8.49", "0.582"),
        ("vgg11", 32, 10, "171.7", "28.15"),
        ("mobilenetv3_large", 32, 10, "7.1", "4.21"),
        ("mobilenetv3_large", 64, 200, "20.3", "4.46"),
        ("vit_s", 32, 10, "1420", "21.3"),
        ("swin_t", 32, 10, "90.6", "27.5"),
        ("swin_t", 224, 10, "4490", "27.5"),
    ],
)
def test_totals(name: str, side: int, classes: int, macs: str, parameters: str) -> None:
    """Forward MACs and parameters in millions, to the digits of the table of the models that studies use."""
    model = counted(name, side, classes)
    digits = len(macs.partition(".")[2])
    assert f"{model.macs / 1e6:.{digits}f}" == macs if digits else round(model.macs / 1e7) * 10 == int(macs)
    assert f"{model.parameters / 1e6:.{len(parameters.partition('.')[2])}f}" == parameters


def test_vgg16_without_hidden_layers() -> None:
    """The convolutions of configuration D with batch norm, 14.72 M parameters, and one linear layer of 5,130."""
    model = counted("vgg16", 32, 10, Vgg(hidden=None))
    assert model.parameters == 14_723_136 + 5130
    assert [unit.name for unit in model.units[-2:]] == ["conv13", "head"]


@pytest.mark.parametrize(
    ("name", "side", "cut", "units", "macs", "parameters", "kib"),
    [
        ("vgg11", 32, 1, "conv1", "1.77", "1.9", 64),
        ("vgg11", 32, 2, "conv1 conv2", "20.6", "76.0", 32),
        ("vgg11", 32, 4, "conv1 conv2 conv3 conv4", "77.3", "962.3", 16),
        ("mobilenetv3_large", 32, 3, "stem bottleneck1 bottleneck2", "0.61", "4.4", 6),
        ("mobilenetv3_large", 64, 3, "stem bottleneck1 bottleneck2", "2.44", "4.4", 24),
        ("vit_s", 32, 2, "embedding block1", "119", "1818.6", 97.5),
        ("swin_t", 32, 3, "embedding block1_1 block1_2", "16.0", "229.9", 24),
        ("swin_t", 224, 3, "embedding block1_1 block1_2", "767", "229.6", 1176),
    ],
)
def test_device_blocks(name: str, side: int, cut: int, units: str, macs: str, parameters: str, kib: float) -> None:
    """Their units, MACs (millions) and parameters (thousands) to the digits given, activations exactly."""
    model = counted(name, side, 200 if name == "mobilenetv3_large" and side == 64 else 10)
    assert " ".join(u.name for u in model.units[:cut]) == units
    mine, trainable, activations = device_block(model, cut)
    assert f"{mine / 1e6:.{len(macs.partition('.')[2])}f}" == macs
    assert f"{trainable / 1e3:.1f}" == parameters
    assert activations == kib


def test_swin_on_small_images_by_hand() -> None:
    """Where the window that needs no padding is the whole grid of 8x8, a token meets 64 others instead of 49.

    With 49, as in a formula that lets each token meet a window of 7x7 that no padding makes dearer, the model would
    count 90.3 M and its first three units 15.7 M. torchvision's windows of 7 pad the grid to 14x14: 518 M.
    """
    model = counted("swin_t", 32, 10)
    tokens, width, blocks = 64, 96, 2
    excess = blocks * 2 * tokens * (64 - 49) * width
    assert f"{(model.macs - excess) / 1e6:.1f}" == "90.3"
    assert f"{(device_block(model, 3)[0] - excess) / 1e6:.1f}" == "15.7"
    assert round(counted("swin_t", 32, 10, Swin(window=7)).macs / 1e6) == 518
    linear = tokens * 4 * 4 * 3 * width + blocks * 12 * tokens * width**2
    assert device_block(model, 3)[0] == linear + blocks * 2 * tokens * 64 * width


@pytest.mark.parametrize(
    ("name", "weights", "options"),
    [
        ("resnet18", "ResNet18_Weights", None),
        ("resnet50", "ResNet50_Weights", None),
        ("vgg16", "VGG16_BN_Weights", None),
        ("mobilenetv3_large", "MobileNet_V3_Large_Weights", None),
        ("swin_t", "Swin_T_Weights", None),
        ("vit_s", "ViT_B_16_Weights", VisionTransformer(width=768, heads=12)),
    ],
)
def test_imagenet_figures(name: str, weights: str, options: Any) -> None:
    """Parameters exactly, and GMACs to the digits given, of what torchvision publishes with its weights."""
    meta = getattr(import_torchvision().models, weights).DEFAULT.meta
    model = counted(name, 224, 1000, options)
    assert model.parameters == meta["num_params"]
    assert model.macs / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)


def test_other_published_figures() -> None:
    """ResNet-50 has 4.09 GMACs and 25,557,032 parameters, ResNet-18 11,689,512, MobileNetV3-Large 5,483,032."""
    assert f"{counted('resnet50', 224, 1000).macs / 1e9:.2f}" == "4.09"
    for name, parameters in (("resnet50", 25_557_032), ("resnet18", 11_689_512), ("mobilenetv3_large", 5_483_032)):
        made = build(name, ENTRIES[name].options(), input=(3, 224, 224), classes=1000, kind="image")
        assert sum(p.numel() for p in made.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "options", "side", "shape"),
    [
        ("resnet18", ResNet(), 32, (64, 32, 32)),
        ("resnet18", ResNet(), 64, (64, 64, 64)),
        ("resnet18", ResNet(), 96, (64, 24, 24)),
        ("resnet18", ResNet(stem="imagenet"), 64, (64, 16, 16)),
        ("resnet50", ResNet(stem="small"), 96, (64, 96, 96)),
        ("mobilenetv3_large", MobileNet(), 32, (16, 16, 16)),
        ("mobilenetv3_large", MobileNet(stem="small"), 32, (16, 32, 32)),
    ],
)
def test_a_stem_for_small_images_keeps_the_resolution(name: str, options: Any, side: int, shape: Any) -> None:
    """ResNet takes it by itself up to 64 pixels a side; MobileNet where it is asked to."""
    model = build(name, options, input=(3, side, side), classes=10, kind="image")
    assert tuple(model[0](torch.zeros(2, 3, side, side, device="meta")).shape[1:]) == shape


def test_mobilenet_with_a_stem_for_small_images() -> None:
    """Four times the pixels, and 2.8 times the MACs of the usual stem, since the head costs the same."""
    assert f"{counted('mobilenetv3_large', 32, 10, MobileNet(stem='small')).macs / 1e6:.1f}" == "20.1"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg11", Vgg(width_ratio=0.5)),
        ("resnet18", ResNet(width_ratio=0.5)),
        ("mobilenetv3_large", MobileNet(width_ratio=0.5)),
    ],
)
def test_half_the_channels_are_a_quarter_of_the_macs(name: str, options: Any) -> None:
    """Or so: the first layer sees three channels in any case, and depthwise convolutions are halved."""
    whole, half = counted(name, 32, 10), counted(name, 32, 10, options)
    assert 0.2 < half.macs / whole.macs < 0.4
