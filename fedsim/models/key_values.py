"""Keys and values of earlier tokens, kept so that the next one need not compute them again."""

from __future__ import annotations

from torch import Tensor


class KeyValues:
    """Those of one unit, each `batch heads tokens size`.

    Memory is taken for twice as many tokens whenever it is full, so that a token copies its own only.
    """

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._tokens = 0

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Keep those of further tokens; answers with all. More arguments are those of transformers' caches."""
        first, self._tokens = self._tokens, self._tokens + keys.shape[2]
        self._keys = self._grown(self._keys, keys, first)
        self._values = self._grown(self._values, values, first)
        return self._keys[:, :, : self._tokens], self._values[:, :, : self._tokens]

    def _grown(self, held: Tensor | None, more: Tensor, first: int) -> Tensor:
        if held is None or held.shape[2] < self._tokens:
            batch, heads, _, size = more.shape
            larger = more.new_empty(batch, heads, 2 * self._tokens, size)
            if held is not None:
                larger[:, :, :first] = held[:, :, :first]
            held = larger
        held[:, :, first : self._tokens] = more
        return held

    def get_seq_length(self, *_: object) -> int:
        """Tokens that are kept; asked for by transformers."""
        return self._tokens
