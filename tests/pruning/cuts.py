"""Cuts made by hand, for tests: small networks, which indices stay, and the plan that says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.payload.supports import Support
from fedsim.pruning.plans import Kept, Kind, Plan
from fedsim.pruning.pruned import Pruned, fingerprint
from fedsim.pruning.resizing import sliced
from fedsim.torchvision_shim import import_torchvision

Axes = Mapping[str, Sequence[Sequence[int] | None]]


def support_of(axes: Axes) -> Support:
    """The support of index lists."""
    return Support({n: tuple(None if k is None else np.array(k, np.int64) for k in each) for n, each in axes.items()})


def plan_of(
    parent: nn.Module, kept: Sequence[tuple[str, Kind, int, Sequence[int]]], parameters: int, **more: Any
) -> Plan:
    """A plan that keeps (layer, kind, of, indices)."""
    listed = tuple(Kept(layer=la, kind=kind, of=of, indices=tuple(ix)) for la, kind, of, ix in kept)
    settings: dict[str, Any] = {"method": "hand", "seed": 0, "options": {}, "source": "", "privacy": "data-free"}
    return Plan(parent=fingerprint(parent), kept=listed, parameters=parameters, **{**settings, **more})


def pruned_of(parent: nn.Module, axes: Axes, plan: Plan, **more: Any) -> Pruned:
    """The cut that index lists say."""
    support = support_of(axes)
    return Pruned(module=sliced(parent, support), plan=plan, support=support, **more)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Values of their own for everything, as after training; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and "inv_freq" not in name:
            fan = math.prod(tensor.shape[1:]) if tensor.dim() > 1 else 0
            drawn = torch.randn(tensor.shape, generator=generator) / math.sqrt(fan) if fan else None
            with torch.no_grad():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator) if drawn is None else drawn)


# ------------------------------------------------------------------------------------------ networks


class Small(nn.Module):
    """Convolution, norm, a depthwise convolution, squeeze and excitation, and a linear layer on flattened maps."""

    def __init__(self, norm: str = "bn") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8) if norm == "gn" else nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.out = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.conv(x)))
        x = self.depthwise(x)
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        out: Tensor = self.out(x.flatten(1))
        return out


STAY = (0, 2, 3, 7)
"""The channels of `Small` that stay."""

PIXELS = tuple(16 * channel + place for channel in STAY for place in range(16))

SMALL_AXES: Axes = {
    "conv.weight": (STAY, None, None, None),
    "conv.bias": (STAY,),
    **{f"norm.{name}": (STAY,) for name in ("weight", "bias", "running_mean", "running_var")},
    "depthwise.weight": (STAY, None, None, None),
    "squeeze.weight": (None, STAY, None, None),
    "excite.weight": (STAY, None, None, None),
    "excite.bias": (STAY,),
    "out.weight": (None, PIXELS),
}
SMALL_PARAMETERS = (4 * 27 + 4) + 8 + 4 * 9 + (4 * 4 + 4) + (4 * 4 + 4) + (64 * 5 + 5)


def small_cut(parent: nn.Module, **changed: Any) -> Pruned:
    """`Small` with half of its channels, correctly; `changed` replaces index lists by name, with `__` for a point."""
    axes = {**SMALL_AXES, **{name.replace("__", "."): value for name, value in changed.items()}}
    axes = {name: each for name, each in axes.items() if name in parent.state_dict()}
    plan = plan_of(parent, [("conv", "filters", 8, STAY)], SMALL_PARAMETERS)
    return pruned_of(parent, axes, plan)


def tiny_llama(*, tied: bool = True, seed: int = 0, family: str = "llama", **more: Any) -> Any:
    """Two blocks, 9 query and 3 key and value heads of 4 features, 24 MLP channels, 61 tokens; values drawn."""
    import_torchvision()
    import transformers

    sizes = {"vocab_size": 61, "hidden_size": 36, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 4, "max_position_embeddings": 32}
    config = transformers.AutoConfig.for_model(family, **{**sizes, **heads, "tie_word_embeddings": tied, **more})
    make: Any = transformers.AutoModelForCausalLM
    model = make.from_config(config, attn_implementation="sdpa")
    randomise(model, seed)
    return model


TOKENS = torch.arange(24).reshape(2, 12) * 7 % 61


def rows_of(heads: Sequence[int], size: int = 4) -> tuple[int, ...]:
    """The features of some heads."""
    return tuple(size * head + place for head in heads for place in range(size))


def llama_cut(
    parent: nn.Module,
    groups: Sequence[Sequence[int]] = ((0, 2), (1, 2)),
    channels: Sequence[Sequence[int]] = (range(16), (1, 4, 23)),
    *,
    prefix: str = "model.layers.{}.",
    first: int = 0,
    **changed: Any,
) -> Pruned:
    """For each block the key and value heads that stay, with their three query heads each, and the MLP channels.

    `changed` replaces the index lists of a matrix of the first block, such as `o_proj=(None, …)`.
    """
    axes: dict[str, Any] = {}
    kept: list[tuple[str, Kind, int, Sequence[int]]] = []
    parameters = sum(p.numel() for p in parent.parameters())
    for block, (stay, mlp) in enumerate(zip(groups, channels, strict=True)):
        place = prefix.format(first + block)
        queries = rows_of([3 * group + head for group in stay for head in range(3)])
        lists: dict[str, Any] = {
            "self_attn.q_proj": (queries, None),
            "self_attn.k_proj": (rows_of(stay), None),
            "self_attn.v_proj": (rows_of(stay), None),
            "self_attn.o_proj": (None, queries),
            "mlp.gate_proj": (tuple(mlp), None),
            "mlp.up_proj": (tuple(mlp), None),
            "mlp.down_proj": (None, tuple(mlp)),
        }
        if block == 0:
            lists = {name: changed.get(name.partition(".")[2], each) for name, each in lists.items()}
        axes |= {f"{place}{name}.weight": each for name, each in lists.items()}
        biased = [n for n in lists if f"{place}{n}.bias" in parent.state_dict() and lists[n][0] is not None]
        axes |= {f"{place}{name}.bias": (lists[name][0],) for name in biased}
        kept.append((f"{place}self_attn", "kv_groups", 3, tuple(stay)))
        kept.append((f"{place}mlp", "mlp_channels", 24, tuple(mlp)))
        gone = 3 - len(stay)
        parameters -= gone * (36 * (12 + 12 + 4 + 4) + len(biased) // 3 * (12 + 4 + 4)) + (24 - len(mlp)) * 36 * 3
    return pruned_of(parent, axes, plan_of(parent, kept, parameters))
