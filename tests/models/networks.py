"""Every model of the catalogue on small inputs."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.models.building import build
from fedsim.models.catalogue import ENTRIES
from fedsim.models.options import (
    Llama,
    Mlp,
    MobileNet,
    ResNet,
    SmallCnn,
    Swin,
    TextTransformer,
    Vgg,
    VisionTransformer,
)
from fedsim.models.units import UnitList

INPUTS: dict[str, tuple[tuple[int, ...], str]] = {
    "mlp": ((3, 8, 8), "image"),
    "cnn": ((1, 12, 12), "image"),
    "lenet5": ((1, 28, 28), "image"),
    "vgg5": ((3, 16, 16), "image"),
    "vgg11": ((3, 32, 32), "image"),
    "vgg16": ((3, 32, 32), "image"),
    "resnet20": ((3, 16, 16), "image"),
    "resnet18": ((3, 16, 16), "image"),
    "resnet50": ((3, 16, 16), "image"),
    "mobilenetv3_large": ((3, 32, 32), "image"),
    "vit_s": ((3, 16, 16), "image"),
    "swin_t": ((3, 32, 32), "image"),
    "transformer": ((10,), "text"),
    "llama": ((10,), "text"),
}
OPTIONS: dict[str, Any] = {
    "mlp": Mlp(hidden=[12, 8]),
    "cnn": SmallCnn(channels=[4, 6], hidden=16),
    "vgg11": Vgg(width_ratio=0.0625, hidden=16),
    "vgg16": Vgg(width_ratio=0.0625, hidden=16),
    "resnet18": ResNet(width_ratio=0.125),
    "resnet50": ResNet(width_ratio=0.125),
    "mobilenetv3_large": MobileNet(width_ratio=0.25),
    "vit_s": VisionTransformer(width=24, heads=3, blocks=2),
    "swin_t": Swin(width=12, blocks=[2, 2, 1], heads=[1, 2, 3], window=4),
    "transformer": TextTransformer(blocks=2, width=16, heads=2),
    "llama": Llama(blocks=2, width=24, heads=6, kv_heads=3),
}
GROUPED = ("mobilenetv3_large",)
"""Those with grouped convolutions, whose weight gradients PyTorch's counter counts wrongly."""
SLOW = ("resnet18", "resnet50", "mobilenetv3_large", "vit_s", "swin_t", "llama")
"""Those that import torchvision or transformers."""
MODELS = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ENTRIES]
"""All of them, for `pytest.mark.parametrize`."""
NORMED = ("vgg5", "resnet20", "resnet18", "mobilenetv3_large")
"""One of each family to which `norm` makes a difference, and both kinds of ResNet."""
BOTH_NORMS = [(name, norm) for name in ENTRIES for norm in (("bn", "gn") if name in NORMED else ("bn",))]


def network(name: str, norm: str = "bn", *, seed: int = 1, device: str = "cpu", dtype: str = "float32") -> UnitList:
    """A model of seven classes on small inputs."""
    shape, kind = INPUTS[name]
    options = OPTIONS.get(name) or ENTRIES[name].options()
    return build(name, options, input=shape, classes=7, kind=kind, norm=norm, dtype=dtype, device=device, seed=seed)


def batch_for(model: UnitList, size: int = 3) -> Tensor:
    """A batch of made-up inputs."""
    rng = torch.Generator().manual_seed(0)
    if model.tokens:
        return torch.randint(0, model.classes, (size, *model.input), generator=rng)
    return torch.randn((size, *model.input), generator=rng, dtype=getattr(torch, model.dtype))


def sent(z: Tensor) -> Tensor:
    """What a receiver has of activations: the same values, and nothing else."""
    return torch.frombuffer(bytearray(z.detach().contiguous().numpy().tobytes()), dtype=z.dtype).view(z.shape)


def sampled_cuts() -> list[tuple[str, int]]:
    """One cut, by a seed, of a large image model of each family."""
    rng = random.Random(7)
    units = {"vgg16": 16, "resnet50": 18, "mobilenetv3_large": 18, "vit_s": 14, "swin_t": 17}
    return [(name, rng.randrange(1, count)) for name, count in units.items()]
