"""Optimizers by name, with their options, how their learning rate goes, and what they cost. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fedsim.payload.codecs import Codecs


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate goes from round to round, the first of which is round 0."""

    kind: Literal["constant", "step", "exponential", "cosine"] = "constant"
    """`step` multiplies it by `factor` once in `every` rounds, `exponential` in each; `cosine` takes `rounds` rounds
    down to `floor` and stays there."""
    factor: float | None = None
    """For step and exponential."""
    every: int | None = None
    """For step: rounds at the same rate."""
    rounds: int | None = None
    """For cosine."""
    floor: float = 0.0
    """The least that it comes to."""
    warmup: int = 0
    """Rounds before all this, in which it rises evenly to where the schedule begins."""

    def __post_init__(self) -> None:
        kinds = {"factor": ("step", "exponential"), "every": ("step",), "rounds": ("cosine",)}
        examples = {"factor": 0.99, "every": 10, "rounds": 100}
        for name, takers in kinds.items():
            value = getattr(self, name)
            if value is None and self.kind in takers:
                raise ValueError(f"kind {self.kind} needs {name}; add it, as in '{name}: {examples[name]}'")
            if value is not None and self.kind not in takers:
                raise ValueError(f"{name} is for kind {' and '.join(takers)}, not for {self.kind}; leave it out")
        if self.factor is not None and not 0 < self.factor <= 1:
            raise ValueError(f"factor {self.factor} must be above 0 and at most 1, such as 0.99")
        for name, value, least in (("every", self.every, 1), ("rounds", self.rounds, 1), ("warmup", self.warmup, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name} {value} must be {least} or more, such as 10")
        if not self.floor >= 0:
            raise ValueError(f"floor {self.floor} must be 0 or more, such as 0.001")
        if self.floor and self.kind == "constant":
            raise ValueError("floor is for kinds that go down, not for constant; leave it out")

    def rate(self, lr: float, round: int) -> float:
        """The learning rate of a round, where `lr` is that of the optimizer."""
        if round < self.warmup:
            return lr * (round + 1) / (self.warmup + 1)
        return max(self.floor, self._rate(lr, round - self.warmup))

    def _rate(self, lr: float, round: int) -> float:
        match self.kind:
            case "constant":
                return lr
            case "step":
                assert self.factor is not None and self.every is not None
                return float(lr * self.factor ** (round // self.every))
            case "exponential":
                assert self.factor is not None
                return float(lr * self.factor**round)
            case "cosine":
                assert self.rounds is not None
                left = (1 + math.cos(math.pi * min(round / self.rounds, 1))) / 2
                return lr * left + self.floor * (1 - left)


def _check(optimizer: Sgd | AdamW) -> None:
    if not optimizer.lr > 0:
        raise ValueError(f"lr {optimizer.lr} must be greater than 0, such as 0.05")
    if optimizer.weight_decay < 0:
        raise ValueError(f"weight_decay {optimizer.weight_decay} must be 0 or more")
    if optimizer.clip is not None and not optimizer.clip > 0:
        raise ValueError(f"clip {optimizer.clip} must be greater than 0, such as 1.0; leave it out for none")
    if optimizer.schedule is not None and optimizer.schedule.floor > optimizer.lr:
        raise ValueError(f"schedule.floor {optimizer.schedule.floor} must be at most lr {optimizer.lr}")


_CLIPPED: Final = (1, 2)
"""Kernels of clipping, as in `Sgd.kernels`: gradients are read for their norm, then scaled."""


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent."""

    lr: float = 0.05
    """Learning rate."""
    momentum: float = 0.0
    """Momentum; 0 keeps no state."""
    weight_decay: float = 0.0
    """L2 penalty."""
    clip: float | None = None
    """The largest norm of a step's gradients, over all of a block; larger ones are scaled down to it. Null: none."""
    schedule: Schedule | None = None
    """How the learning rate goes from round to round; null: it stays."""

    def __post_init__(self) -> None:
        _check(self)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} must be at least 0 and below 1")

    def rate(self, round: int) -> float:
        """The learning rate of a round."""
        return self.lr if self.schedule is None else self.schedule.rate(self.lr, round)

    @property
    def slots(self) -> int:
        """Values of state a parameter."""
        return 1 if self.momentum else 0

    @property
    def kernels(self) -> tuple[int, ...]:
        """What a step runs over each parameter: values of its size that each kernel reads or writes.

        Plain, one fused kernel; with momentum, PyTorch's `foreach`: decay, scale the momentum, add the gradient, step.
        """
        step: tuple[int, ...] = (3,)
        if self.momentum:
            step = (3, 2, 3, 3) if self.weight_decay else (2, 3, 3)
        return step if self.clip is None else (*_CLIPPED, *step)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    lr: float = 0.001
    """Learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    clip: float | None = None
    """The largest norm of a step's gradients, as of sgd; null: none."""
    schedule: Schedule | None = None
    """How the learning rate goes from round to round; null: it stays."""

    def __post_init__(self) -> None:
        _check(self)

    def rate(self, round: int) -> float:
        """The learning rate of a round."""
        return self.lr if self.schedule is None else self.schedule.rate(self.lr, round)

    slots = 2

    @property
    def kernels(self) -> tuple[int, ...]:
        """As `Sgd.kernels`: decay, first moment, second moment (two), its root, corrections (two), the step."""
        step = (2, 3, 2, 3, 2, 2, 2, 4)
        return step if self.clip is None else (*_CLIPPED, *step)


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
