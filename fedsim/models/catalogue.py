"""The models that fedsim knows by name, with their options. Imports no torch: the networks are built in `zoo`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fedsim.errors import UserError, unknown

if TYPE_CHECKING:
    from fedsim.models.units import UnitList


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """Fully connected layers with ReLU; one unit a layer."""

    hidden: list[int] = field(default_factory=lambda: [64])
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        if not self.hidden or any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: {self.hidden} needs at least one width, each 1 or more, such as [64]")


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A network without options of its own."""


@dataclass(frozen=True, kw_only=True)
class SmallCnn:
    """Two convolutions and a hidden layer; one unit a layer."""

    channels: list[int] = field(default_factory=lambda: [32, 64])
    """Output channels of the two 5x5 convolutions."""
    hidden: int = 512
    """Width of the hidden layer."""

    def __post_init__(self) -> None:
        if len(self.channels) != 2 or min(self.channels) < 1:
            raise ValueError(f"channels: {self.channels} needs two widths, each 1 or more, such as [32, 64]")
        if self.hidden < 1:
            raise ValueError(f"hidden {self.hidden} must be 1 or more, such as 512")


@dataclass(frozen=True, kw_only=True)
class TextTransformer:
    """A decoder-only transformer for next-token prediction; units: embedding, blocks, head."""

    blocks: int = 2
    """Number of decoder blocks."""
    width: int = 64
    """Size of the residual stream."""
    heads: int = 4
    """Attention heads; must divide the width."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}, and blocks 1 or more")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue."""

    summary: str
    options: type[Any]
    builder: str
    inputs: str


ENTRIES: Final[Mapping[str, Entry]] = {
    "mlp": Entry("fully connected, any input", Mlp, "mlp", "any"),
    "cnn": Entry(
        "two 5x5 convolutions and a hidden layer (McMahan et al. 2017), 1.66 M parameters", SmallCnn, "cnn", "image"
    ),
    "lenet5": Entry("LeNet-5 with ReLU and max pooling", Plain, "lenet5", "image"),
    "vgg5": Entry("three convolutions, two linear layers (FedAdapt), 0.58 M parameters", Plain, "vgg5", "image"),
    "vgg11": Entry("VGG-11 with 4,096-wide linear layers, 28 M parameters on 32x32", Plain, "vgg11", "image"),
    "resnet20": Entry("ResNet-20 for small images (He et al. 2016), 0.27 M parameters", Plain, "resnet20", "image"),
    "transformer": Entry("decoder-only text transformer", TextTransformer, "transformer", "text"),
}


def option_types() -> dict[str, type[Any]]:
    """The options dataclass of every model, by name."""
    return {name: entry.options for name, entry in ENTRIES.items()}


def build(
    name: str | Callable[..., UnitList],
    options: Any,
    *,
    input: tuple[int, ...],
    classes: int,
    kind: str,
    norm: str = "bn",
    dtype: str = "float32",
    device: str = "meta",
    seed: int = 0,
) -> UnitList:
    """A model as a unit list, on the `meta` device (shapes only) or on the CPU with seeded initial weights.

    Args:
        name: a name of the catalogue, or `module:function` (or the function itself) with the same keyword arguments
            as those in `zoo`.
        options: the instance of the model's options dataclass.
        input: shape of one sample without the batch axis.
        kind: `image`, `vector` or `text`, as the data set says.
        norm: `bn` or `gn`.

    Raises:
        UserError: no such model, or it does not take such inputs.
    """
    from fedsim.models import building

    maker: Callable[..., UnitList]
    if callable(name):
        maker = name
    elif ":" in name:
        module, _, attribute = name.partition(":")
        maker = getattr(importlib.import_module(module), attribute)
    else:
        if name not in ENTRIES:
            raise UserError(unknown("model", name, ENTRIES))
        entry = ENTRIES[name]
        if entry.inputs not in ("any", kind):
            fitting = ", ".join(n for n, e in ENTRIES.items() if e.inputs in ("any", kind))
            raise UserError(f"model {name} takes {entry.inputs} data, but this is {kind} data; choose {fitting}")
        maker = building.maker(entry.builder)
    return building.build(
        maker, options=options, input=input, classes=classes, norm=norm, dtype=dtype, device=device, seed=seed
    )
