"""Generation with kept keys and values, against whole forwards; its costs, against products counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.costs import OpClass
from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.decoding import attends, decoding, generate
from fedsim.models.generation import Attends
from fedsim.models.options import Llama, TextTransformer
from fedsim.models.units import UnitList

VOCABULARY, LENGTH, PROMPT = 31, 12, 5

LLAMAS = [
    Llama(width=24, heads=6, kv_heads=2, intermediate=40, blocks=2, tied=False),
    Llama(width=24, heads=6, blocks=2, family="mistral", kv_heads=3, sliding_window=4, tied=False),
    Llama(width=24, heads=6, blocks=1, family="qwen2", tied=False),
]


def made(name: str, options: Any) -> UnitList:
    """A model of random weights, large enough that no two tokens are as likely."""
    model = build(name, options, input=(LENGTH,), classes=VOCABULARY, kind="text", device="cpu", seed=5)
    rng = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5, generator=rng)
    return model.eval()


def text() -> UnitList:
    """fedsim's own transformer."""
    return made("transformer", TextTransformer(blocks=2, width=24, heads=4))


def prompts(batch: int = 3) -> Tensor:
    """Made-up beginnings."""
    return torch.randint(0, VOCABULARY, (batch, PROMPT), generator=torch.Generator().manual_seed(1))


def slowly(model: UnitList, prompt: Tensor, tokens: int) -> Tensor:
    """Each token by a forward of the whole sequence."""
    x = prompt
    with torch.no_grad():
        for _ in range(tokens):
            full = nn.functional.pad(x, (0, LENGTH - x.shape[1]))  # later tokens are not seen
            x = torch.cat([x, model(full)[:, x.shape[1] - 1].argmax(-1)[:, None]], 1)
    return x[:, prompt.shape[1] :]


def test_generation_is_that_of_whole_forwards() -> None:
    """Of fedsim's own transformer."""
    model = text()
    found = generate(model, prompts(), LENGTH - PROMPT)
    assert found.equal(slowly(model, prompts(), LENGTH - PROMPT))
    assert len(found.unique()) > 3


@pytest.mark.slow
@pytest.mark.parametrize("options", LLAMAS, ids=lambda o: o.family)
def test_generation_of_llamas(options: Llama) -> None:
    """Shared keys, windows, biases."""
    model = made("llama", options)
    found = generate(model, prompts(), LENGTH - PROMPT)
    assert found.equal(slowly(model, prompts(), LENGTH - PROMPT))
    assert len(found.unique()) > 3


def test_costs_of_the_transformer_by_hand() -> None:
    """Every weight is read for every token; earlier keys and values as well, and only these grow."""
    model, width = text(), 24
    found = decoding(model, PROMPT)
    block = 12 * width * width
    assert found.attends == (None, Attends(width, width), Attends(width, width), None)
    one, ten = found.step(1, 1), found.step(1, 10)
    assert one.macs == 2 * (block + 2 * width) + width * VOCABULARY
    assert ten.macs == one.macs + 2 * 9 * 2 * width
    assert ten.bytes == one.bytes + 2 * 9 * 2 * width * 4
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2) - (VOCABULARY + LENGTH) * width
    moved = sum(op.bytes for op in one.operators if op.kind is OpClass.LINEAR)
    assert 4 * matrices < moved < 4 * matrices * 1.2
    assert found.step(4, 10).macs == 4 * ten.macs
    four = sum(op.bytes for op in found.step(4, 10).operators if op.kind is OpClass.LINEAR)
    assert four - moved == 3 * (moved - 4 * (matrices + 2 * 9 * width + VOCABULARY)), "weights are read once for all"
    prefill = found.prefill(1)
    assert prefill.macs == 2 * (PROMPT * block + 2 * PROMPT * PROMPT * width) + width * VOCABULARY
    assert found.cache_bytes(10) == 2 * 2 * 10 * width * 4
    assert found.prefill_memory(2) == 2 * (2 * PROMPT * width * 4 + found.cache_bytes(PROMPT))
    assert found.step_memory(1, 10) == (width + VOCABULARY) * 4 + found.cache_bytes(10)


@pytest.mark.slow
def test_keys_are_shared_and_windows_end_them() -> None:
    """Six heads on two: a third of the bytes; behind a window nothing is read or kept."""
    model = made("llama", LLAMAS[0])
    assert attends(model[1]) == Attends(24, 8)
    assert decoding(model, PROMPT).cache_bytes(7) == 2 * 2 * 8 * 7 * 4
    windowed = decoding(made("llama", LLAMAS[1]), PROMPT)
    assert windowed.attends[1] == Attends(24, 12, 4)
    assert windowed.step(1, 4).macs == windowed.step(1, 9).macs > windowed.step(1, 3).macs
    assert windowed.cache_bytes(9) == windowed.cache_bytes(4)


class Mixing(nn.Module):
    """Lets tokens see one another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Products of all pairs."""
        return torch.bmm(torch.bmm(x @ self.weight, x.transpose(1, 2)), x)


def test_units_without_a_rule_are_refused() -> None:
    """What they keep of earlier tokens cannot be known."""
    units: list[tuple[str, nn.Module]] = [
        ("embedding", nn.Embedding(5, 4)),
        ("mix", Mixing()),
        ("head", nn.Linear(4, 5)),
    ]
    model = UnitList("own", units, input=(6,), classes=5, tokens=True)
    with pytest.raises(
        UserError, match=r"unit mix of own, a Mixing, lets tokens see one another, and there is no rule"
    ):
        decoding(model, 3)
