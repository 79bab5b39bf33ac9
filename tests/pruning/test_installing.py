"""Folders in the coordinates of a network: values, names and what may not be touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.errors import UserError
from fedsim.models.zoo.llama import apart
from fedsim.payload.supports import Support
from fedsim.pruning.counting import counts
from fedsim.pruning.installing import installed
from fedsim.pruning.manifest import ObjectBase
from fedsim.pruning.methods import Material, Method
from fedsim.pruning.skeletons import transformers_base
from fedsim.pruning.storing import write
from fedsim.pruning.verifying import verify
from tests.pruning.cuts import STAY, TOKENS, Small, llama_cut, randomise, small_cut, tiny_llama

EXAMPLE = torch.zeros(2, 3, 4, 4)


def small(folder: Path) -> Small:
    """`Small`, its cut in the folder."""
    parent = Small()
    randomise(parent)
    pruned = small_cut(parent)
    write(folder, pruned, verify(parent, pruned, EXAMPLE), ObjectBase(), counts(pruned.module, EXAMPLE), parent=parent)
    return parent


def test_it_stands_behind_the_seam_of_methods(tmp_path: Path) -> None:
    """And gives the very model that was written."""
    parent = small(tmp_path / "small")
    found = installed(tmp_path / "small", parent)
    assert isinstance(found, Method)
    material = Material(example=EXAMPLE)
    found.study(parent, material)
    plan = found.plan(parent, None, material)
    pruned, checks = found.apply(parent, plan, material)
    assert checks == found.manifest.checks
    for name, tensor in small_cut(parent).module.state_dict().items():
        assert torch.equal(pruned.module.state_dict()[name], tensor), name
    assert found.finish(pruned, material) is pruned


def test_renewing_puts_its_values_where_they_belong(tmp_path: Path) -> None:
    """And leaves all others as they are."""
    parent = small(tmp_path / "small")
    found = installed(tmp_path / "small", parent)
    blank = Small()
    randomise(blank, 1)
    before = blank.conv.weight.detach().clone()
    found.renew(blank, (), Material(example=EXAMPLE))
    assert torch.equal(blank.conv.weight[[0, 2, 3, 7]], parent.conv.weight[[0, 2, 3, 7]])
    assert torch.equal(blank.conv.weight[[1, 4, 5, 6]], before[[1, 4, 5, 6]])


def test_renewing_leaves_what_a_mask_leaves_out(tmp_path: Path) -> None:
    """Another variant may have values there."""
    parent = Small()
    randomise(parent)
    cut = small_cut(parent)
    mask = np.arange(4 * 27).reshape(4, 3, 3, 3) % 3 > 0
    weight = cut.module.get_parameter("conv.weight")
    with torch.no_grad():
        weight.mul_(torch.from_numpy(mask))
    sparse = replace(cut, support=Support(cut.support.axes, {"conv.weight": mask}), updated=("conv.weight",))
    checks = verify(parent, replace(sparse, support=cut.support), EXAMPLE)
    sizes = counts(cut.module, EXAMPLE, sparse.support)
    write(tmp_path / "sparse", sparse, checks, ObjectBase(), sizes, parent=parent)
    other = Small()
    randomise(other, 1)
    wanted = other.conv.weight.detach().clone()
    for row, channel in enumerate(STAY):
        for place in np.ndindex(3, 3, 3):
            if mask[(row, *place)]:
                wanted[(channel, *place)] = parent.conv.weight[(channel, *place)]
    installed(tmp_path / "sparse", parent).renew(other, (), Material(example=EXAMPLE))
    assert other.conv.weight.equal(wanted)


def test_another_size_of_it_does_not_exist(tmp_path: Path) -> None:
    """It was made once."""
    found = installed(tmp_path / "small", small(tmp_path / "small"))
    with pytest.raises(UserError, match="name a method in place of a manifest"):
        found.sized(0.5)


def test_what_is_out_of_scope_must_be_whole(tmp_path: Path) -> None:
    """The tensor is named."""
    parent = small(tmp_path / "small")
    found = installed(tmp_path / "small", parent)
    with pytest.raises(
        UserError, match=r"has less of depthwise\.weight than the model, but only conv, norm may shrink"
    ):
        found.plan(parent, None, Material(example=EXAMPLE, scope=("conv", "norm")))


def test_other_weights_are_refused_only_if_values_are_wanted(tmp_path: Path) -> None:
    """Shapes are the same."""
    small(tmp_path / "small")
    other = Small()
    randomise(other, 2)
    with pytest.raises(UserError, match="made of other weights"):
        installed(tmp_path / "small", other)
    assert not installed(tmp_path / "small", other, values=False).values


def test_another_network_is_refused(tmp_path: Path) -> None:
    """By the first tensor that differs."""
    small(tmp_path / "small")
    with pytest.raises(UserError, match="is of another network: 3 tensors differ"):
        installed(tmp_path / "small", Small("gn"))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_blocks_of_transformers_are_found_again_in_units(tied: bool, tmp_path: Path) -> None:
    """The same logits, by other names."""
    whole = tiny_llama(tied=tied)
    pruned = llama_cut(whole)
    example = {"input_ids": TOKENS, "use_cache": False}
    write(tmp_path / "x", pruned, verify(whole, pruned, example), transformers_base(whole), counts(whole, TOKENS))
    units = apart(whole, TOKENS.shape[1])
    found = installed(tmp_path / "x", units)
    smaller, _ = found.apply(units, found.plan_, Material(example=TOKENS))
    with torch.no_grad():
        wanted = pruned.module.eval()(input_ids=TOKENS, use_cache=False).logits
        torch.testing.assert_close(smaller.module.eval()(TOKENS), wanted)
    assert {kept.layer for kept in found.plan_.kept} == {
        f"block{number}.layer.{part}" for number in (1, 2) for part in ("self_attn", "mlp")
    }
    assert found.plan_.parameters == sum(p.numel() for p in smaller.module.parameters())
