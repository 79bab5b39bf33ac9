"""Observations: works of networks with what they cost and how long they took. Plain data; no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedsim.costs import Cost


class Part(StrEnum):
    """What was timed of a training step."""

    FORWARD = "forward"
    GRADIENTS = "forward + backward"
    """With the loss between them."""
    OPTIMIZER = "optimizer"


@dataclass(frozen=True, slots=True)
class Observation:
    """One part of the training steps of one network at one batch size."""

    network: str
    batch: int
    part: Part
    optimizer: str
    """Name of the optimizer that took the steps."""
    cost: Cost
    seconds: float
    scatter: float = 0.0
    """How far the repeats lie from one another, as `timing.Timing` has it."""
    repeats: int = 1
