"""What it costs to answer with a language model: a prompt at once, then token by token. Plain data; no torch here.

A prompt is limited by arithmetic, a token by the weights and the earlier keys and values, all of which it reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.models.measure import ModelMeasure, UnitMeasure, forward_cost
from fedsim.payload.meta import ITEM_BYTES


@dataclass(frozen=True, slots=True)
class Attends:
    """How a unit looks at earlier tokens."""

    queries: int
    """Width of the queries, all heads together."""
    keys: int
    """Width of the keys, and of the values, of one token."""
    window: int | None = None
    """Tokens that one attends to, itself included; None: all."""

    def seen(self, context: int) -> int:
        """Of `context` tokens, itself included, how many a token attends to."""
        return context if self.window is None else min(context, self.window)


@dataclass(frozen=True)
class Decoding:
    """A language model, measured on a prompt and on a single token."""

    length: int
    """Tokens of a prompt."""
    prompt: ModelMeasure
    token: ModelMeasure
    """On one token that has only itself to attend to."""
    attends: tuple[Attends | None, ...]
    """Of every unit; None for one that takes each token by itself."""

    @property
    def item(self) -> int:
        """Bytes of a value."""
        return ITEM_BYTES[self.token.dtype]

    def cache_bytes(self, context: int) -> int:
        """Bytes of the keys and values of `context` tokens of one sequence."""
        return sum(2 * unit.keys * unit.seen(context) * self.item for unit in self.attends if unit is not None)

    def prefill(self, batch: int) -> Cost:
        """Of `batch` prompts; only their last token goes through the last unit, which gives the first new one."""
        units = (*self.prompt.units[:-1], self.token.units[-1])
        return forward_cost(units, batch, self.prompt.name)

    def step(self, batch: int, context: int) -> Cost:
        """Of one more token in `batch` sequences, which then are `context` tokens long.

        To what one token costs comes, for every earlier one, a product with its key and one with its value, which are
        read; scores stay in the processor, as in fused kernels.
        """
        operators = []
        for unit, attends in zip(self.token.units, self.attends, strict=True):
            operators += [operator.at(batch) for operator in unit.forward]
            earlier = 0 if attends is None else attends.seen(context) - 1
            if attends is not None and earlier:
                macs, read = 2 * attends.queries * earlier, 2 * attends.keys * earlier * self.item
                operators.append(Operator(OpClass.ATTENTION, Phase.FORWARD, batch * macs, batch * read, unit=unit.name))
        return Cost(tuple(operators), batch, self.token.name)

    def prefill_memory(self, batch: int) -> int:
        """Bytes beside the weights: two neighbouring activations, and the keys and values."""
        units = (*self.prompt.units[:-1], self.token.units[-1])
        return batch * (self._widest(self.prompt, units) + self.cache_bytes(self.length))

    def step_memory(self, batch: int, context: int) -> int:
        """The same, once a sequence is `context` tokens long."""
        return batch * (self._widest(self.token, self.token.units) + self.cache_bytes(context))

    def _widest(self, model: ModelMeasure, units: tuple[UnitMeasure, ...]) -> int:
        sizes = [model.input_bytes(1), *(math.prod(unit.output) * self.item for unit in units)]
        return max(before + after for before, after in pairwise(sizes))
