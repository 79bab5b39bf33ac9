"""Ways of calling a model of which nothing but its inputs is known: drawn examples, and what a stopwatch times."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedsim import seeds
from fedsim.models.units import UnitList
from fedsim.pruning.mosaic.adapters import Decoders

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
    calls: dict[str, Call] = {f"prompt of {prompt.shape[1]} tokens": lambda each: Decoders().run(each, prompt)}
    if whole:
        calls[f"one token after {prompt.shape[1]}"] = _Decoding(prompt)
    return MappingProxyType(calls)


class _Decoding:
    """One token behind a prompt, whose keys and values each model computes once."""

    def __init__(self, prompt: Tensor) -> None:
        self._prompt = prompt
        self._caches: dict[int, Any] = {}

    def ready(self, model: nn.Module) -> None:
        """Make what the next call takes, which it will have changed."""
        import transformers

        if id(model) not in self._caches:
            cache = transformers.DynamicCache()
            self._run(model, self._prompt, cache)
            self._caches[id(model)] = cache
        self._next = deepcopy(self._caches[id(model)])

    def __call__(self, model: nn.Module) -> Tensor:
        return self._run(model, self._prompt[:, -1:], self._next)

    def _run(self, model: Any, tokens: Tensor, cache: Any) -> Tensor:
        named = inspect.signature(model.forward).parameters
        key = "cache" if "cache" in named else "past_key_values"  # renamed in the course of transformers 5
        found: Tensor = model(input_ids=tokens, use_cache=True, **{key: cache}).logits
        return found
