"""Optimizers by name, with their options and what they cost. No torch here; `host` makes the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fedsim.payload.codecs import Codecs


def _check(lr: float, weight_decay: float) -> None:
    if not lr > 0:
        raise ValueError(f"lr {lr} must be greater than 0, such as 0.05")
    if weight_decay < 0:
        raise ValueError(f"weight_decay {weight_decay} must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent."""

    lr: float = 0.05
    """Learning rate."""
    momentum: float = 0.0
    """Momentum; 0 keeps no state."""
    weight_decay: float = 0.0
    """L2 penalty."""

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} must be at least 0 and below 1")

    @property
    def slots(self) -> int:
        """Values of state a parameter."""
        return 1 if self.momentum else 0

    @property
    def kernels(self) -> tuple[int, ...]:
        """What a step runs over each parameter: values of its size that each kernel reads or writes.

        Plain, one fused kernel; with momentum, PyTorch's `foreach`: decay, scale the momentum, add the gradient, step.
        """
        if not self.momentum:
            return (3,)
        return (3, 2, 3, 3) if self.weight_decay else (2, 3, 3)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    lr: float = 0.001
    """Learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay)

    slots = 2
    kernels = (2, 3, 2, 3, 2, 2, 2, 4)
    """As `Sgd.kernels`: decay, first moment, second moment (two), its root, corrections (two), the step."""


Optimizer = Sgd | AdamW

OPTIMIZERS: Final[Mapping[str, type[Any]]] = {"sgd": Sgd, "adamw": AdamW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How blocks are trained, everywhere alike."""

    batch: int
    optimizer: Optimizer
    keep_optimizer_state: bool = False
    channels_last: bool = True
    drop_last: bool = False
    """Whether a pass leaves its last batch out where that is not full."""
    codecs: Codecs = field(default_factory=Codecs)
    """How what blocks make is written for the link."""
