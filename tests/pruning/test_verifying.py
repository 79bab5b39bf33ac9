"""The five checks after a cut: right cuts pass, and every wrong one is caught, by the name of the layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.pruning.checks import Checks
from fedsim.pruning.pruned import PruningError
from fedsim.pruning.resizing import sliced
from fedsim.pruning.verifying import ties, verify
from tests.pruning.cuts import (
    SMALL_PARAMETERS,
    STAY,
    TOKENS,
    Small,
    llama_cut,
    plan_of,
    pruned_of,
    randomise,
    rows_of,
    small_cut,
    support_of,
    tiny_llama,
)

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small() -> Small:
    """With values as after training."""
    model = Small()
    randomise(model)
    return model


def test_a_right_cut_passes(small: Small) -> None:
    """A convolution and its norm, a depthwise one, squeeze and excitation, a linear layer behind flattened maps."""
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    small.norm.eval()
    checks = verify(small, small_cut(small), IMAGES)
    assert checks.parameters == SMALL_PARAMETERS
    assert checks.removed == sum(p.numel() for p in small.parameters()) - SMALL_PARAMETERS
    assert checks.difference < 1e-5
    assert checks.compared == 14  # six layers that were cut and the output, with their own values and with probes
    assert checks.gradients == 11
    assert checks.shared == ()
    assert small.training
    assert not small.norm.training
    assert all(tensor.equal(before[name]) for name, tensor in small.state_dict().items())
    assert all(parameter.grad is None for parameter in small.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in small.modules())
    assert Checks.of(checks.data()) == checks


def test_group_norm_is_compared_as_its_scale_and_shift() -> None:
    """The statistics over the channels that are left are others, which is no mistake; a wrong scale is one."""
    model = Small("gn")
    randomise(model)
    assert verify(model, small_cut(model), IMAGES).difference < 1e-5
    with pytest.raises(PruningError, match=r"^norm: differs from the parent's"):
        verify(model, small_cut(model, norm__weight=((0, 2, 3, 6),)), IMAGES)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_a_wrong_index_of_a_norm(name: str, trained: bool) -> None:
    """Also where a fresh norm has the same value for every channel, so that no output shows it."""
    model = Small()
    if trained:
        randomise(model)
    with pytest.raises(PruningError, match=r"^norm: differs from the parent's"):
        verify(model, small_cut(model, **{f"norm__{name}": ((0, 2, 3, 6),)}), IMAGES)


@pytest.mark.parametrize(
    ("name", "wrong", "layer"),
    [
        ("conv.bias", ((0, 2, 3, 6),), "conv"),
        ("depthwise.weight", ((0, 1, 3, 7), None, None, None), "depthwise"),
        ("squeeze.weight", (None, (0, 1, 3, 7), None, None), "squeeze"),
        ("excite.bias", ((4, 5, 6, 7),), "excite"),
        ("out.weight", (None, tuple(range(64))), "out"),
    ],
)
def test_a_wrong_index_of_a_layer(small: Small, name: str, wrong: Any, layer: str) -> None:
    """The first layer whose output it changes is named."""
    with pytest.raises(PruningError, match=rf"^{layer}: differs from the parent's"):
        verify(small, small_cut(small, **{name.replace(".", "__"): wrong}), IMAGES)


def test_values_that_are_not_the_parents(small: Small) -> None:
    """A support that says other indices than were cut; a tensor that compensates has to be named."""
    pruned = small_cut(small)
    other = support_of({"conv.weight": ((0, 2, 3, 6), None, None, None)})
    moved = replace(pruned.support, axes={**pruned.support.axes, **other.axes})
    plan = replace(pruned.plan, kept=())
    with pytest.raises(PruningError, match=r"^conv.weight: 27 of 108 values are not the parent's"):
        verify(small, replace(pruned, support=moved, plan=plan), IMAGES)
    updated: Any = pruned.module
    with torch.no_grad():
        updated.out.weight.mul_(1.5)
    with pytest.raises(PruningError, match=r"^out.weight: 320 of 320 values"):
        verify(small, pruned, IMAGES)
    assert verify(small, replace(pruned, updated=("out.weight",)), IMAGES).difference < 1e-5


def test_a_cut_that_removes_nothing(small: Small) -> None:
    """A plan of no layer, of layers that stay whole, and one that should have cut."""
    whole = sum(p.numel() for p in small.parameters())
    nothing = pruned_of(small, {}, plan_of(small, [], whole))
    with pytest.raises(PruningError, match="nothing is removed: the plan keeps every unit of no layer at all"):
        verify(small, nothing, IMAGES)
    kept = plan_of(small, [("conv", "filters", 8, range(8))], whole)
    with pytest.raises(PruningError, match="nothing is removed: the plan keeps every unit of conv"):
        verify(small, replace(nothing, plan=kept), IMAGES)
    wanted = plan_of(small, [("conv", "filters", 8, STAY)], SMALL_PARAMETERS)
    with pytest.raises(PruningError, match=r"^conv: to be cut by the plan, but nothing was removed"):
        verify(small, replace(nothing, plan=wanted), IMAGES)
    assert verify(small, nothing, IMAGES, nothing=True).removed == 0
    zeros = plan_of(small, [], whole, sparsity={"out": 0.5})  # the unstructured step is still to come
    assert verify(small, replace(nothing, plan=zeros), IMAGES).removed == 0


def test_a_wrong_prediction(small: Small) -> None:
    """Of the number of parameters, of how many filters of a layer stay, and of which."""
    pruned = small_cut(small)
    kept: Any = ("conv", "filters", 8)
    wrong = plan_of(small, [(*kept, STAY)], SMALL_PARAMETERS + 1)
    with pytest.raises(
        PruningError, match=f"{SMALL_PARAMETERS} parameters .* predicts {SMALL_PARAMETERS + 1}; .* conv"
    ):
        verify(small, replace(pruned, plan=wrong), IMAGES)
    more = plan_of(small, [(*kept, (*STAY[:3], 5, 7))], SMALL_PARAMETERS)
    with pytest.raises(PruningError, match=r"^conv: the plan keeps 5 of 8 filters, the cut 4$"):
        verify(small, replace(pruned, plan=more), IMAGES)
    others = plan_of(small, [(*kept, (0, 1, 2, 3))], SMALL_PARAMETERS)
    with pytest.raises(PruningError, match=r"^conv: the plan keeps 4 of 8 filters, the cut 4, but other ones$"):
        verify(small, replace(pruned, plan=others), IMAGES)


def test_shapes_names_and_memory(small: Small) -> None:
    """A shape that the support does not say, a tensor too few, and one that is the parent's own."""
    pruned = small_cut(small)
    module: Any = pruned.module
    whole = replace(pruned, module=Small())
    with pytest.raises(PruningError, match=r"^conv.weight: shape \(8, 3, 3, 3\), but the support says \(4, 3, 3, 3\)"):
        verify(small, replace(whole, plan=pruned.plan), IMAGES)
    bias, module.squeeze.bias = module.squeeze.bias, None
    with pytest.raises(PruningError, match=r"^squeeze.bias: the parent has it, the smaller model does not"):
        verify(small, pruned, IMAGES)
    module.squeeze.bias = bias
    module.out.bias = small.out.bias
    with pytest.raises(PruningError, match=r"^out.bias: lies in the parent's memory"):
        verify(small, pruned, IMAGES)


def test_a_layer_that_no_longer_fits(small: Small) -> None:
    """A cut that forgets the depthwise convolution's groups fails there in its forward."""
    pruned = small_cut(small)
    module: Any = pruned.module
    module.depthwise.groups = 8
    with pytest.raises(PruningError, match=r"^depthwise: the model fails there on the example: "):
        verify(small, pruned, IMAGES)


def test_values_that_are_not_finite(small: Small) -> None:
    """Of an output, or of a gradient alone."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.out = nn.Parameter(torch.zeros(4)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(x * self.scale.sqrt())  # the slope of a root at zero is infinite
            return out

    pruned = small_cut(small)
    module: Any = pruned.module
    with torch.no_grad():
        small.out.bias[0] = module.out.bias[0] = torch.inf
    with pytest.raises(PruningError, match="the model's output: values that are not finite"):
        verify(small, pruned, IMAGES)
    root = Root()
    axes = {"scale": ((0, 1, 2, 3),)}
    with pytest.raises(PruningError, match=r"^scale: its gradient is not finite"):
        verify(root, pruned_of(root, axes, plan_of(root, [], 14)), torch.rand(2, 4), nothing=True)


def test_double_precision_decides() -> None:
    """Where sums in single precision are further off than is allowed, though the cut is right."""
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 1))
    randomise(model)
    stay = tuple(range(1, 64, 2))
    axes = {"0.weight": (stay, None), "0.bias": (stay,), "1.weight": (None, stay)}
    plan = plan_of(model, [("0", "features", 64, stay)], 32 * 5 + 33)
    example = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    checks = verify(model, pruned_of(model, axes, plan), example, tolerance=1e-12)
    assert checks.difference < 1e-12


# ------------------------------------------------------------------------------------------ language models


@pytest.mark.parametrize("tied", [True, False])
def test_a_right_cut_of_a_llama(tied: bool) -> None:
    """Key and value groups and MLP channels, other ones in each block; what was tied stays so."""
    model = tiny_llama(tied=tied)
    checks = verify(model, llama_cut(model), {"input_ids": TOKENS})
    assert checks.difference < 1e-5
    assert checks.shared == ((("model.embed_tokens.weight", "lm_head.weight"),) if tied else ())
    assert checks.compared == 15  # seven matrices a block, and the logits


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_right_cut_of_other_families(family: str) -> None:
    """With the biases that Qwen2 has on queries, keys and values; a wrong one is caught."""
    model = tiny_llama(family=family)
    pruned = llama_cut(model)
    assert verify(model, pruned, {"input_ids": TOKENS}).difference < 1e-5
    name = "model.layers.0.self_attn.q_proj.bias"
    if family == "qwen2":
        axes = {**pruned.support.axes, **support_of({name: (rows_of(range(6)),)}).axes}
        support = replace(pruned.support, axes=axes)
        wrong = replace(pruned, support=support, module=sliced(model, support))
        with pytest.raises(PruningError, match=r"^model.layers.0.self_attn.q_proj: differs"):
            verify(model, wrong, {"input_ids": TOKENS})


def test_output_columns_cut_by_the_rows_of_keys() -> None:
    """Under grouped-query attention; the shapes fit, so that nothing else would show it."""
    model = tiny_llama()
    stay = (0, 2)
    equally_numbered = rows_of([*stay, *range(3, 7)])
    with pytest.raises(PruningError, match=r"^model.layers.0.self_attn.o_proj: differs from the parent's"):
        verify(model, llama_cut(model, o_proj=(None, equally_numbered)), {"input_ids": TOKENS})


def test_key_rows_of_another_group() -> None:
    """Keys and values of groups that are not the queries'."""
    model = tiny_llama()
    with pytest.raises(PruningError, match=r"^model.layers.0.self_attn.o_proj: differs from the parent's"):
        verify(model, llama_cut(model, k_proj=(rows_of((0, 1)), None)), {"input_ids": TOKENS})


def test_the_number_of_groups_left_as_it_was() -> None:
    """One query head of three taken from every group: each key head now serves two."""
    model = tiny_llama()
    stay = rows_of((0, 2, 3, 5, 6, 8))
    axes = {
        "model.layers.0.self_attn.q_proj.weight": (stay, None),
        "model.layers.0.self_attn.o_proj.weight": (None, stay),
    }
    parameters = sum(p.numel() for p in model.parameters()) - 2 * 12 * 36
    plan = plan_of(model, [("model.layers.0.self_attn", "query_heads", 9, (0, 2, 3, 5, 6, 8))], parameters)
    pruned = pruned_of(model, axes, plan)
    assert verify(model, pruned, {"input_ids": TOKENS}).difference < 1e-5
    module: Any = pruned.module
    module.model.layers[0].self_attn.num_key_value_groups = 3
    with pytest.raises(PruningError, match=r"^model.layers.0.self_attn: num_key_value_groups is 3, but 24"):
        verify(model, pruned, {"input_ids": TOKENS})


def test_an_embedding_that_is_no_longer_tied() -> None:
    """Nor one that is tied though it was not."""
    model, apart = tiny_llama(), tiny_llama(tied=False)
    pruned = llama_cut(model)
    module: Any = pruned.module
    module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().clone())
    with pytest.raises(
        PruningError, match=r"^model.embed_tokens.weight and lm_head.weight: one tensor in the parent, s"
    ):
        verify(model, pruned, {"input_ids": TOKENS})
    pruned = llama_cut(apart)
    module = pruned.module
    module.lm_head.weight = module.model.embed_tokens.weight
    with pytest.raises(PruningError, match=r"one tensor in the smaller model, several in the parent"):
        verify(apart, pruned, {"input_ids": TOKENS})
    assert ties(apart) == ()


def test_columns_that_compensate() -> None:
    """The reference carries the new weights at the columns that stay, and zeros at the others."""
    model = tiny_llama()
    pruned = llama_cut(model)
    module: Any = pruned.module
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight.add_(0.1)
    name = "model.layers.1.mlp.down_proj.weight"
    with pytest.raises(PruningError, match=rf"^{name}: "):
        verify(model, pruned, {"input_ids": TOKENS})
    assert verify(model, replace(pruned, updated=(name,)), {"input_ids": TOKENS}).difference < 1e-5
