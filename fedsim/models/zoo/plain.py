"""Small networks without shortcuts or norm layers: fully connected, McMahan's, LeNet-5."""

from __future__ import annotations

import math

from torch import nn

from fedsim.models.options import Mlp, Plain, SmallCnn
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import ConvUnit, dense_unit, square


def mlp(*, options: Mlp, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """Hidden layers with ReLU, then a linear layer. Norm layers: none."""
    del norm
    size = math.prod(input)
    units: list[tuple[str, nn.Module]] = []
    for index, width in enumerate(options.hidden):
        units.append((f"hidden{index + 1}", dense_unit(size, width, flatten=index == 0)))
        size = width
    units.append(("head", nn.Linear(size, classes)))
    return UnitList("mlp", units, input=input, classes=classes)


def cnn(*, options: SmallCnn, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """The convolutional network of McMahan et al. (arXiv 1602.05629): 1,663,370 parameters on 28x28x1."""
    del norm
    channels, side = square("cnn", input, 4)
    first, second = options.channels
    units: list[tuple[str, nn.Module]] = [
        ("conv1", ConvUnit(nn.Conv2d(channels, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))),
        ("conv2", ConvUnit(nn.Conv2d(first, second, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))),
        ("hidden", dense_unit(second * (side // 4) ** 2, options.hidden, flatten=True)),
        ("head", nn.Linear(options.hidden, classes)),
    ]
    return UnitList("cnn", units, input=input, classes=classes)


def lenet5(*, options: Plain, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; 28x28 images are padded as in the original."""
    del options, norm
    channels, side = square("lenet5", input, 16)
    padding = 2 if side == 28 else 0
    side = ((side + 2 * padding - 4) // 2 - 4) // 2
    units: list[tuple[str, nn.Module]] = [
        ("conv1", ConvUnit(nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2))),
        ("conv2", ConvUnit(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))),
        ("hidden1", dense_unit(16 * side * side, 120, flatten=True)),
        ("hidden2", dense_unit(120, 84)),
        ("head", nn.Linear(84, classes)),
    ]
    return UnitList("lenet5", units, input=input, classes=classes)
