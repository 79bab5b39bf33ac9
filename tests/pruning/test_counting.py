"""Sizes of models, against closed forms and the cost model's own count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.models.building import build
from fedsim.models.catalogue import ENTRIES
from fedsim.models.counting import measure
from fedsim.models.options import Llama
from fedsim.payload.supports import Support
from fedsim.pruning.counting import Counts, counts, macs
from tests.pruning.cuts import TOKENS, Small, llama_cut, randomise, small_cut, tiny_llama

IMAGES = torch.zeros(3, 3, 4, 4)


def test_a_dense_network() -> None:
    """Every byte and multiplication by hand."""
    model = Small()
    randomise(model)
    got = counts(model, IMAGES)
    parameters = (8 * 27 + 8) + 16 + 72 + (32 + 4) + (32 + 8) + (128 * 5 + 5)
    buffers = 4 * 16 + 8  # two statistics, and a counter of int64
    assert got.parameters == got.nonzero == parameters
    assert got.macs == 16 * 8 * 27 + 16 * 8 * 9 + 2 * 32 + 128 * 5
    assert got.wire == got.update == got.resident == 4 * parameters + buffers
    assert (got.decoder, got.cache, got.disk) == (None, None, None)
    assert Counts.of(got.data()) == got


def test_a_cut_network_is_smaller_in_everything() -> None:
    """Half of the channels."""
    model = Small()
    randomise(model)
    got = counts(small_cut(model).module, IMAGES)
    assert got.macs == 16 * 4 * 27 + 16 * 4 * 9 + 2 * 16 + 64 * 5
    assert got.wire == got.resident < counts(model, IMAGES).resident


def test_zeros_shrink_neither_memory_nor_multiplications() -> None:
    """Only what is sent and stored: a bit a value, and then what is left."""
    model: Any = Small()
    randomise(model)
    dense = counts(model, IMAGES)
    mask = np.arange(640).reshape(5, 128) % 4 == 0
    with torch.no_grad():
        model.out.weight.masked_fill_(torch.from_numpy(~mask), 0)
    got = counts(model, IMAGES, Support(masks={"out.weight": mask}))
    assert (got.parameters, got.macs, got.resident) == (dense.parameters, dense.macs, dense.resident)
    assert got.nonzero == dense.nonzero - 480
    assert dense.wire - got.wire == 480 * 4 - 640 // 8
    assert dense.update - got.update == 480 * 4
    assert counts(model, IMAGES).nonzero == got.nonzero  # by value, where no mask says


@pytest.mark.slow
def test_a_llama() -> None:
    """The decoder apart from the whole; a tied embedding once; keys and values of a token shrink with their groups."""
    model = tiny_llama()
    dense, small = counts(model, {"input_ids": TOKENS}), counts(llama_cut(model).module, {"input_ids": TOKENS})
    block = 36 * (36 + 12 + 12 + 36) + 3 * 36 * 24
    assert dense.decoder == dense.decoder_nonzero == 2 * block
    assert dense.parameters == 2 * block + 61 * 36 + 5 * 36
    assert dense.cache == 2 * 2 * 12 * 4
    assert small.cache == 2 * 2 * 8 * 4
    assert small.decoder == 2 * block - 2 * 36 * 32 - 3 * 36 * (8 + 21)
    assert dense.macs - small.macs == 12 * (dense.decoder - small.decoder) + 2 * 2 * 12 * 12 * 12  # attention as well


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg5", "resnet20", "mobilenetv3_large", "transformer", "llama"])
def test_as_the_cost_model_counts(name: str) -> None:
    """MACs are those of the measure by which simulations are timed."""
    entry = ENTRIES[name]
    options = entry.options() if name != "llama" else Llama(blocks=2, width=36, heads=9, kv_heads=3)
    kind, shape, classes = ("text", (8,), 50) if entry.inputs == "text" else ("image", (3, 32, 32), 10)
    model = build(name, options, input=shape, classes=classes, kind=kind, device="cpu")
    example = torch.zeros((2, *shape), dtype=torch.int64 if kind == "text" else torch.float32)
    assert macs(model, example) == measure(model).macs


def test_modes_stay() -> None:
    """Counting leaves each part in the mode it was in."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[1].eval()
    assert macs(model, torch.zeros(4, 2)) == 4
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


@pytest.mark.slow
def test_a_cache_is_as_wide_as_what_is_computed_with() -> None:
    """Keys and values of half precision take two bytes each."""
    model = tiny_llama().to(torch.bfloat16)
    got = counts(model, {"input_ids": TOKENS})
    assert got.cache == 2 * 2 * 12 * 2
    assert got.resident == 2 * got.parameters + sum(buffer.nbytes for buffer in model.buffers())
