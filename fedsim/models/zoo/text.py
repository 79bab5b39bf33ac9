"""The decoder-only text transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim.models.key_values import KeyValues
from fedsim.models.options import TextTransformer
from fedsim.models.units import UnitList


class TokenEmbedding(nn.Module):
    """Token and learned position embeddings: tokens `batch length` -> `batch length width`."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(length, width))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Tokens, the first of which is number `start`, to vectors."""
        out: Tensor = self.tokens(x) + self.positions[start : start + x.shape[1]]
        return out


class Decoder(nn.Module):
    """Pre-norm causal self-attention and a four times wider MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: Tensor, kept: KeyValues | None = None) -> Tensor:
        """Vectors `batch length width`, of the same shape afterwards; one alone, behind those that are kept."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if kept is not None:
            k, v = kept.update(k, v)
        causal = kept is None or length > 1
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)  # batch heads length size
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, -1))
        out: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return out


def transformer(*, options: TextTransformer, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """A decoder-only transformer over `classes` tokens, on windows of `input[0]` tokens. Norm layers: layer norm."""
    del norm
    units: list[tuple[str, nn.Module]] = [("embedding", TokenEmbedding(classes, input[0], options.width))]
    units += [(f"block{i + 1}", Decoder(options.width, options.heads)) for i in range(options.blocks)]
    units.append(("head", nn.Sequential(nn.LayerNorm(options.width), nn.Linear(options.width, classes))))
    return UnitList("transformer", units, input=input, classes=classes, tokens=True)
