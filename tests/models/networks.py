"""Every model of the catalogue on small inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedsim.models.building import build
from fedsim.models.catalogue import ENTRIES
from fedsim.models.options import Mlp, Plain, SmallCnn, TextTransformer
from fedsim.models.units import UnitList

INPUTS: dict[str, tuple[tuple[int, ...], str]] = {
    "mlp": ((3, 8, 8), "image"),
    "cnn": ((1, 12, 12), "image"),
    "lenet5": ((1, 28, 28), "image"),
    "vgg5": ((3, 16, 16), "image"),
    "vgg11": ((3, 32, 32), "image"),
    "resnet20": ((3, 16, 16), "image"),
    "transformer": ((10,), "text"),
}
OPTIONS: dict[str, Any] = {
    "mlp": Mlp(hidden=[12, 8]),
    "cnn": SmallCnn(channels=[4, 6], hidden=16),
    "transformer": TextTransformer(blocks=2, width=16, heads=2),
}
SMALL = [name for name in ENTRIES if name != "vgg11"]


def network(name: str, norm: str = "bn", *, seed: int = 1, device: str = "cpu", dtype: str = "float32") -> UnitList:
    """A model of seven classes on small inputs."""
    shape, kind = INPUTS[name]
    options = OPTIONS.get(name, Plain())
    return build(name, options, input=shape, classes=7, kind=kind, norm=norm, dtype=dtype, device=device, seed=seed)


def batch_for(model: UnitList, size: int = 3) -> Tensor:
    """A batch of made-up inputs."""
    rng = torch.Generator().manual_seed(0)
    if model.tokens:
        return torch.randint(0, model.classes, (size, *model.input), generator=rng)
    return torch.randn((size, *model.input), generator=rng, dtype=getattr(torch, model.dtype))
