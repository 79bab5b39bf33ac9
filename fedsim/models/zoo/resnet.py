"""Residual networks: ResNet-20 for small images, ResNet-18 and -50 of torchvision's blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fedsim.models.options import Plain, ResNet
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import ConvUnit, draw_by_fan_out, normalisation, scaled, square
from fedsim.torchvision_shim import import_torchvision

SMALL_SIDE = 64
"""The largest side for which `stem: auto` keeps the resolution: CIFAR's 32 and Tiny ImageNet's 64 pixels."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; a parameter-free shortcut where the shape changes (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = normalisation(norm)(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = normalisation(norm)(outputs)
        self.stride, self.widen = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps `batch inputs h w` to `batch outputs h/stride w/stride`."""
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1 or self.widen:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.widen))
        return functional.relu(out + x)


def resnet20(*, options: Plain, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """ResNet-20 for small images (arXiv 1512.03385, section 4.2)."""
    del options
    channels, _ = square("resnet20", input, 8)
    stem = ConvUnit(nn.Conv2d(channels, 16, 3, padding=1, bias=False), normalisation(norm)(16), nn.ReLU())
    units: list[tuple[str, nn.Module]] = [("stem", stem)]
    width = 16
    for stage, outputs in enumerate((16, 32, 64)):
        for index in range(3):
            stride = 2 if stage and not index else 1
            units.append((f"block{stage + 1}_{index + 1}", ResidualBlock(width, outputs, stride, norm)))
            width = outputs
    units.append(("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))))
    return UnitList("resnet20", units, input=input, classes=classes)


def resnet18(*, options: ResNet, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """ResNet-18 (arXiv 1512.03385, section 4.1): two of torchvision's `BasicBlock` a stage."""
    import_torchvision()
    from torchvision.models.resnet import BasicBlock

    return _resnet("resnet18", BasicBlock, (2, 2, 2, 2), options, input, classes, norm)


def resnet50(*, options: ResNet, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """ResNet-50 (arXiv 1512.03385, section 4.1): torchvision's `Bottleneck`, stride in the 3x3 convolution."""
    import_torchvision()
    from torchvision.models.resnet import Bottleneck

    return _resnet("resnet50", Bottleneck, (3, 4, 6, 3), options, input, classes, norm)


def _resnet(
    name: str,
    block: Any,  # torchvision has no types
    depths: tuple[int, ...],
    options: ResNet,
    input: tuple[int, ...],
    classes: int,
    norm: str,
) -> UnitList:
    small = options.stem == "small" or (options.stem == "auto" and input[-1] <= SMALL_SIDE)
    channels, _ = square(name, input, 8 if small else 32)
    layer = normalisation(norm)
    width = scaled(64, options.width_ratio)
    units: list[tuple[str, nn.Module]] = [("stem", _stem(channels, width, layer(width), small=small))]
    for stage, depth in enumerate(depths):
        planes = scaled(64 * 2**stage, options.width_ratio)
        for index in range(depth):
            stride = 2 if stage and not index else 1
            outputs = planes * block.expansion
            shortcut = None
            if stride > 1 or width != outputs:
                shortcut = nn.Sequential(nn.Conv2d(width, outputs, 1, stride=stride, bias=False), layer(outputs))
            made = block(width, planes, stride, shortcut, norm_layer=layer)
            units.append((f"block{stage + 1}_{index + 1}", made))
            width = outputs
    units.append(("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))))
    model = UnitList(name, units, input=input, classes=classes)
    for module in model.modules():  # as torchvision's ResNet begins
        if isinstance(module, nn.Conv2d):
            draw_by_fan_out(module)
    return model


def _stem(channels: int, width: int, norm: nn.Module, *, small: bool) -> ConvUnit:
    """A 3x3 convolution that keeps the resolution; or torchvision's, which halves it, and a pooling, which does too."""
    if small:
        return ConvUnit(nn.Conv2d(channels, width, 3, padding=1, bias=False), norm, nn.ReLU())
    wide = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
    return ConvUnit(wide, norm, nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
