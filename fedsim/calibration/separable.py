"""A second network with depthwise convolutions, so that leaving one out leaves the other.

Not in the catalogue: nobody trains it here.
"""

from __future__ import annotations

from typing import Final

from torch import nn

from fedsim.models.options import Plain
from fedsim.models.units import UnitList

WIDTHS: Final = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1))
"""Output channels and stride of each unit: the first seven of MobileNet at half width."""


def mobilenetv1(*, options: Plain, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """The first half of MobileNet (arXiv 1704.04861, table 1) at half width, its stem without stride."""
    del options, norm
    channels = 16
    units: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(*_convolution(input[0], channels)))]
    for index, (width, stride) in enumerate(WIDTHS):
        depthwise = _convolution(channels, channels, stride=stride, groups=channels)
        units.append((f"separable{index + 1}", nn.Sequential(*depthwise, *_convolution(channels, width, side=1))))
        channels = width
    units.append(("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))))
    return UnitList("mobilenetv1", units, input=input, classes=classes)


def _convolution(inputs: int, outputs: int, *, side: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
