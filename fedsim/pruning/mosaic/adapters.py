"""Where a language model's decoder blocks and their seven projections are: the seam `Adapter`, and one for Llama's kin.

Blocks are found by their type, in whole models of transformers and in unit lists alike; nothing is told by names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor, nn

from fedsim.data.custom import resolve
from fedsim.errors import UserError

Projection = Literal["q", "k", "v", "o", "gate", "up", "down"]
PROJECTIONS: Final[tuple[Projection, ...]] = ("q", "k", "v", "o", "gate", "up", "down")
ATTENTION: Final[tuple[Projection, ...]] = ("q", "k", "v", "o")
MLP: Final[tuple[Projection, ...]] = ("gate", "up", "down")

READERS: Final[dict[Projection, Projection]] = {
    "q": "q",
    "k": "q",
    "v": "q",
    "o": "o",
    "gate": "gate",
    "up": "gate",
    "down": "down",
}
"""Of the projections with the same inputs, the one that stands for them."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A decoder block: names of modules in the model, and its sizes."""

    name: str
    """The module that maps the hidden states to the next block's."""
    attention: str
    projections: dict[Projection, str]
    heads: int
    kv_heads: int
    head_size: int
    width: int
    """Of the residual stream."""
    channels: int
    """Of the gated MLP."""

    @property
    def repeats(self) -> int:
        """Query heads of a key and value head."""
        return self.heads // self.kv_heads

    def shape(self, projection: Projection) -> tuple[int, int]:
        """Rows and columns of a projection's weight."""
        outer = {
            "q": self.heads * self.head_size,
            "k": self.kv_heads * self.head_size,
            "v": self.kv_heads * self.head_size,
            "o": self.heads * self.head_size,
            "gate": self.channels,
            "up": self.channels,
            "down": self.channels,
        }[projection]
        return (self.width, outer) if projection in ("o", "down") else (outer, self.width)

    def elements(self, projection: Projection) -> int:
        """Values of a projection's weight."""
        rows, columns = self.shape(projection)
        return rows * columns

    def weight(self, projection: Projection) -> str:
        """The weight's name in the model's `state_dict`."""
        return f"{self.projections[projection]}.weight"


class Adapter(Protocol):
    """What Mosaic has to know of a kind of language model. Made without arguments."""

    def blocks(self, model: nn.Module) -> Sequence[Block]:
        """The decoder blocks in the order in which they run, each on what the one before it gives; none if the model
        is of another kind."""
        ...

    def run(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """What the model gives for tokens `batch length`: logits, of a whole model."""
        ...


_LAYERS: Final = {
    ("transformers.models.llama.modeling_llama", "LlamaDecoderLayer"),
    ("transformers.models.mistral.modeling_mistral", "MistralDecoderLayer"),
    ("transformers.models.qwen2.modeling_qwen2", "Qwen2DecoderLayer"),
    ("transformers.models.qwen3.modeling_qwen3", "Qwen3DecoderLayer"),
}
"""Compared with a module's types by name: models of these types have imported them already. SmolLM is Llama."""


class Decoders:
    """Llama, Mistral, Qwen2 and Qwen3: whole models of transformers, and lists of units with their decoder layers."""

    def blocks(self, model: nn.Module) -> Sequence[Block]:
        """All decoder layers."""
        return [_described(name, module) for name, module in model.named_modules() if _is_layer(module)]

    def run(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Logits, without a cache of keys and values."""
        if hasattr(model, "config"):
            out: Any = model(input_ids=tokens, use_cache=False)
            logits: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
            return logits
        given: Tensor = model(tokens)
        return given


def _is_layer(module: nn.Module) -> bool:
    return any((kind.__module__, kind.__name__) in _LAYERS for kind in type(module).__mro__)


def _described(name: str, layer: nn.Module) -> Block:
    """A decoder layer's parts, which have the same names in all families."""
    prefix = f"{name}." if name else ""
    attention: Any = layer.get_submodule("self_attn")
    size = int(attention.head_dim)
    return Block(
        name=name,
        attention=f"{prefix}self_attn",
        projections={p: f"{prefix}{'self_attn' if p in ATTENTION else 'mlp'}.{p}_proj" for p in PROJECTIONS},
        heads=attention.q_proj.out_features // size,
        kv_heads=attention.k_proj.out_features // size,
        head_size=size,
        width=attention.q_proj.in_features,
        channels=int(layer.get_parameter("mlp.gate_proj.weight").shape[0]),
    )


def adapter(named: str | None) -> Adapter:
    """The adapter that options name as `module:Class`; without a name, `Decoders`.

    Raises:
        UserError: there is none of that name.
    """
    if named is None:
        return Decoders()
    made: Adapter = resolve(named, "adapter")()
    return made


def found(adapter: Adapter, model: nn.Module) -> tuple[Block, ...]:
    """All blocks of a model.

    Raises:
        UserError: there are none.
    """
    blocks = tuple(adapter.blocks(model))
    if not blocks:
        raise UserError(
            f"{type(adapter).__name__} finds no decoder blocks in a model of type {type(model).__name__}; it knows "
            "Llama, Mistral, Qwen2 and Qwen3 of transformers: take one of these, or name an adapter as module:Class"
        )
    return blocks


def scoped(blocks: Sequence[Block], scope: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the blocks whose names begin with one of the prefixes, all if there are none.

    Raises:
        UserError: a prefix matches no block.
    """
    if not scope:
        return tuple(range(len(blocks)))
    chosen = set[int]()
    for prefix in scope:
        matching = {n for n, block in enumerate(blocks) if block.name == prefix or block.name.startswith(f"{prefix}.")}
        if not matching:
            raise UserError(
                f"scope {prefix!r} matches no decoder block; they are {blocks[0].name} to {blocks[-1].name}, and a "
                "prefix ends where a name or one of its parts ends"
            )
        chosen |= matching
    return tuple(sorted(chosen))


def matrix(model: nn.Module, block: Block, projection: Projection) -> Tensor:
    """A projection's weight, rows by columns, without gradients."""
    return model.get_submodule(block.projections[projection]).get_parameter("weight").detach()


def evaluate(model: nn.Module) -> dict[str, bool]:
    """Put a model into eval mode; returns which modules were in training mode, for `restore`."""
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    return modes


def restore(model: nn.Module, modes: dict[str, bool]) -> None:
    """Put every module back into the mode that `evaluate` found."""
    for name, module in model.named_modules():
        module.training = modes[name]


def on_device(model: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens where a model's weights are."""
    return tokens.to(next(model.parameters()).device, torch.int64)
