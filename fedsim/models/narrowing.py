"""Narrowing: a unit like a given one, but with a share of its width, and with fresh weights.

A convolution keeps a share of its output channels, a transformer block a share of its heads and of its MLP; the vectors
between transformer blocks keep their width. Widths become the nearest valid number. Each type of unit has a rule of
its own, chosen by `functools.singledispatch`; a type without one is refused. Knows nothing of heads and losses.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from copy import deepcopy
from functools import singledispatch
from typing import Any, Final, NamedTuple

from torch import nn

from fedsim.errors import UserError
from fedsim.models.zoo.layers import normalised_like
from fedsim.models.zoo.llama import CausalBlock
from fedsim.models.zoo.resnet import ResidualBlock
from fedsim.models.zoo.text import Decoder


class Widths(NamedTuple):
    """A change of the width of activations: channels or features before, and now."""

    before: int
    now: int


Narrowed = tuple[nn.Module, Widths | None]
"""A unit, and how the width of its output has changed; None where it has not."""


def narrow(unit: nn.Module, ratio: float, given: Widths | None = None) -> Narrowed:
    """A unit like `unit` with `ratio` times its width.

    Args:
        given: how the width of its input has changed, None where it has not.

    Weights are drawn by PyTorch's initialisers of the layers, from its global generator.

    Raises:
        UserError: there is no rule for this type of unit, or its layers do not follow one another.
    """
    if type(unit).__module__.startswith("torchvision."):
        from fedsim.models import torchvision_narrowing  # noqa: F401  # adds the rules for torchvision's blocks
    return narrowed(unit, ratio, given)


@singledispatch
def narrowed(unit: nn.Module, ratio: float, given: Widths | None) -> Narrowed:
    """The rule of a type of unit; `narrowed.register` adds one."""
    raise UserError(
        f"there is no rule for narrowing a {type(unit).__name__}; add one with {__name__}.narrowed.register"
    )


def scaled(width: int, ratio: float, multiple: int = 1) -> int:
    """The multiple of `multiple` nearest to `ratio` times `width`, at least one of it."""
    return multiple * max(1, round(width * ratio / multiple))


def incoming(unit: nn.Module, width: int, given: Widths | None) -> int:
    """How wide a unit's input is now, where it took `width` before."""
    if given is None:
        return width
    if width != given.before:
        raise UserError(f"a {type(unit).__name__} of width {width} stands behind a layer of width {given.before}")
    return given.now


# ---------------------------------------------------------------------------------------------- layers

_SHAPELESS: Final = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Identity, nn.Flatten),
    *(nn.Dropout, nn.Dropout2d),
)
"""Layers that take any width."""


def _same(layer: nn.Module, ratio: float, given: Widths | None) -> Narrowed:
    del ratio
    return deepcopy(layer), given


for _kind in _SHAPELESS:
    narrowed.register(_kind, _same)


@narrowed.register
def _(chain: nn.Sequential, ratio: float, given: Widths | None) -> Narrowed:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in chain.named_children():
        layers[name], given = narrow(layer, ratio, given)
    return nn.Sequential(layers), given


@narrowed.register
def _(layer: nn.Conv2d, ratio: float, given: Widths | None) -> Narrowed:
    inputs = incoming(layer, layer.in_channels, given)
    if layer.groups == layer.in_channels > 1:  # depthwise: as wide as its input
        groups, outputs = inputs, inputs * (layer.out_channels // layer.in_channels)
    else:
        groups = math.gcd(layer.groups, inputs)
        outputs = scaled(layer.out_channels, ratio, groups)
    made = nn.Conv2d(
        inputs,
        outputs,
        (layer.kernel_size[0], layer.kernel_size[1]),
        (layer.stride[0], layer.stride[1]),
        layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1]),
        (layer.dilation[0], layer.dilation[1]),
        groups,
        layer.bias is not None,
        layer.padding_mode,
    )
    return made, Widths(layer.out_channels, outputs)


@narrowed.register
def _(layer: nn.Linear, ratio: float, given: Widths | None) -> Narrowed:
    inputs = layer.in_features
    if given is not None:  # perhaps behind a flattening, which makes several features of a channel
        places, odd = divmod(inputs, given.before)
        if odd:
            raise UserError(f"a Linear of {inputs} features stands behind a layer of width {given.before}")
        inputs = places * given.now
    outputs = scaled(layer.out_features, ratio)
    return nn.Linear(inputs, outputs, layer.bias is not None), Widths(layer.out_features, outputs)


@narrowed.register(nn.BatchNorm1d)
@narrowed.register(nn.BatchNorm2d)
def _(layer: nn.BatchNorm1d | nn.BatchNorm2d, ratio: float, given: Widths | None) -> Narrowed:
    del ratio
    width = incoming(layer, layer.num_features, given)
    return type(layer)(width, layer.eps, layer.momentum, layer.affine, layer.track_running_stats), given


@narrowed.register
def _(layer: nn.GroupNorm, ratio: float, given: Widths | None) -> Narrowed:
    """Groups of the same size where they divide the channels, else one."""
    del ratio
    width = incoming(layer, layer.num_channels, given)
    size = layer.num_channels // layer.num_groups
    return nn.GroupNorm(width // size if width % size == 0 else 1, width, layer.eps, layer.affine), given


@narrowed.register
def _(layer: nn.LayerNorm, ratio: float, given: Widths | None) -> Narrowed:
    del ratio
    if len(layer.normalized_shape) > 1:
        raise UserError("a LayerNorm over several axes cannot be narrowed; normalise over the last one")
    width = incoming(layer, layer.normalized_shape[0], given)
    return nn.LayerNorm(width, layer.eps, layer.elementwise_affine, layer.bias is not None), given


# ------------------------------------------------------------------------------------- fedsim's own blocks


@narrowed.register
def _(block: ResidualBlock, ratio: float, given: Widths | None) -> Narrowed:
    """The shortcut has no weights, and takes as many channels as there are."""
    outputs = scaled(block.conv2.out_channels, ratio)
    inputs = incoming(block, block.conv1.in_channels, given)
    made = ResidualBlock(inputs, outputs, block.stride, normalised_like(block.norm1))
    return made, Widths(block.conv2.out_channels, outputs)


@narrowed.register
def _(block: Decoder, ratio: float, given: Widths | None) -> Narrowed:
    width, heads = block.qkv.in_features, scaled(block.heads, ratio)
    assert given is None, "the vectors between decoder blocks keep their width"
    inner = heads * (block.out.in_features // block.heads)
    hidden = scaled(block.up.out_features, ratio)
    made = Decoder(width, block.heads)
    made.qkv, made.out, made.heads = nn.Linear(width, 3 * inner), nn.Linear(inner, width), heads
    made.up, made.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
    return made, None


@narrowed.register
def _(block: CausalBlock, ratio: float, given: Widths | None) -> Narrowed:
    """Query heads in groups of as many as before share a key and value head, as near as that comes."""
    assert given is None, "the vectors between decoder blocks keep their width"
    attention: Any = block.layer.self_attn  # of transformers, without types
    settings = deepcopy(attention.config)
    shared = scaled(settings.num_key_value_heads, ratio)
    settings.num_key_value_heads = shared
    settings.num_attention_heads = scaled(settings.num_attention_heads, ratio, shared)
    settings.intermediate_size = scaled(settings.intermediate_size, ratio)
    make: Any = type(block.layer)
    return CausalBlock(make(settings, attention.layer_idx), block.table, block.mask), None
