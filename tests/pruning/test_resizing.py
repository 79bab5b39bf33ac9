"""Skeletons shrunk to shapes: layers know their new sizes, shared tensors stay shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim.errors import UserError
from fedsim.models.zoo.resnet import ResidualBlock
from fedsim.payload.supports import Support
from fedsim.pruning.resizing import other_attributes, plain_attributes, resize, set_attributes, sliced
from tests.pruning.cuts import STAY, Small, llama_cut, randomise, small_cut, support_of, tiny_llama


@pytest.mark.slow
@given(st.integers(1, 8), st.integers(1, 4), st.sampled_from(["bn", "gn"]))
def test_layers_know_their_sizes(channels: int, squeezed: int, norm: str) -> None:
    """Whatever number of channels stays, the network runs, and says of itself what one built so would."""
    model = Small(norm)
    shapes = {
        "conv.weight": (channels, 3, 3, 3),
        "conv.bias": (channels,),
        **{f"norm.{name}": (channels,) for name in model.norm.state_dict() if name != "num_batches_tracked"},
        "depthwise.weight": (channels, 1, 3, 3),
        "squeeze.weight": (squeezed, channels, 1, 1),
        "squeeze.bias": (squeezed,),
        "excite.weight": (channels, squeezed, 1, 1),
        "excite.bias": (channels,),
        "out.weight": (5, 16 * channels),
    }
    resize(model, shapes)
    assert model(torch.zeros(2, 3, 4, 4)).shape == (2, 5)
    groups = channels // 4 if channels % 4 == 0 else 1
    built = {
        "conv": nn.Conv2d(3, channels, 3, padding=1),
        "norm": nn.BatchNorm2d(channels) if norm == "bn" else nn.GroupNorm(groups, channels),
        "depthwise": nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        "squeeze": nn.Conv2d(channels, squeezed, 1),
        "excite": nn.Conv2d(squeezed, channels, 1),
        "out": nn.Linear(16 * channels, 5),
    }
    assert {name: repr(layer) for name, layer in model.named_children()} == {n: repr(la) for n, la in built.items()}


@pytest.mark.parametrize(
    ("layer", "weight", "said"),
    [
        (nn.ConvTranspose2d(6, 4, 3), (3, 2, 3, 3), "ConvTranspose2d(3, 2,"),
        (nn.Conv1d(4, 8, 3, groups=4), (4, 1, 3), "Conv1d(2, 4, kernel_size=(3,), stride=(1,), groups=2)"),
        (nn.Conv2d(8, 8, 1, groups=2), (4, 4, 1, 1), "Conv2d(8, 4, kernel_size=(1, 1), stride=(1, 1), groups=2)"),
        (nn.Embedding(10, 4), (10, 2), "Embedding(10, 2)"),
        (nn.LayerNorm(6), (3,), "LayerNorm((3,),"),
    ],
)
def test_other_layers(layer: nn.Module, weight: tuple[int, ...], said: str) -> None:
    """Transposed, depthwise with two outputs a channel, grouped, embeddings and layer norm."""
    shapes = {"weight": weight}
    if getattr(layer, "bias", None) is not None:
        shapes["bias"] = (weight[1 if isinstance(layer, nn.ConvTranspose2d) else 0],)
    resize(layer, shapes)
    assert repr(layer).startswith(said)


def test_a_shortcut_without_weights_widens_by_what_is_missing() -> None:
    """Between stages of ResNet-20 of other widths."""
    block = ResidualBlock(4, 8, 2, "bn")
    resize(block, {"conv1.weight": (8, 3, 3, 3)})
    assert block.widen == 5
    assert block(torch.zeros(1, 3, 8, 8)).shape == (1, 8, 4, 4)


def test_shared_tensors_stay_shared_and_untrained_ones_untrained() -> None:
    """Under every name; what did not change is the very same."""
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(4, 6), "c": nn.Linear(2, 2)})
    parts: Any = model
    parts["b"].weight = parts["a"].weight
    parts["a"].weight.requires_grad_(False)
    other = parts["c"].weight
    resize(model, {"a.weight": (3, 4), "b.weight": (3, 4), "a.bias": (3,), "b.bias": (3,), "c.weight": (2, 2)})
    assert parts["a"].weight is parts["b"].weight
    assert not parts["a"].weight.requires_grad
    assert parts["a"].bias.requires_grad
    assert parts["c"].weight is other


def test_attention_knows_how_many_heads_share() -> None:
    """In transformers' attention, where it is no tensor's shape alone."""
    model = tiny_llama()
    first = "model.layers.0.self_attn."
    resize(model, {f"{first}q_proj.weight": (24, 36), f"{first}o_proj.weight": (36, 24)})
    assert [layer.self_attn.num_key_value_groups for layer in model.model.layers] == [2, 3]


def test_a_slice_is_what_the_support_says() -> None:
    """The parent's values at the kept coordinates, zeros where the mask is false; the parent stays."""
    model = Small()
    randomise(model)
    support = small_cut(model).support
    mask = np.arange(5 * 64).reshape(5, 64) % 2 == 0
    support = Support(support.axes, {"out.weight": mask})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    smaller: Any = sliced(model, support)
    assert smaller.conv.weight.equal(model.conv.weight[list(STAY)])
    assert smaller.squeeze.weight.equal(model.squeeze.weight[:, list(STAY)])
    assert int((smaller.out.weight != 0).sum()) == 160
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_tensors_that_are_not_there() -> None:
    """No such name, or a shape of other axes."""
    with pytest.raises(UserError, match=r"no tensor conv\.wait in this model; take the model that was pruned"):
        resize(Small(), {"conv.wait": (4, 3, 3, 3)})
    with pytest.raises(UserError, match=r"conv.weight has shape \(8, 3, 3, 3\) in this model, but \(4, 3\) is asked"):
        resize(Small(), {"conv.weight": (4, 3)})


def test_attributes_that_no_rule_knows() -> None:
    """Those that a cut has set otherwise are found, and can be set; of rows the type stays."""
    model = Small()
    cut: Any = small_cut(model).module
    skeleton: Any = sliced(model, support_of({}))
    resize(skeleton, {name: tuple(tensor.shape) for name, tensor in cut.state_dict().items()})
    assert other_attributes(skeleton, cut) == {}
    cut.conv.padding = (2, 2)
    cut.squeeze.groups = 2
    found = other_attributes(skeleton, cut)
    assert found == {"conv": {"padding": [2, 2]}, "squeeze": {"groups": 2}}
    set_attributes(skeleton, found)
    assert skeleton.conv.padding == (2, 2)
    assert plain_attributes(skeleton) == plain_attributes(cut)
    with pytest.raises(UserError, match=r"there is no conv.paddding in this model"):
        set_attributes(skeleton, {"conv": {"paddding": 1}})
    with pytest.raises(UserError, match=r"conv.groups is 1 in this model, but 'x' is asked for"):
        set_attributes(skeleton, {"conv": {"groups": "x"}})


def test_a_slice_of_a_llama_needs_no_other_attributes() -> None:
    """The rules say all that a cut of attention and MLP changes."""
    model = tiny_llama()
    pruned = llama_cut(model)
    skeleton = sliced(model, support_of({}))
    resize(skeleton, {name: tuple(tensor.shape) for name, tensor in pruned.module.state_dict().items()})
    assert other_attributes(skeleton, pruned.module) == {}
