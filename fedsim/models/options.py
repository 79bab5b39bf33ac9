"""What the models of the catalogue can be told, a dataclass each. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """Fully connected layers with ReLU; one unit a layer."""

    hidden: list[int] = field(default_factory=lambda: [64])
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        if not self.hidden or any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: {self.hidden} needs at least one width, each 1 or more, such as [64]")


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A network without options of its own."""


@dataclass(frozen=True, kw_only=True)
class SmallCnn:
    """Two convolutions and a hidden layer; one unit a layer."""

    channels: list[int] = field(default_factory=lambda: [32, 64])
    """Output channels of the two 5x5 convolutions."""
    hidden: int = 512
    """Width of the hidden layer."""

    def __post_init__(self) -> None:
        if len(self.channels) != 2 or min(self.channels) < 1:
            raise ValueError(f"channels: {self.channels} needs two widths, each 1 or more, such as [32, 64]")
        if self.hidden < 1:
            raise ValueError(f"hidden {self.hidden} must be 1 or more, such as 512")


@dataclass(frozen=True, kw_only=True)
class TextTransformer:
    """A decoder-only transformer for next-token prediction; units: embedding, blocks, head."""

    blocks: int = 2
    """Number of decoder blocks."""
    width: int = 64
    """Size of the residual stream."""
    heads: int = 4
    """Attention heads; must divide the width."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}, and blocks 1 or more")
