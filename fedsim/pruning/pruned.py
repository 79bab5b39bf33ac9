"""What pruning gives: a smaller module, and which of its parent's coordinates it has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fedsim.errors import FedsimError
from fedsim.payload.supports import Support
from fedsim.pruning.plans import Plan


class PruningError(FedsimError):
    """A pruned model is not what its plan says; names the layer. Nothing is written."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A smaller model."""

    module: nn.Module
    """With the parent's parameter names and its own shapes; shares no memory with the parent."""
    plan: Plan
    support: Support
    """In the coordinates of the parent's `state_dict`; its masks come with the unstructured step."""
    updated: tuple[str, ...] = ()
    """Tensors whose values compensate for what was removed, so that they are no longer the parent's."""
    reinitialised: tuple[str, ...] = ()
    """Modules with new initial values."""
    realised: Mapping[str, Any] = field(default_factory=dict)
    """What the method reports of its steps, as JSON takes it: realised sparsity by matrix, repaired layers, ..."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""


def fingerprint(model: nn.Module) -> str:
    """A hash of a model's parameters and buffers: names, shapes, types and values, in hexadecimal digits."""
    made = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        made.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        made.update(values)
    return made.hexdigest()
