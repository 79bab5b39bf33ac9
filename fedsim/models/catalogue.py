"""The models that fedsim knows by name, with their options. Imports no torch: the networks are built in `zoo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedsim.models.options import Mlp, Plain, SmallCnn, TextTransformer


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
