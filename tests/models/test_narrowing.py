"""Units with a share of their width: valid, as wide as they should be, and at ratio 1 what they were."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.attention import Attention, WindowAttention
from fedsim.models.counting import measure
from fedsim.models.measure import ModelMeasure
from fedsim.models.narrowing import Widths, narrow, scaled
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import ConvUnit, DenseUnit
from fedsim.models.zoo.resnet import ResidualBlock
from fedsim.models.zoo.text import Decoder
from fedsim.torchvision_shim import import_torchvision
from tests.models.networks import MODELS, batch_for, network


def counted(unit: nn.Module, z: Tensor) -> ModelMeasure:
    """What a unit costs on activations like `z`."""
    alone = UnitList("alone", [("it", unit)], input=tuple(z.shape[1:]), classes=7)
    return measure(alone, raw_input=False, loss=lambda out, _: out.sum())


def trains(unit: nn.Module, z: Tensor) -> Tensor:
    """The unit's output, once gradients have reached its input and every parameter."""
    z = z.detach().requires_grad_()
    out: Tensor = unit(z)
    out.square().sum().backward()
    assert z.grad is not None
    assert all(p.grad is not None for p in unit.parameters())
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_unit_of_every_model_can_be_narrowed(name: str) -> None:
    """At ratio 1 it costs what it did, in MACs and parameters; at less, less, and it trains."""
    model = network(name)
    z = batch_for(model, 2)
    for unit, was in list(zip(model, measure(model).units, strict=True))[:-1]:
        if was.name not in ("stem", "embedding"):  # the first: no server has it
            whole, widths = narrow(unit, 1.0)
            found = counted(whole, z)
            assert (found.macs, found.parameters) == (was.macs, was.trainable)
            assert widths is None or widths.before == widths.now
            assert trains(whole, z).shape == unit(z).shape
            small, widths = narrow(unit, 0.3)
            less = counted(small, z)
            assert less.macs < found.macs
            assert less.parameters < found.parameters
            out, full = trains(small, z), unit(z)
            assert sum(out.shape) - sum(full.shape) == (0 if widths is None else widths.now - widths.before)
        z = unit(z).detach()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_narrowed_units_follow_one_another(name: str) -> None:
    """A chain of them, each behind the one before, is a network again."""
    model = network(name)
    units = list(model)[:-1]
    start = len(units) // 2
    z = model.block(0, start)(batch_for(model, 2)).detach()
    chain, widths = [], None
    for unit in units[start:]:
        made, widths = narrow(unit, 0.4, widths)
        chain.append(made)
    trains(nn.Sequential(*chain), z)


@given(width=st.integers(1, 5000), ratio=st.floats(0.001, 1), multiple=st.integers(1, 16))
def test_widths_are_the_nearest_that_are_valid(width: int, ratio: float, multiple: int) -> None:
    """A multiple, at least one of it, and none is nearer."""
    found = scaled(width, ratio, multiple)
    assert found % multiple == 0
    assert found >= multiple
    if found > multiple:
        assert abs(found - width * ratio) <= multiple / 2


@st.composite
def conv_units(draw: Any) -> tuple[nn.Sequential, int]:
    """A unit of convolutions (plain, grouped, depthwise), norms, activations and poolings; its input channels."""
    channels = inputs = draw(st.sampled_from([1, 2, 4, 6]))
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        form = draw(st.sampled_from(["plain", "grouped", "depthwise", "nested"]))
        groups = {"plain": 1, "grouped": math.gcd(channels, 2), "depthwise": channels, "nested": 1}[form]
        outputs = groups * draw(st.integers(1, 6))
        side = draw(st.sampled_from([1, 3]))
        conv = nn.Conv2d(channels, outputs, side, padding=side // 2, groups=groups, bias=draw(st.booleans()))
        groups_of = next(n for n in (4, 2, 1) if outputs % n == 0)
        norm = draw(st.sampled_from([nn.BatchNorm2d(outputs), nn.GroupNorm(groups_of, outputs), nn.Identity()]))
        rest = draw(st.lists(st.sampled_from([nn.ReLU(), nn.GELU(), nn.MaxPool2d(2, ceil_mode=True)]), max_size=2))
        layers += [nn.Sequential(conv, norm, *rest)] if form == "nested" else [conv, norm, *rest]
        channels = outputs
    if draw(st.booleans()):
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(channels * 4, draw(st.integers(1, 9))), nn.ReLU()]
    return nn.Sequential(*layers), inputs


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(made=conv_units(), ratio=st.floats(0.01, 1))
def test_any_unit_of_convolutions_can_be_narrowed(made: tuple[nn.Sequential, int], ratio: float) -> None:
    """It stays a network that trains, no wider than before; at ratio 1 it is as it was."""
    unit, inputs = made
    z = torch.randn(2, inputs, 8, 8)
    small, widths = narrow(unit, ratio)
    out = trains(small, z)
    assert widths is not None
    assert (out.shape[1], unit(z).shape[1]) == (widths.now, widths.before)
    assert sum(p.numel() for p in small.parameters()) <= sum(p.numel() for p in unit.parameters())
    same, _ = narrow(unit, 1.0)
    assert [tuple(p.shape) for p in same.parameters()] == [tuple(p.shape) for p in unit.parameters()]


def test_a_convolution_keeps_its_form() -> None:
    """Kernel, stride, padding, dilation, bias and mode; output channels are scaled, and groups stay valid."""
    conv = nn.Conv2d(6, 12, (3, 5), stride=2, padding=(1, 2), dilation=2, groups=3, bias=False, padding_mode="circular")
    small, widths = narrow(conv, 0.4)
    assert isinstance(small, nn.Conv2d)
    assert widths == Widths(12, 6), "of 3 groups, 6 is nearer to 4.8 than 3 is"
    assert str(small) == str(conv).replace("Conv2d(6, 12", "Conv2d(6, 6")
    behind, widths = narrow(conv, 0.4, Widths(6, 2))
    assert isinstance(behind, nn.Conv2d)
    assert (behind.in_channels, behind.groups, widths) == (2, 1, Widths(12, 5))


def test_a_depthwise_convolution_is_as_wide_as_its_input() -> None:
    """What is given decides."""
    conv = nn.Conv2d(6, 12, 3, groups=6)
    first, widths = narrow(conv, 0.5)
    assert (getattr(first, "out_channels", 0), widths) == (12, Widths(12, 12))
    behind, widths = narrow(conv, 0.5, Widths(6, 2))
    assert (getattr(behind, "groups", 0), widths) == (2, Widths(12, 4))


def test_group_norm_keeps_the_size_of_its_groups() -> None:
    """Where it divides the channels; else they form one group."""
    groups = [getattr(narrow(nn.GroupNorm(4, 64), 0.5, Widths(64, now))[0], "num_groups", 0) for now in (64, 32, 20)]
    assert groups == [4, 2, 1]


def test_a_shortcut_fits_the_narrowed_output() -> None:
    """Option A takes as many channels as there are; torchvision's blocks get a 1x1 convolution, option B."""
    block, widths = narrow(ResidualBlock(8, 8, 1, "gn"), 0.5)
    assert isinstance(block, ResidualBlock)
    assert (widths, block.widen, type(block.norm1)) == (Widths(8, 4), -4, nn.GroupNorm)
    import_torchvision()
    from torchvision.models.resnet import BasicBlock, Bottleneck

    basic: Any = narrow(BasicBlock(8, 8), 0.5)[0]
    assert basic.downsample[0].weight.shape == (4, 8, 1, 1)
    assert narrow(BasicBlock(8, 8), 0.5, Widths(8, 4))[0].downsample is None
    grouped: Any = narrow(Bottleneck(32, 8, groups=2, base_width=32), 0.5)[0]
    assert (grouped.conv2.groups, grouped.conv2.out_channels, grouped.conv3.out_channels) == (2, 4, 16)


def test_an_inverted_residual_scales_all_its_widths() -> None:
    """Expansion, squeeze and output; the shortcut goes where input and output are no longer as wide as each other."""
    model = network("mobilenetv3_large")
    blocks: Any = list(model)[1:-2]
    block = next(b for b in blocks if b.use_res_connect and len(b.block) == 4)
    small: Any = narrow(block, 0.5)[0]
    expand, depthwise, squeeze, project = small.block
    inner = scaled(block.block[0][0].out_channels, 0.5)
    assert (expand[0].out_channels, depthwise[0].groups, squeeze.fc2.out_channels) == (inner, inner, inner)
    assert squeeze.fc1.out_channels == scaled(block.block[2].fc1.out_channels, 0.5)
    assert project[0].out_channels == small.out_channels == scaled(block.out_channels, 0.5)
    assert not small.use_res_connect
    assert narrow(block, 0.5, Widths(block.out_channels, small.out_channels))[0].use_res_connect


def test_a_transformer_block_keeps_the_width_between_blocks() -> None:
    """Heads are left out and the MLP is narrowed; a head keeps its size."""
    small, widths = narrow(Decoder(24, 4), 0.5)
    assert isinstance(small, Decoder)
    assert widths is None
    assert (small.heads, small.qkv.out_features, small.out.in_features) == (2, 36, 12)
    assert (small.up.in_features, small.up.out_features, small.down.out_features) == (24, 48, 24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "shared", "ratio", "wanted"),
    [(9, 3, 0.1, (1, 1)), (9, 3, 0.5, (4, 2)), (8, 2, 0.8, (6, 2)), (6, 3, 0.5, (4, 2))],
)
def test_query_heads_share_key_heads_evenly(heads: int, shared: int, ratio: float, wanted: tuple[int, int]) -> None:
    """Grouped-query attention stays valid."""
    from fedsim.models.building import build
    from fedsim.models.options import Llama

    options = Llama(blocks=1, width=heads * 4, heads=heads, kv_heads=shared, intermediate=40)
    block = build("llama", options, input=(5,), classes=11, kind="text", device="cpu")[1]
    small: Any = narrow(block, ratio)[0]
    attention = small.layer.self_attn
    assert (attention.q_proj.out_features, attention.k_proj.out_features) == (wanted[0] * 4, wanted[1] * 4)
    assert attention.num_key_value_groups == wanted[0] // wanted[1]
    assert small.layer.mlp.gate_proj.out_features == scaled(40, ratio)
    trains(small, torch.randn(2, 5, heads * 4))


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "shift"), [((8, 8), (2, 2)), ((8, 8), (0, 0)), ((4, 4), (2, 2)), ((7, 10), (2, 2))])
def test_window_attention_is_torchvision_s(grid: tuple[int, int], shift: tuple[int, int]) -> None:
    """With all heads and the same weights, shifted or not, padded or not."""
    import_torchvision()
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    theirs = ShiftedWindowAttention(12, [4, 4], list(shift), 3)
    ours = WindowAttention(12, 3, 4, (4, 4), shift)
    assert theirs.relative_position_index.equal(ours.index.flatten())
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k != "relative_position_index"})
    x = torch.randn(2, *grid, 12)
    torch.testing.assert_close(ours(x), theirs(x))


def test_attention_is_pytorch_s() -> None:
    """With all heads and the same weights."""
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    ours = Attention(12, 3, 4)
    values = [theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj.weight, theirs.out_proj.bias]
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x, x, x)[0], theirs(x, x, x, need_weights=False)[0])


# ----------------------------------------------------------------------------------------------- errors


class Strange(nn.Module):
    """Nobody knows how to narrow this."""


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (Strange(), r"no rule for narrowing a Strange; add one with fedsim\.models\.narrowing\.narrowed\.register"),
        (ConvUnit(nn.Conv2d(3, 8, 3), Strange()), "no rule for narrowing a Strange"),
        (ConvUnit(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(9)), "a BatchNorm2d of width 9 stands behind a layer of width 8"),
        (DenseUnit(nn.Linear(4, 8), nn.Linear(9, 3)), "a Linear of 9 features stands behind a layer of width 8"),
        (nn.LayerNorm((4, 5)), "a LayerNorm over several axes cannot be narrowed; normalise over the last one"),
    ],
)
def test_a_unit_that_cannot_be_narrowed_says_why(unit: nn.Module, message: str) -> None:
    """A layer without a rule, or layers that do not fit one another."""
    with pytest.raises(UserError, match=message):
        narrow(unit, 0.5)
