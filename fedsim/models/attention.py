"""Attention of any number of heads of any size, whatever the width of the vectors it works on.

PyTorch's and torchvision's own want heads times size to be the width, which no longer holds when heads are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = -100.0
"""Added to the logits of positions that do not see each other, as in torchvision."""


class Attention(nn.Module):
    """Self-attention of `heads` heads, called as `nn.MultiheadAttention` is.

    Args:
        width: of the vectors that come in and go out.
        heads: number of heads.
        size: features of a head.
        dropout: share of attention weights that training sets to zero.
    """

    def __init__(self, width: int, heads: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * heads * size), nn.Linear(heads * size, width)
        self.heads, self.dropout = heads, dropout

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Vectors `batch length width`, the same three times; of the same shape afterwards, and no weights."""
        assert query is key is value and not need_weights
        batch, length, _ = query.shape
        q, k, v = self.qkv(query).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(attended.transpose(1, 2).reshape(batch, length, -1)), None  # batch length heads*size


class WindowAttention(nn.Module):
    """Self-attention within shifted windows, with a learned bias for each relative position (arXiv 2103.14030).

    Args:
        width: channels of the maps that come in and go out.
        heads: number of heads.
        size: features of a head.
        window: height and width of a window.
        shift: rows and columns by which windows are shifted; not where one window spans the map.
        dropout: share of attention weights that training sets to zero.
    """

    def __init__(
        self, width: int, heads: int, size: int, window: tuple[int, int], shift: tuple[int, int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * heads * size), nn.Linear(heads * size, width)
        self.heads, self.window, self.shift, self.dropout = heads, window, shift, dropout
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, heads).normal_(std=0.02))
        grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in window], indexing="ij")).flatten(1)
        apart = grid[:, :, None] - grid[:, None, :]  # 2 positions positions
        self.index = (apart[0] + window[0] - 1) * (2 * window[1] - 1) + apart[1] + window[1] - 1

    def forward(self, x: Tensor) -> Tensor:
        """Maps `batch h w channels`, of the same shape afterwards."""
        batch, height, width, _ = x.shape
        (tall, wide), positions = self.window, self.window[0] * self.window[1]
        x = functional.pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        rows, columns = x.shape[1] // tall, x.shape[2] // wide
        shift = (self.shift[0] if rows > 1 else 0, self.shift[1] if columns > 1 else 0)
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        x = x.view(batch, rows, tall, columns, wide, -1).transpose(2, 3).reshape(-1, positions, x.shape[-1])
        q, k, v = self.qkv(x).view(len(x), positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # windows heads positions positions
        logits = logits + self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if any(shift):
            hidden = self._hidden(rows, columns, shift, x)
            logits = logits.view(batch, -1, *logits.shape[1:]) + hidden[:, None]
            logits = logits.flatten(0, 1)
        weights = functional.dropout(logits.softmax(-1), self.dropout, self.training)
        x = self.proj((weights @ v).transpose(1, 2).flatten(2))
        x = x.view(batch, rows, columns, tall, wide, -1).transpose(2, 3).reshape(batch, rows * tall, columns * wide, -1)
        if any(shift):
            x = torch.roll(x, shift, (1, 2))
        return x[:, :height, :width].contiguous()

    def _hidden(self, rows: int, columns: int, shift: tuple[int, int], x: Tensor) -> Tensor:
        """What is added to the logits, `windows positions positions`, so that rolled-in rows and columns stay apart."""
        tall, wide = self.window
        down = _regions(rows * tall, tall, shift[0], x.device)
        across = _regions(columns * wide, wide, shift[1], x.device)
        region = 3 * down[:, None] + across  # of each place of the map
        region = region.view(rows, tall, columns, wide).transpose(1, 2).reshape(rows * columns, -1)
        return (region[:, None] != region[:, :, None]).to(x.dtype) * HIDDEN


def _regions(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Numbers 0 to 2 along a rolled axis: before the last window, and its parts before and behind the old edge."""
    place = torch.arange(length, device=device)
    return (place >= length - window).long() + (place >= length - shift).long() if shift else place * 0
