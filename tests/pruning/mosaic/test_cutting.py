"""The structured step on tiny models of all families, against the masked parent."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.units import UnitList
from fedsim.pruning.mosaic import Mosaic, apply, plan, rank
from fedsim.pruning.mosaic.adapters import Decoders, found
from fedsim.pruning.mosaic.cutting import compensated
from fedsim.pruning.mosaic.streaming import Inputs
from fedsim.pruning.plans import Kept, Plan
from fedsim.pruning.pruned import Pruned, fingerprint
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import

MODELS: dict[str, Any] = {
    **{family: (lambda family=family: tiny.whole(family)) for family in tiny.FAMILIES},
    "untied": lambda: tiny.whole(tied=False),
    "eager": lambda: tiny.whole(attention="eager"),
    "units": tiny.units,
}


def cut(model: nn.Module, **changed: Any) -> Pruned:
    """Structured pruning with some options."""
    options = Mosaic(**{"sparsity": 0.45, "alpha": 1.0} | changed)
    return apply(model, plan(model, rank(model, tiny.windows(), options), options), tiny.windows())[0]


def masked(model: Any, made: Plan, pruned: Pruned) -> nn.Module:
    """The parent with every unit that the plan drops held at zero where o and down read it, and updates put in.

    Written from the plan's units alone: it uses no index that the cut has computed.
    """
    reference: nn.Module = deepcopy(model)
    smaller = dict(pruned.module.named_parameters())
    with torch.no_grad():
        for block in found(Decoders(), reference):
            for kept in made.kept:
                if kept.layer not in block.projections.values():
                    continue
                mlp = kept.kind == "mlp_channels"
                weight = reference.get_parameter(block.weight("down" if mlp else "o"))
                units = weight.shape[1] // kept.of
                stay = torch.zeros(kept.of, dtype=torch.bool)
                stay[list(kept.indices)] = True
                columns = stay.repeat_interleave(units)
                name = block.weight("down" if mlp else "o")
                if name in pruned.updated:
                    weight[:, columns] = smaller[name]
                weight[:, ~columns] = 0
    return reference


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kv_unit", ["group", "query_head"])
@pytest.mark.parametrize("update", ["least_squares", "none"])
def test_a_cut_model_is_the_masked_parent(name: str, kv_unit: Any, update: Any) -> None:
    """The same logits, with different widths in the two blocks; the parent is left as it was."""
    model = MODELS[name]()
    before = fingerprint(model)
    pruned = cut(model, kv_unit=kv_unit, update=update)
    tokens = tiny.windows(4, seed=9)
    wanted = tiny.logits(masked(model, pruned.plan, pruned), tokens)
    torch.testing.assert_close(tiny.logits(pruned.module, tokens), wanted, rtol=1e-4, atol=1e-4)
    assert fingerprint(model) == before
    assert type(pruned.module) is type(model)
    widths = {(kept.kind, len(kept.indices)) for kept in pruned.plan.kept if kept.kind == "mlp_channels"}
    assert len(widths) == 2
    kept = sum(parameter.numel() for parameter in pruned.module.parameters())
    assert kept == pruned.plan.parameters < sum(parameter.numel() for parameter in model.parameters())


@settings(max_examples=15)
@given(st.data())
def test_any_units_can_go(data: st.DataObject) -> None:
    """Any groups, heads and channels of any blocks: verified, and the same logits as the masked parent."""
    family = data.draw(st.sampled_from(sorted(MODELS)))
    model = MODELS[family]()
    kept: list[Kept] = []
    lost = 0
    for block in found(Decoders(), model):
        kind = data.draw(st.sampled_from(["kv_groups", "query_heads", None]))
        biases = family == "qwen2"
        if kind == "kv_groups":
            groups = data.draw(st.sets(st.integers(0, 2), min_size=1, max_size=2))
            kept.append(Kept(layer=block.projections["q"], kind="kv_groups", of=3, indices=tuple(sorted(groups))))
            lost += (3 - len(groups)) * 4 * (36 * 8 + 5 * biases)
        if kind == "query_heads":
            each = data.draw(st.integers(1, 2))
            heads = [3 * g + h for g in range(3) for h in sorted(data.draw(st.permutations(range(3)))[:each])]
            kept.append(Kept(layer=block.projections["q"], kind="query_heads", of=9, indices=tuple(sorted(heads))))
            lost += 3 * (3 - each) * 4 * (36 * 2 + biases)
        channels = data.draw(st.sets(st.integers(0, 63), min_size=1, max_size=63))
        kept.append(Kept(layer=block.projections["gate"], kind="mlp_channels", of=64, indices=tuple(sorted(channels))))
        lost += (64 - len(channels)) * 3 * 36
    made = Plan(
        method="mosaic",
        parent=fingerprint(model),
        seed=0,
        options={"adapter": None, "update": data.draw(st.sampled_from(["none", "least_squares"])), "damping": 0.01},
        source="",
        kept=tuple(kept),
        parameters=sum(parameter.numel() for parameter in model.parameters()) - lost,
        privacy="public",
    )
    pruned, checks = apply(model, made, tiny.windows())
    assert checks.removed == lost
    tokens = tiny.windows(2, seed=8)
    wanted = tiny.logits(masked(model, made, pruned), tokens)
    torch.testing.assert_close(tiny.logits(pruned.module, tokens), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "qwen2", "units"])
def test_supports_are_what_stays_in_the_parents_coordinates(name: str) -> None:
    """Every tensor is the parent's at the support's indices, but for those that compensate."""
    model = MODELS[name]()
    pruned = cut(model)
    state = model.state_dict()
    for tensor, value in pruned.module.state_dict().items():
        whole = state[tensor].numpy()
        part = whole[pruned.support.index(tensor, whole.shape)]
        assert part.shape == tuple(value.shape)
        if tensor not in pruned.updated:
            assert np.array_equal(part, value.numpy())
    ends = {tensor.rsplit(".", 2)[1] for tensor in pruned.updated}
    assert ends == {"o_proj", "down_proj"}
    assert any(tensor.endswith("q_proj.bias") for tensor in pruned.support.axes) == (name == "qwen2")


@pytest.mark.parametrize("kv_unit", ["group", "query_head"])
def test_generation_with_a_cache_is_that_without(kv_unit: Any) -> None:
    """Blocks of different widths keep keys and values of different sizes; dynamic and static caches both work."""
    model = tiny.whole(blocks=3)
    pruned = cut(model, kv_unit=kv_unit)
    reference = masked(model, pruned.plan, pruned)
    prompt = tiny.windows(2, 5, seed=4)

    def generated(net: Any, **how: Any) -> Tensor:
        made: Tensor = net.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None, **how)
        return made

    wanted = generated(reference, use_cache=False)
    for how in ({"use_cache": False}, {"use_cache": True}, {"cache_implementation": "static"}):
        assert torch.equal(generated(pruned.module, **how), wanted)


def test_unit_lists_stay_unit_lists() -> None:
    """With their units, their inputs, and a device block that runs by itself."""
    pruned = cut(tiny.units(), scope=("block1",))
    module = pruned.module
    assert isinstance(module, UnitList)
    assert [name for name, _ in module.named_children()] == ["embedding", "block1", "block2", "head"]
    assert {tensor.split(".")[0] for tensor in pruned.support.axes} == {"block1"}
    assert module.block(0, 2)(tiny.windows(2)).shape == (2, tiny.LENGTH, 36)


def test_tied_embeddings_stay_tied() -> None:
    """And untied ones apart."""
    tied = cut(tiny.whole()).module
    assert tied.get_parameter("lm_head.weight") is tied.get_parameter("model.embed_tokens.weight")
    untied = cut(tiny.whole(tied=False)).module
    assert untied.get_parameter("lm_head.weight") is not untied.get_parameter("model.embed_tokens.weight")


def test_compensation_by_hand_is_least_squares() -> None:
    """The kept columns solve the regression of the whole outputs on the kept inputs."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 80, 6, generator=rng) @ torch.randn(6, 6, generator=rng)
    weight = torch.randn(4, 6, generator=rng)
    inputs = Inputs(6, hessian=True, device=torch.device("cpu"))
    inputs.add(x)
    kept = np.array([0, 2, 3])
    made = compensated(weight, inputs, kept, damping=1e-9)
    wanted = torch.linalg.lstsq(x[0][:, kept].double(), (x[0] @ weight.T).double()).solution.T
    torch.testing.assert_close(made.double(), wanted, rtol=1e-3, atol=1e-3)


def test_compensation_brings_outputs_nearer() -> None:
    """On windows that it was not fitted to, too."""
    model, tokens = tiny.whole(), tiny.windows(8, seed=7)
    wanted = tiny.logits(model, tokens)
    errors = [
        float((tiny.logits(cut(model, sparsity=0.3, update=update).module, tokens) - wanted).square().mean())
        for update in ("least_squares", "none")
    ]
    assert errors[0] < errors[1]


def test_plans_for_other_models_are_refused() -> None:
    """By the fingerprint, and by the units."""
    model = tiny.whole()
    made = plan(model, rank(model, tiny.windows()), Mosaic(alpha=1.0))
    with pytest.raises(UserError, match=r"the plan was made for another model than this LlamaForCausalLM \(of finger"):
        apply(tiny.whole(seed=1), made, tiny.windows())
    lost = replace(made, kept=(replace(made.kept[0], layer="model.layers.9.self_attn.q_proj"),))
    with pytest.raises(UserError, match=r"keeps units of model.layers.9.self_attn.q_proj, which is no projection"):
        apply(model, lost, tiny.windows())
    other = replace(made, kept=(replace(made.kept[0], of=4),))
    with pytest.raises(UserError, match="the plan keeps some of 4 kv_groups, but there are 3; make a plan for this"):
        apply(model, other, tiny.windows())


def test_a_plan_without_cuts_gives_a_copy() -> None:
    """Verified all the same."""
    model = tiny.whole()
    pruned, checks = apply(model, plan(model, rank(model, tiny.windows()), Mosaic()), tiny.windows())
    assert checks.removed == 0
    assert fingerprint(pruned.module) == fingerprint(model)
    assert pruned.support.whole


def ridge(inputs: Tensor, weight: Tensor, kept: np.ndarray[Any, Any], windows: int, damping: float) -> Tensor:
    """The kept columns, and what of them predicts the outputs of the others best: ridge regression by further rows.

    A Hessian is twice the products of inputs by windows, hence the factor; damping is a share of its mean diagonal.
    """
    x, wide = inputs.double() * (2 / windows) ** 0.5, weight.detach().double()
    gone = np.setdiff1d(np.arange(x.shape[1]), kept)
    mean = x[:, kept].square().sum(0).mean()
    rows = torch.cat([x[:, kept], (damping * mean) ** 0.5 * torch.eye(len(kept), dtype=torch.float64)])
    lost = torch.cat([x[:, gone] @ wide[:, gone].T, torch.zeros(len(kept), len(wide), dtype=torch.float64)])
    made: Tensor = wide[:, kept] + torch.linalg.lstsq(rows, lost).solution.T
    return made


@pytest.mark.parametrize("damping", [0.01, 0.5])
def test_damping_is_a_share_of_the_mean_square(damping: float) -> None:
    """Ridge regression, on inputs that are far from one."""
    rng = torch.Generator().manual_seed(0)
    x = 7 * torch.randn(4, 20, 6, generator=rng) @ torch.randn(6, 6, generator=rng)
    weight = torch.randn(5, 6, generator=rng)
    inputs = Inputs(6, hessian=True, device=torch.device("cpu"))
    inputs.add(x)
    kept = np.array([0, 2, 3])
    wanted = ridge(x.flatten(0, 1), weight, kept, 4, damping)
    torch.testing.assert_close(compensated(weight, inputs, kept, damping).double(), wanted, rtol=1e-4, atol=1e-5)


def test_blocks_make_up_for_a_cut_on_inputs_through_cut_blocks() -> None:
    """The second block's outputs are fitted on what it gets from the first as that has become."""
    model = tiny.whole()
    pruned = cut(model, damping=0.05)
    between: Any = deepcopy(model)
    smaller: Any = pruned.module
    between.model.layers[0] = deepcopy(smaller.model.layers[0])
    seen: dict[str, Tensor] = {}
    names = [f"model.layers.1.{each}" for each in ("self_attn.o_proj", "mlp.down_proj")]
    for name in names:
        between.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    tiny.logits(between, tiny.windows())
    for name in names:
        kept = pruned.support.axes[f"{name}.weight"][1]
        assert kept is not None
        weight = model.get_parameter(f"{name}.weight")
        wanted = ridge(seen[name].flatten(0, 1), weight, kept, tiny.WINDOWS, 0.05)
        torch.testing.assert_close(smaller.get_parameter(f"{name}.weight").double(), wanted, rtol=1e-3, atol=1e-4)
