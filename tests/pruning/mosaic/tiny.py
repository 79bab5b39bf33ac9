"""Tiny language models with random weights, whole and as unit lists."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.models.building import build
from fedsim.models.options import Llama
from fedsim.models.units import UnitList
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Decoders
from fedsim.torchvision_shim import import_torchvision

VOCABULARY, LENGTH, WINDOWS = 29, 12, 12
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@lru_cache
def whole(family: str = "llama", *, tied: bool = True, blocks: int = 2, attention: str = "sdpa", seed: int = 0) -> Any:
    """A model of transformers with 9 query and 3 key and value heads, which nobody may change."""
    import_torchvision()
    from transformers import AutoConfig, AutoModelForCausalLM

    maker: Any = AutoModelForCausalLM  # it has no types
    changed = {"tie_word_embeddings": tied, "num_hidden_layers": blocks}
    made = maker.from_config(AutoConfig.for_model(family, **(SIZES | changed)), attn_implementation=attention)
    return filled(made, seed).eval()


def units(blocks: int = 2) -> UnitList:
    """fedsim's own list of units."""
    options = Llama(blocks=blocks, width=36, heads=9, kv_heads=3, intermediate=64)
    made = build("llama", options, input=(LENGTH,), classes=VOCABULARY, kind="text", device="cpu", seed=5)
    return filled(made, 3)  # type: ignore[return-value]


def filled(model: nn.Module, seed: int) -> nn.Module:
    """Random weights everywhere: norms and biases begin as ones and zeros, which would hide mistakes."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.05 + 0.3 * torch.randn(parameter.shape, generator=rng))
    return model


def windows(count: int = WINDOWS, length: int = LENGTH, seed: int = 1) -> Tensor:
    """Made-up tokens."""
    return torch.randint(0, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def positive(*shape: int, seed: int = 0) -> Tensor:
    """Numbers between 0 and 1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """What a whole model or unit list gives."""
    with torch.no_grad():
        return Decoders().run(model, tokens)


def projected(model: nn.Module) -> dict[str, Tensor]:
    """The weights of all projections by name."""
    endings = tuple(f"{projection}_proj.weight" for projection in PROJECTIONS)
    return {name: p.detach() for name, p in model.named_parameters() if name.endswith(endings)}


def left(model: nn.Module) -> int:
    """How many of the projections' weights are not zero."""
    return sum(int((weight != 0).sum()) for weight in projected(model).values())
