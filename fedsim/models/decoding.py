"""Language models token by token: what their units keep of earlier tokens, done for real and measured.

Which units attend, and how they go on from kept keys and values, each type of unit says by a rule of its own
(`functools.singledispatch`); whatever takes each token by itself needs none.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.counting import measure
from fedsim.models.generation import Attends, Decoding
from fedsim.models.key_values import KeyValues
from fedsim.models.units import UnitList
from fedsim.models.zoo.llama import CausalBlock
from fedsim.models.zoo.text import Decoder, TokenEmbedding


@singledispatch
def attends(unit: nn.Module) -> Attends | None:
    """How a unit looks at earlier tokens; `attends.register` adds a type, with one for `advance`."""
    del unit
    return None


@attends.register
def _(unit: CausalBlock) -> Attends:
    attention: Any = unit.layer.self_attn  # of transformers, without types
    window = None if unit.mask is None else int(attention.config.sliding_window)
    return Attends(attention.q_proj.out_features, attention.k_proj.out_features, window)


@attends.register
def _(unit: Decoder) -> Attends:
    width = unit.out.in_features
    return Attends(width, width)


@singledispatch
def advance(unit: nn.Module, x: Tensor, start: int, kept: KeyValues) -> Tensor:
    """What a unit makes of tokens from number `start` on, with what it has kept of those before."""
    del start, kept
    out: Tensor = unit(x)
    return out


@advance.register
def _(unit: CausalBlock, x: Tensor, start: int, kept: KeyValues) -> Tensor:
    return unit(x, start, kept)  # type: ignore[no-any-return]


@advance.register
def _(unit: Decoder, x: Tensor, start: int, kept: KeyValues) -> Tensor:
    del start
    return unit(x, kept)  # type: ignore[no-any-return]


@advance.register
def _(unit: TokenEmbedding, x: Tensor, start: int, kept: KeyValues) -> Tensor:
    del kept
    return unit(x, start)  # type: ignore[no-any-return]


@torch.no_grad()
def generate(units: nn.Sequential, prompt: Tensor, tokens: int) -> Tensor:
    """The likeliest next tokens, one after the other: `batch prompt` -> `batch tokens`.

    Args:
        units: a whole language model, in the mode in which it is to be run.
        prompt: whole numbers; with the tokens that follow at most as many as the model was made for.
    """
    kept = [KeyValues() for _ in units]
    found: list[Tensor] = []
    x, start = prompt, 0
    while len(found) < tokens:
        last, length = len(units) - 1, x.shape[1]
        for index, unit in enumerate(units):
            if index == last:
                x = x[:, -1:]  # only this token's successor is asked for
            x = advance(unit, x, start, kept[index])
        start += length
        x = x.argmax(-1)
        found.append(x)
    return torch.cat(found, 1)


def decoding(model: UnitList, prompt: int) -> Decoding:
    """What prompts of `prompt` tokens, and single tokens, cost in a language model.

    Raises:
        UserError: a unit lets tokens see one another in a way that there is no rule for.
    """
    how = tuple(attends(unit) for unit in model)
    many, two, one = (measure(_shortened(model, length)) for length in (prompt, 2, 1))
    for known, whole, single in zip(how, two.units, one.units, strict=True):
        if known is None and whole.macs != 2 * single.macs:
            kind = type(model.get_submodule(single.name)).__name__
            raise UserError(
                f"unit {single.name} of {model.name}, a {kind}, lets tokens see one another, and there is no rule for "
                f"what it keeps of them; add one with {__name__}.attends.register, or let requests generate nothing"
            )
    return Decoding(prompt, many, one, how)


def _shortened(model: UnitList, length: int) -> UnitList:
    """The same units for sequences of another length."""
    units = list(model.named_children())
    return UnitList(model.name, units, input=(length,), classes=model.classes, tokens=True, dtype=model.dtype)
