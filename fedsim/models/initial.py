"""Initial values of single layers, as the models that fedsim builds give them to theirs.

For drawing a layer anew: PyTorch's own initialiser of the layer's type, unless the model begins otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedsim import seeds
from fedsim.models.building import seeded
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import draw_by_fan_out

Initialiser = Callable[[nn.Module], None]


def reinitialise(model: nn.Module, layers: Iterable[str], seed: int) -> None:
    """Draw layers anew, in place; each from a stream named by the seed and its name, whichever others are drawn."""
    draw = _OF_MODELS.get(model.name, plain) if isinstance(model, UnitList) else plain
    for name in layers:
        with seeded(seeds.derive(seed, -1, f"initial values of {name}")), torch.no_grad():
            draw(model.get_submodule(name))


def drawn(layer: nn.Module) -> bool:
    """Whether a layer has initial values that can be drawn anew."""
    return hasattr(layer, "reset_parameters") and any(True for _ in layer.parameters(recurse=False))


def plain(layer: nn.Module) -> None:
    """PyTorch's initial values, running statistics included."""
    made: Any = layer
    made.reset_parameters()


def fan_out(layer: nn.Module) -> None:
    """Convolutions by the size of what they write, as torchvision's residual networks begin; the rest plain."""
    plain(layer)
    if isinstance(layer, nn.Conv2d):
        draw_by_fan_out(layer)


def mobile(layer: nn.Module) -> None:
    """As torchvision's mobile networks begin."""
    if isinstance(layer, _NormBase | nn.GroupNorm):
        plain(layer)
    elif isinstance(layer, nn.Conv2d):
        draw_by_fan_out(layer)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, 0, 0.01)
        nn.init.zeros_(layer.bias)
    else:
        plain(layer)


_OF_MODELS: Final[Mapping[str, Initialiser]] = {
    "resnet18": fan_out,
    "resnet50": fan_out,
    "mobilenetv3_large": mobile,
}
