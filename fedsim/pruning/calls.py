"""Ways of calling a model of which nothing but its inputs is known: drawn examples, and what a stopwatch times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedsim import seeds
from fedsim.models.units import UnitList
from fedsim.pruning.quality import logits

Call = Callable[[nn.Module], Any]

PROMPT: Final = 128
"""Tokens of a prompt that is timed, as far as the model takes so many."""


def drawn(model: nn.Module, *, length: int, vocabulary: int, seed: int, samples: int = 2) -> Tensor:
    """Random inputs for a list of units, or tokens for a language model of transformers."""
    rng = seeds.generator(seed, -1, "pruning example")
    if not isinstance(model, UnitList):
        return torch.from_numpy(rng.integers(0, vocabulary, (samples, length)))
    if model.tokens:
        return torch.from_numpy(rng.integers(0, vocabulary, (samples, *model.input)))
    return torch.from_numpy(rng.standard_normal((samples, *model.input))).to(getattr(torch, model.dtype))


def of_images(example: Tensor, batches: Sequence[int] = (1, 32)) -> Mapping[str, Call]:
    """Forwards of batches, by what they are."""

    def forward(samples: int) -> Call:
        inputs = example[:1].expand(samples, *example.shape[1:]).contiguous()
        return lambda model: model(inputs)

    return MappingProxyType({f"forward, batch {batch}": forward(batch) for batch in batches})


def of_text(model: nn.Module, example: Tensor) -> Mapping[str, Call]:
    """A prompt, and where there is a cache of keys and values one token more."""
    whole = hasattr(model, "config")
    prompt = example[:1, :PROMPT] if whole else example[:1]
    calls: dict[str, Call] = {f"prompt of {prompt.shape[1]} tokens": lambda each: logits(each, prompt)}
    if whole:
        calls[f"one token after {prompt.shape[1]}"] = _Decoding(prompt)
    return MappingProxyType(calls)


class _Decoding:
    """One token behind a prompt, whose keys and values each model computes once."""

    def __init__(self, prompt: Tensor) -> None:
        self._prompt = prompt
        self._caches: dict[int, Any] = {}

    def __call__(self, model: nn.Module) -> Tensor:
        called: Any = model
        if id(model) not in self._caches:
            self._caches[id(model)] = called(input_ids=self._prompt, use_cache=True).past_key_values
        cache = self._caches[id(model)]
        out = called(input_ids=self._prompt[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(self._prompt.shape[1])  # as it was, for the next time
        found: Tensor = out.logits
        return found
