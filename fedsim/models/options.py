"""What the models of the catalogue can be told, a dataclass each. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


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
class Vgg:
    """Convolutions in five stages, each followed by a pooling, and three linear layers or one; one unit a layer."""

    width_ratio: float = 1.0
    """The convolutions' channels as a share of the published ones."""
    hidden: int | None = 4096
    """Width of the two hidden linear layers; null leaves them out, as is usual for images of 32 pixels."""
    dropout: float = 0.0
    """Share of the hidden layers' outputs that a training step sets to zero; published with 0.5."""

    def __post_init__(self) -> None:
        _check_ratio(self.width_ratio)
        _check_share("dropout", self.dropout)
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden {self.hidden} must be 1 or more, such as 4096; null is for no hidden layers")
        if self.hidden is None and self.dropout:
            raise ValueError(f"dropout {self.dropout} is of the hidden layers, and hidden: null leaves them out")


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """A residual network of four stages; units: stem, blocks, head."""

    stem: Literal["auto", "small", "imagenet"] = "auto"
    """`small` keeps the resolution (a 3x3 convolution); `imagenet` quarters it (7x7 with stride 2, and a pooling);
    `auto` is `small` up to 64 pixels a side."""
    width_ratio: float = 1.0
    """Channels as a share of the published ones."""

    def __post_init__(self) -> None:
        _check_ratio(self.width_ratio)


@dataclass(frozen=True, kw_only=True)
class MobileNet:
    """Inverted residual blocks; units: stem, bottlenecks, a 1x1 convolution, head."""

    stem: Literal["imagenet", "small"] = "imagenet"
    """`imagenet` halves the resolution, as published; `small` keeps it, for images of 32 pixels or so."""
    width_ratio: float = 1.0
    """Channels as a share of the published ones, rounded to multiples of 8."""
    dropout: float = 0.0
    """Share of the hidden layer's outputs that a training step sets to zero; published with 0.2."""

    def __post_init__(self) -> None:
        _check_ratio(self.width_ratio)
        _check_share("dropout", self.dropout)


@dataclass(frozen=True, kw_only=True)
class VisionTransformer:
    """A vision transformer; units: embedding, encoder blocks, head."""

    patch: int | None = None
    """Side of a patch in pixels, which must divide the image's; null takes 4 below 64 pixels, 8 below 128, else 16."""
    blocks: int = 12
    """Number of encoder blocks."""
    width: int = 384
    """Size of the residual stream; the blocks' MLPs are four times as wide."""
    heads: int = 6
    """Attention heads; must divide the width."""
    dropout: float = 0.0
    """Share of values that a training step sets to zero, in attention and after every layer."""

    def __post_init__(self) -> None:
        if self.patch is not None and self.patch < 1:
            raise ValueError(f"patch {self.patch} must be 1 or more, such as 4")
        _check_transformer(self.blocks, self.width, self.heads)
        _check_share("dropout", self.dropout)


@dataclass(frozen=True, kw_only=True)
class Swin:
    """A Swin transformer; units: embedding, blocks, a merging of patches between stages, head."""

    patch: int = 4
    """Side of a patch in pixels, which must divide the image's."""
    width: int = 96
    """Channels of the first stage; they double with every stage."""
    blocks: list[int] = field(default_factory=lambda: [2, 2, 6, 2])
    """Number of blocks of each stage."""
    heads: list[int] = field(default_factory=lambda: [3, 6, 12, 24])
    """Attention heads of each stage; must divide its channels."""
    window: int | None = None
    """Side of the attention windows in patches, padded to where it does not fit (published with 7); null takes 7 where
    that divides a stage's side, else a window that needs no padding."""
    dropout: float = 0.0
    """Share of values that a training step sets to zero, in attention and after every layer."""
    stochastic_depth: float = 0.0
    """Share of samples for which a training step skips the last block's layers, growing to it linearly from 0;
    published with 0.2."""

    def __post_init__(self) -> None:
        if self.patch < 1 or self.width < 1 or (self.window is not None and self.window < 1):
            raise ValueError(f"patch {self.patch}, width {self.width} and window {self.window} must be 1 or more")
        if not self.blocks or min(self.blocks) < 1 or len(self.blocks) != len(self.heads):
            raise ValueError(
                f"blocks: {self.blocks} and heads: {self.heads} need a number each for every stage, 1 or more, "
                "such as [2, 2, 6, 2] and [3, 6, 12, 24]"
            )
        for stage, heads in enumerate(self.heads):
            width = self.width * 2**stage
            if heads < 1 or width % heads:
                raise ValueError(f"heads: {self.heads} must divide the channels, and {heads} does not divide {width}")
        _check_share("dropout", self.dropout)
        _check_share("stochastic_depth", self.stochastic_depth)


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
        _check_transformer(self.blocks, self.width, self.heads)


@dataclass(frozen=True, kw_only=True)
class Llama:
    """A causal language model of Hugging Face's `transformers`; units: embedding, decoder blocks, head.

    Either its sizes are given here and its weights drawn, or both come from a local folder. Embedding and head are
    separate units with weights of their own, also where the published model ties them.
    """

    path: Path | None = None
    """A folder with config.json and weights in safetensors; says all that is below, which is then left out."""
    family: Literal["llama", "mistral", "qwen2", "qwen3"] = "llama"
    """The family whose decoder blocks these are."""
    blocks: int = 4
    """Number of decoder blocks."""
    width: int = 256
    """Size of the residual stream."""
    heads: int = 4
    """Query heads; must divide the width."""
    kv_heads: int | None = None
    """Key and value heads, shared by groups of query heads; must divide these; null takes as many."""
    intermediate: int | None = None
    """Width of the gated MLP; null takes 8/3 of the width, up to a multiple of 16."""
    vocabulary: int | None = None
    """Number of tokens, at least those of the data; null takes those."""
    tied: bool = True
    """Whether the head starts as a copy of the embedding; they are trained separately in either case."""
    rope_theta: float = 10000.0
    """Base of the rotary position angles."""
    sliding_window: int | None = None
    """Tokens that a token attends to, itself included (mistral only); null is all before it."""

    def __post_init__(self) -> None:
        changed = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default and f.name != "path"]
        if self.path is not None and changed:
            raise ValueError(
                f"with path, {' and '.join(changed)} would contradict its config.json; leave one or the other out"
            )
        _check_transformer(self.blocks, self.width, self.heads)
        if self.width // self.heads % 2:
            raise ValueError(f"width {self.width} over heads {self.heads} must be even: rotary positions turn pairs")
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        for name in ("intermediate", "vocabulary", "sliding_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} must be 1 or more")
        if self.rope_theta <= 0:
            raise ValueError(f"rope_theta {self.rope_theta} must be above 0, such as 10000")
        if self.sliding_window is not None and self.family != "mistral":
            raise ValueError(f"sliding_window is an option of family mistral, not of {self.family}; leave it out")


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio <= 16:
        raise ValueError(f"width_ratio {ratio} must be above 0 and at most 16, such as 0.5")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"{name} {share} must be 0 or more and below 1, such as 0.1")


def _check_transformer(blocks: int, width: int, heads: int) -> None:
    if blocks < 1 or heads < 1 or width < 1 or width % heads:
        raise ValueError(f"width {width} must be a multiple of heads {heads}, and blocks 1 or more")


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """The auxiliary head: a small network behind the device block that gives the device a loss of its own."""

    kind: Literal["scaled_layer", "linear", "flat_linear", "mlp", "mirror"] = "scaled_layer"
    """`scaled_layer` is the first server unit with `ratio` times its width, `mirror` the first `units` ones, each in
    front of pooling and a linear layer; `linear` is these two alone, `mlp` has a hidden layer between them, and
    `flat_linear` does not pool. A language model predicts through its own embedding in place of the linear layer."""
    ratio: float = 0.1  # r
    """Width of the scaled units as a share of the server's; of the hidden layer of `mlp`, as a share of its inputs."""
    units: int = 1  # n of mirror_n
    """Server units that `mirror` repeats."""
    vocabulary: Literal["sampled", "full"] = "sampled"
    """The tokens that a language model's head tells apart: 1,024 of them and the right one, or all."""
    warn: float = 0.5
    """The head's share of the device block in MACs above which there is a warning."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio {self.ratio} must be above 0 and at most 1, such as 0.1")
        if self.units < 1:
            raise ValueError(f"units {self.units} must be 1 or more")
        if self.units > 1 and self.kind != "mirror":
            raise ValueError(f"units: {self.units} is for kind mirror, not for {self.kind}; leave it out")
        if not self.warn > 0:
            raise ValueError(f"warn {self.warn} must be above 0, such as 0.5")
