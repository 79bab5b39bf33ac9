"""How well a language model predicts a text: perplexity, accuracy of the next token, choice among continuations.

A perplexity says nothing without the tokenizer, the text and the length of the windows. Takes whole models of
transformers and lists of units alike; those, which know one length, get shorter windows filled up behind their end,
which a causal model does not see. Knows nothing of pruning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from fedsim import seeds
from fedsim.errors import UserError
from fedsim.models.units import UnitList
from fedsim.pruning.mosaic.adapters import Adapter, Decoders, on_device
from fedsim.pruning.mosaic.streaming import reading

_CHUNK: Final = 512
"""Tokens of a forward: their logits, of 50,000 values each, take 100 MB."""

_NORMAL: Final = 1.959964
"""97.5 % of a normal distribution are below this."""


def consecutive(tokens: Tensor, length: int, count: int | None = None) -> Tensor:
    """A text's first windows, which follow each other and do not overlap: `windows length`. The rest is left out.

    Raises:
        UserError: the text has fewer.
    """
    there = len(tokens) // length
    wanted = max(1, there if count is None else count)
    if there < wanted:
        raise UserError(
            f"{wanted} windows of {length} tokens need a text of {wanted * length} tokens, but this one has "
            f"{len(tokens)}; ask for fewer or shorter ones"
        )
    return tokens[: wanted * length].reshape(wanted, length)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a model makes of windows of text."""

    losses: tuple[float, ...]
    """By window: mean loss of its tokens behind the first, in nats."""
    right: int
    """Tokens to which none was preferred."""
    length: int  # L
    """Tokens of a window."""

    @property
    def predictions(self) -> int:
        """L - 1 in each window."""
        return len(self.losses) * (self.length - 1)

    @property
    def loss(self) -> float:
        """Mean over all predictions, in nats."""
        return math.fsum(self.losses) / len(self.losses)

    @property
    def perplexity(self) -> float:
        """Infinite where a float cannot hold it, or where the loss is no number."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def top1(self) -> float:
        """The share of tokens that the model had taken, too."""
        return self.right / self.predictions


def quality(model: nn.Module, windows: Tensor, adapter: Adapter | None = None) -> Quality:
    """Loss and accuracy of a model on windows of tokens, `windows length`. The model is left as it was.

    Raises:
        UserError: windows of fewer than two tokens, or longer than the model takes.
    """
    if windows.dim() != 2 or windows.shape[1] < 2 or not len(windows):
        raise UserError(f"windows of shape {tuple(windows.shape)}; evaluation needs windows of 2 or more tokens each")
    losses: list[float] = []
    right = 0
    with reading(model):
        for part in windows.split(max(1, _CHUNK // windows.shape[1])):
            logits, given = _logits(model, part, adapter)
            likely = _likelihoods(logits[:, :-1], given[:, 1:])
            losses += (-likely.mean(1)).tolist()
            right += int((logits[:, :-1].argmax(-1) == given[:, 1:]).sum())
    return Quality(losses=tuple(losses), right=right, length=windows.shape[1])


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """How often a model prefers how a text goes on to how it goes on elsewhere."""

    right: int
    items: int
    choices: int
    """The true one included; a guess is right once in as many."""
    context: int
    """Tokens that are given."""
    continuation: int
    """Tokens of each choice."""

    @property
    def accuracy(self) -> float:
        """The share of items."""
        return self.right / self.items

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 % confidence, by Wilson's rule."""
        return wilson(self.right, self.items)


def wilson(right: int, items: int) -> tuple[float, float]:
    """The interval of 95 % confidence of a share, after E. B. Wilson, JASA 22 (1927), 209-212."""
    share, square = right / items, _NORMAL**2
    middle = (share + square / (2 * items)) / (1 + square / items)
    half = _NORMAL * math.sqrt(share * (1 - share) / items + square / (4 * items**2)) / (1 + square / items)
    return max(0.0, middle - half), min(1.0, middle + half)


def cloze(
    model: nn.Module,
    tokens: Tensor,
    *,
    items: int = 500,
    context: int = 48,
    continuation: int = 16,
    choices: int = 4,
    seed: int = 0,
    adapter: Adapter | None = None,
) -> Cloze:
    """Ask a model, at seeded places of a text, which of some continuations follows; foreign ones are from elsewhere.

    The likeliest is chosen, by the sum over its tokens; ties count as wrong. The model is left as it was.

    Raises:
        UserError: the text is too short.
    """
    starts = _places(len(tokens), items, context, continuation, choices, seed)
    right = 0
    with reading(model):
        for row in starts.tolist():
            beginning = tokens[row[0] - context : row[0]]
            given = torch.stack([torch.cat([beginning, tokens[at : at + continuation]]) for at in row])
            logits, given = _logits(model, given, adapter)
            likely = _likelihoods(logits[:, context - 1 : -1], given[:, context:]).sum(1)
            right += bool(likely[0] > likely[1:].max())
    return Cloze(right=right, items=items, choices=choices, context=context, continuation=continuation)


def _places(total: int, items: int, context: int, continuation: int, choices: int, seed: int) -> NDArray[np.int64]:
    """By item and choice: where the continuation begins; the true one is first. Foreign ones do not meet the item."""
    room = total - context - continuation + 1  # places for a true continuation, the first of which is `context`
    meeting = context + 2 * continuation - 1  # places of continuations that meet an item
    if min(items, context, continuation) < 1 or choices < 2:
        raise UserError(
            f"{items} items of {context} + {continuation} tokens with {choices} choices; there are 1 item or more, "
            "with 1 token or more of each, and 2 choices or more"
        )
    needed = continuation - 1 + max(items + context, meeting + choices - 1)
    if total < needed:
        raise UserError(
            f"{items} items of {context} + {continuation} tokens with {choices} choices need a text of {needed} tokens "
            f"or more, but this one has {total}; ask for fewer or shorter ones"
        )
    rng = seeds.generator(seed, -1, "cloze")
    made = np.empty((items, choices), np.int64)
    for item, true in enumerate((rng.choice(room, items, replace=False) + context).tolist()):
        before = max(0, true - context - continuation + 1)
        behind = max(0, total - true - 2 * continuation + 1)
        foreign = rng.choice(before + behind, choices - 1, replace=False)
        made[item] = [true, *np.where(foreign < before, foreign, foreign - before + true + continuation)]
    return made


def _likelihoods(logits: Tensor, tokens: Tensor) -> Tensor:
    """Logarithms of the probabilities of tokens, `windows length`."""
    wide = logits.float()
    chosen = wide.gather(-1, tokens[..., None])[..., 0]
    return chosen - wide.logsumexp(-1)


def _logits(model: nn.Module, tokens: Tensor, adapter: Adapter | None) -> tuple[Tensor, Tensor]:
    """Logits `windows length vocabulary`, and the tokens on the model's device."""
    given = on_device(model, tokens)
    length = given.shape[1]
    takes = model.input[0] if isinstance(model, UnitList) else length
    if length > takes:
        raise UserError(f"windows of {length} tokens, but the model takes {takes}; take windows of at most as many")
    logits = (adapter or Decoders()).run(model, pad(given, (0, takes - length)))
    return logits[:, :length], given
