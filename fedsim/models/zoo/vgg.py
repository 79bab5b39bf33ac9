"""VGG networks: 3x3 convolutions with norm and ReLU, poolings, and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import nn

from fedsim.models.options import Plain, Vgg
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import ConvUnit, dense_unit, normalisation, scaled, square

STAGES_11: Final = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions between poolings: configuration A of arXiv 1409.1556."""
STAGES_16: Final = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Configuration D."""


def conv_unit(inputs: int, outputs: int, norm: str, *, pool: bool) -> ConvUnit:
    """A 3x3 convolution, norm and ReLU, and where the stage ends a 2x2 pooling."""
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), normalisation(norm)(outputs), nn.ReLU()]
    return ConvUnit(*layers, *([nn.MaxPool2d(2)] if pool else []))


def vgg5(*, options: Plain, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """VGG-5 as in FedAdapt (qub-blesson/FedAdapt): 8,488,192 MACs on 32x32x3 with ten classes."""
    del options
    channels, side = square("vgg5", input, 8)
    units: list[tuple[str, nn.Module]] = [
        ("conv1", conv_unit(channels, 32, norm, pool=True)),
        ("conv2", conv_unit(32, 64, norm, pool=True)),
        ("conv3", conv_unit(64, 64, norm, pool=False)),
        ("hidden", dense_unit(64 * (side // 4) ** 2, 128, flatten=True)),
        ("head", nn.Linear(128, classes)),
    ]
    return UnitList("vgg5", units, input=input, classes=classes)


def vgg11(*, options: Vgg, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """VGG-11 (arXiv 1409.1556, configuration A)."""
    return _vgg("vgg11", STAGES_11, options, input, classes, norm)


def vgg16(*, options: Vgg, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """VGG-16 (arXiv 1409.1556, configuration D); with `bn` torchvision's `vgg16_bn` on 224x224."""
    return _vgg("vgg16", STAGES_16, options, input, classes, norm)


def _vgg(
    name: str, stages: Sequence[Sequence[int]], options: Vgg, input: tuple[int, ...], classes: int, norm: str
) -> UnitList:
    """Five stages that end in a pooling, then the linear layers on the flattened maps (of 1x1 where the side is 32)."""
    channels, side = square(name, input, 32)
    plan = [(width, index == len(stage) - 1) for stage in stages for index, width in enumerate(stage)]
    units: list[tuple[str, nn.Module]] = []
    for index, (width, pool) in enumerate(plan):
        outputs = scaled(width, options.width_ratio)
        units.append((f"conv{index + 1}", conv_unit(channels, outputs, norm, pool=pool)))
        channels = outputs
    flat, hidden, dropout = channels * (side // 32) ** 2, options.hidden, options.dropout
    if hidden is None:
        units.append(("head", nn.Sequential(nn.Flatten(), nn.Linear(flat, classes))))
    else:
        units += [
            ("hidden1", dense_unit(flat, hidden, flatten=True, dropout=dropout)),
            ("hidden2", dense_unit(hidden, hidden, dropout=dropout)),
            ("head", nn.Linear(hidden, classes)),
        ]
    return UnitList(name, units, input=input, classes=classes)
