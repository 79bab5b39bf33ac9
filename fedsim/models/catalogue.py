"""The models that fedsim knows by name, with their options. Imports no torch: the networks are built in `zoo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedsim.models.options import (
    Llama,
    Mlp,
    MobileNet,
    Plain,
    ResNet,
    SmallCnn,
    Swin,
    TextTransformer,
    Vgg,
    VisionTransformer,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue."""

    summary: str
    options: type[Any]
    builder: str
    """The function that builds it, as `module.function` within `fedsim.models.zoo`."""
    inputs: str
    """The kind of data that it takes: `image`, `text` or `any`."""
    heavy: bool = False
    """Whether it is counted on the `meta` device: on usual inputs the CPU would take longer, and much more memory."""


ENTRIES: Final[Mapping[str, Entry]] = {
    "mlp": Entry("fully connected, any input", Mlp, "plain.mlp", "any"),
    "cnn": Entry(
        "two 5x5 convolutions and a hidden layer (McMahan et al. 2017), 1.66 M parameters",
        SmallCnn,
        "plain.cnn",
        "image",
    ),
    "lenet5": Entry("LeNet-5 with ReLU and max pooling", Plain, "plain.lenet5", "image"),
    "vgg5": Entry("three convolutions, two linear layers (FedAdapt), 0.58 M parameters", Plain, "vgg.vgg5", "image"),
    "vgg11": Entry(
        "VGG-11 with 4,096-wide linear layers, 28 M parameters on 32x32", Vgg, "vgg.vgg11", "image", heavy=True
    ),
    "vgg16": Entry(
        "VGG-16 with 4,096-wide linear layers, 34 M parameters on 32x32, 138 M on 224x224; 15 M without them",
        Vgg,
        "vgg.vgg16",
        "image",
        heavy=True,
    ),
    "resnet20": Entry(
        "ResNet-20 for small images (He et al. 2016), 0.27 M parameters", Plain, "resnet.resnet20", "image"
    ),
    "resnet18": Entry(
        "ResNet-18, 11 M parameters; a stem for small images up to 64x64, else torchvision's",
        ResNet,
        "resnet.resnet18",
        "image",
        heavy=True,
    ),
    "resnet50": Entry(
        "ResNet-50, 24 M parameters; a stem for small images up to 64x64, else torchvision's",
        ResNet,
        "resnet.resnet50",
        "image",
        heavy=True,
    ),
    "mobilenetv3_large": Entry(
        "MobileNetV3-Large, 4.2 M parameters; torchvision's stem, or one for small images",
        MobileNet,
        "mobilenet.mobilenetv3_large",
        "image",
        heavy=True,
    ),
    "vit_s": Entry(
        "ViT-S, 21 M parameters; patches of 4 on 32x32", VisionTransformer, "vit.vit_s", "image", heavy=True
    ),
    "swin_t": Entry("Swin-T, 28 M parameters; patches of 4", Swin, "swin.swin_t", "image", heavy=True),
    "transformer": Entry("decoder-only text transformer", TextTransformer, "text.transformer", "text"),
    "llama": Entry(
        "causal language model of the Llama, Mistral or Qwen family (transformers), drawn or from a local folder",
        Llama,
        "llama.llama",
        "text",
        heavy=True,
    ),
}


def option_types() -> dict[str, type[Any]]:
    """The options dataclass of every model, by name."""
    return {name: entry.options for name, entry in ENTRIES.items()}
