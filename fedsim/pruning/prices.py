"""Seconds of a forward on a device, by the cost model of its profile: counted from shapes and priced, never timed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from fedsim.hardware import pricing
from fedsim.hardware.machines import Machine
from fedsim.models.counting import measure
from fedsim.models.measure import forward_cost
from fedsim.models.units import UnitList
from fedsim.models.zoo.llama import apart
from fedsim.pruning.manifest import Base, ObjectBase
from fedsim.pruning.resizing import resize
from fedsim.pruning.skeletons import skeleton


def forward_seconds(machine: Machine, module: nn.Module, base: Base, length: int, *, batch: int = 1) -> float:
    """Of `batch` samples, or sequences of `length` tokens.

    Args:
        base: what network its parent is.

    Raises:
        UserError: the profile cannot price a forward.
    """
    units = _outline(module, base, length)
    return pricing.seconds(machine, forward_cost(measure(units).units, batch, units.name))


def _outline(module: nn.Module, base: Base, length: int) -> UnitList:
    """The network as units, of shapes only where its kind is known."""
    if isinstance(base, ObjectBase):
        assert isinstance(module, UnitList), "whole models are of transformers"
        return deepcopy(module)  # the user's own may not do without values
    outline: Any = skeleton(base, device="meta")
    resize(outline, {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
    if isinstance(outline, UnitList):
        return outline
    with torch.device("meta"):
        return apart(outline, length)
