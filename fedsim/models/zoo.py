"""The networks themselves, each a function that returns a `UnitList`.

No unit begins with an in-place operator: its input may be activations that someone else still holds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim.errors import UserError
from fedsim.models.options import Mlp, Plain, SmallCnn, TextTransformer
from fedsim.models.units import UnitList


def _norm(channels: int, norm: str) -> nn.Module:
    """Batch norm, or group norm with groups of 16 channels where they divide (Wu and He 2018)."""
    if norm == "bn":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels)


def _conv_unit(inputs: int, outputs: int, norm: str, *, pool: bool) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1), _norm(outputs, norm), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def _square(name: str, input: tuple[int, ...], least: int) -> tuple[int, int]:
    """Channels and side of a square image of at least `least` pixels a side."""
    channels, height, width = input
    if height != width or height < least:
        raise UserError(
            f"model {name} takes square images of at least {least}x{least}, but these are {height}x{width}; "
            f"set data.resize to {max(least, 32)}"
        )
    return channels, height


def mlp(*, options: Mlp, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """Hidden layers with ReLU, then a linear layer. Norm layers: none."""
    del norm
    size = 1
    for axis in input:
        size *= axis
    units: list[tuple[str, nn.Module]] = []
    for index, width in enumerate(options.hidden):
        flatten = [nn.Flatten()] if index == 0 else []
        units.append((f"hidden{index + 1}", nn.Sequential(*flatten, nn.Linear(size, width), nn.ReLU())))
        size = width
    units.append(("head", nn.Linear(size, classes)))
    return UnitList("mlp", units, input=input, classes=classes)


def cnn(*, options: SmallCnn, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """The convolutional network of McMahan et al. (arXiv 1602.05629): 1,663,370 parameters on 28x28x1."""
    del norm
    channels, side = _square("cnn", input, 4)
    first, second = options.channels
    units: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Sequential(nn.Conv2d(channels, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))),
        ("conv2", nn.Sequential(nn.Conv2d(first, second, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))),
        ("hidden", nn.Sequential(nn.Flatten(), nn.Linear(second * (side // 4) ** 2, options.hidden), nn.ReLU())),
        ("head", nn.Linear(options.hidden, classes)),
    ]
    return UnitList("cnn", units, input=input, classes=classes)


def lenet5(*, options: Plain, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; 28x28 images are padded as in the original."""
    del options, norm
    channels, side = _square("lenet5", input, 16)
    padding = 2 if side == 28 else 0
    side = ((side + 2 * padding - 4) // 2 - 4) // 2
    units: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Sequential(nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2))),
        ("conv2", nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))),
        ("hidden1", nn.Sequential(nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU())),
        ("hidden2", nn.Sequential(nn.Linear(120, 84), nn.ReLU())),
        ("head", nn.Linear(84, classes)),
    ]
    return UnitList("lenet5", units, input=input, classes=classes)


def vgg5(*, options: Plain, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """VGG-5 as in FedAdapt (qub-blesson/FedAdapt): 8,488,192 MACs on 32x32x3 with ten classes."""
    del options
    channels, side = _square("vgg5", input, 8)  # so that batch norm sees several values of a single sample
    units: list[tuple[str, nn.Module]] = [
        ("conv1", _conv_unit(channels, 32, norm, pool=True)),
        ("conv2", _conv_unit(32, 64, norm, pool=True)),
        ("conv3", _conv_unit(64, 64, norm, pool=False)),
        ("hidden", nn.Sequential(nn.Flatten(), nn.Linear(64 * (side // 4) ** 2, 128), nn.ReLU())),
        ("head", nn.Linear(128, classes)),
    ]
    return UnitList("vgg5", units, input=input, classes=classes)


def vgg11(*, options: Plain, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """VGG-11 (arXiv 1409.1556, configuration A) with 4,096-wide linear layers behind five poolings."""
    del options
    channels, side = _square("vgg11", input, 32)
    plan = ((64, True), (128, True), (256, False), (256, True), (512, False), (512, True), (512, False), (512, True))
    units: list[tuple[str, nn.Module]] = []
    for index, (width, pool) in enumerate(plan):
        units.append((f"conv{index + 1}", _conv_unit(channels, width, norm, pool=pool)))
        channels = width
    size = channels * (side // 32) ** 2
    units += [
        ("hidden1", nn.Sequential(nn.Flatten(), nn.Linear(size, 4096), nn.ReLU())),
        ("hidden2", nn.Sequential(nn.Linear(4096, 4096), nn.ReLU())),
        ("head", nn.Linear(4096, classes)),
    ]
    return UnitList("vgg11", units, input=input, classes=classes)


class _Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut; a parameter-free shortcut where the shape changes (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(outputs, norm)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = _norm(outputs, norm)
        self.stride, self.widen = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:  # batch inputs h w -> batch outputs h/stride w/stride
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1 or self.widen:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.widen))
        return functional.relu(out + x)


def resnet20(*, options: Plain, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """ResNet-20 for small images (arXiv 1512.03385, section 4.2)."""
    del options
    channels, _ = _square("resnet20", input, 8)
    stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), _norm(16, norm), nn.ReLU())
    units: list[tuple[str, nn.Module]] = [("stem", stem)]
    width = 16
    for stage, outputs in enumerate((16, 32, 64)):
        for index in range(3):
            stride = 2 if stage and not index else 1
            units.append((f"block{stage + 1}_{index + 1}", _Residual(width, outputs, stride, norm)))
            width = outputs
    units.append(("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))))
    return UnitList("resnet20", units, input=input, classes=classes)


class _Embedding(nn.Module):
    """Token and learned position embeddings: tokens `batch length` -> `batch length width`."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(length, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.tokens(x) + self.positions
        return out


class _Decoder(nn.Module):
    """Pre-norm causal self-attention and a four times wider MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # batch heads length size
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return out


def transformer(*, options: TextTransformer, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """A decoder-only transformer over `classes` tokens, on windows of `input[0]` tokens."""
    del norm
    units: list[tuple[str, nn.Module]] = [("embedding", _Embedding(classes, input[0], options.width))]
    units += [(f"block{i + 1}", _Decoder(options.width, options.heads)) for i in range(options.blocks)]
    units.append(("head", nn.Sequential(nn.LayerNorm(options.width), nn.Linear(options.width, classes))))
    return UnitList("transformer", units, input=input, classes=classes, tokens=True)
