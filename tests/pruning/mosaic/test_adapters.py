"""Decoder blocks, found by type in whole models and unit lists."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Decoders, adapter, found, scoped
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_blocks_of_whole_models_are_found(family: str) -> None:
    """Two blocks in order, with sizes and the names of seven projections each."""
    model = tiny.whole(family)
    blocks = found(Decoders(), model)
    assert [block.name for block in blocks] == ["model.layers.0", "model.layers.1"]
    for block in blocks:
        assert (block.heads, block.kv_heads, block.repeats, block.head_size) == (9, 3, 3, 4)
        assert (block.width, block.channels) == (36, 64)
        for projection in PROJECTIONS:
            weight = model.get_parameter(block.weight(projection))
            assert tuple(weight.shape) == block.shape(projection)
            assert weight.numel() == block.elements(projection)


def test_blocks_of_unit_lists_are_found() -> None:
    """The decoder layers inside fedsim's own units, in a part of the list, too."""
    model = tiny.units(blocks=3)
    assert [block.name for block in found(Decoders(), model)] == [f"block{n}.layer" for n in (1, 2, 3)]
    device_block = model.block(0, 2)
    assert [block.name for block in found(Decoders(), device_block)] == ["block1.layer"]


def test_a_model_without_blocks_is_an_error() -> None:
    """Nothing is found in silence."""
    with pytest.raises(UserError, match="finds no decoder blocks in a model of type Linear; it knows Llama, Mistral"):
        found(Decoders(), nn.Linear(2, 2))


def test_scopes_are_prefixes_of_whole_names() -> None:
    """`block1` is not `block10`, and a prefix that matches nothing is an error."""
    blocks = found(Decoders(), tiny.units(blocks=10))
    assert scoped(blocks, ()) == tuple(range(10))
    assert scoped(blocks, ("block1",)) == (0,)
    assert scoped(blocks, ("block10", "block2.layer")) == (1, 9)
    with pytest.raises(UserError, match=r"scope 'block11' matches no decoder block; they are block1.layer to block10"):
        scoped(blocks, ("block1", "block11"))


def test_an_adapter_can_be_named() -> None:
    """`module:Class` instead of the one for Llama's kin."""
    assert isinstance(adapter("fedsim.pruning.mosaic.adapters:Decoders"), Decoders)
    with pytest.raises(UserError, match="has no 'Decoder'"):
        adapter("fedsim.pruning.mosaic.adapters:Decoder")


def test_runs_do_not_cache() -> None:
    """Logits of whole models and of unit lists."""
    tokens = tiny.windows(2)
    for model in (tiny.whole(), tiny.units()):
        assert tiny.logits(model, tokens).shape == (2, tiny.LENGTH, tiny.VOCABULARY)
    assert torch.equal(tiny.whole()(input_ids=tokens).logits, tiny.logits(tiny.whole(), tokens))
