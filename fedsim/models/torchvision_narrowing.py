"""How torchvision's blocks are narrowed. Imported when such a block is met, so torchvision is there already."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock, MLPBlock
from torchvision.ops.misc import MLP, SqueezeExcitation

from fedsim.models.attention import Attention, WindowAttention
from fedsim.models.narrowing import Narrowed, Widths, incoming, narrow, narrowed, scaled

# torchvision has no types: its blocks are Any in what follows.


@narrowed.register(BasicBlock)
@narrowed.register(Bottleneck)
def _residual(block: Any, ratio: float, given: Widths | None) -> Narrowed:
    """Output and inner width scaled; where the shortcut no longer fits, a 1x1 convolution makes it fit (option B)."""
    inputs = incoming(block, block.conv1.in_channels, given)
    before = (block.conv2 if isinstance(block, BasicBlock) else block.conv3).out_channels
    planes = scaled(before // block.expansion, ratio)
    outputs = planes * block.expansion
    norm = partial(_norm_like, block.bn1)
    shortcut = None
    if block.downsample is not None or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, block.stride, bias=False), norm(outputs))
    made = type(block)(inputs, planes, block.stride, shortcut, **_grouping(block, before), norm_layer=norm)
    return made, Widths(before, outputs)


def _grouping(block: Any, outputs: int) -> dict[str, int]:
    """Groups, width of a group and dilation, which only a bottleneck may have."""
    if isinstance(block, BasicBlock):
        return {}
    groups, planes = block.conv2.groups, outputs // block.expansion
    width = block.conv1.out_channels * 64 // (groups * planes)
    return {"groups": groups, "base_width": width, "dilation": block.conv2.dilation[0]}


def _norm_like(norm: nn.BatchNorm2d | nn.GroupNorm, width: int) -> nn.Module:
    before = norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features
    made, _ = narrow(norm, 1.0, Widths(before, width))
    return made


@narrowed.register(InvertedResidual)
def _inverted(block: Any, ratio: float, given: Widths | None) -> Narrowed:
    """Expansion, squeeze and output scaled; a shortcut only where input and output are still as wide as each other."""
    first = next(layer for layer in block.block.modules() if isinstance(layer, nn.Conv2d))
    inputs = incoming(block, first.in_channels, given)
    made = deepcopy(block)
    made.block, widths = narrow(block.block, ratio, given)
    assert widths is not None
    made.out_channels = widths.now
    made.use_res_connect = block.use_res_connect and inputs == widths.now
    return made, widths


@narrowed.register(SqueezeExcitation)
def _squeeze(layer: Any, ratio: float, given: Widths | None) -> Narrowed:
    made = SqueezeExcitation(
        incoming(layer, layer.fc1.in_channels, given),
        scaled(layer.fc1.out_channels, ratio),
        lambda: deepcopy(layer.activation),
        lambda: deepcopy(layer.scale_activation),
    )
    return made, given


@narrowed.register(EncoderBlock)
def _encoder(block: Any, ratio: float, given: Widths | None) -> Narrowed:
    """Heads and MLP scaled."""
    assert given is None, "the vectors between encoder blocks keep their width"
    attention = block.self_attention
    width, heads = attention.embed_dim, attention.num_heads
    made = deepcopy(block)
    made.num_heads = scaled(heads, ratio)
    made.self_attention = Attention(width, made.num_heads, width // heads, attention.dropout)
    made.mlp = MLPBlock(width, scaled(block.mlp[0].out_features, ratio), block.dropout.p)
    for norm in (made.ln_1, made.ln_2):
        norm.reset_parameters()
    return made, None


@narrowed.register(SwinTransformerBlock)
def _swin(block: Any, ratio: float, given: Widths | None) -> Narrowed:
    """Heads and MLP scaled; the channels are those of the input, fewer behind a narrowed merging."""
    attention, before = block.attn, block.attn.qkv.in_features
    width, size = incoming(block, before, given), before // attention.num_heads
    made = deepcopy(block)
    made.attn = WindowAttention(
        width,
        scaled(attention.num_heads, ratio),
        size,
        tuple(attention.window_size),
        tuple(attention.shift_size),
        attention.attention_dropout,
    )
    made.mlp = MLP(
        width,
        [scaled(block.mlp[0].out_features, ratio), width],
        activation_layer=nn.GELU,
        inplace=None,
        dropout=block.mlp[-1].p,
    )
    made.norm1, made.norm2 = (nn.LayerNorm(width, eps=norm.eps) for norm in (block.norm1, block.norm2))
    return made, given


@narrowed.register(PatchMerging)
def _merging(block: Any, ratio: float, given: Widths | None) -> Narrowed:
    before, outputs = block.reduction.out_features, scaled(block.reduction.out_features, ratio)
    made = PatchMerging(incoming(block, block.dim, given))
    made.reduction = nn.Linear(4 * made.dim, outputs, bias=False)
    made.norm = nn.LayerNorm(4 * made.dim, eps=block.norm.eps)
    return made, Widths(before, outputs)
