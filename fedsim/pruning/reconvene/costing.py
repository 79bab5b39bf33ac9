"""What a cut model needs in memory and time on a device, by the cost model: counted, priced, never timed.

The parent's skeleton on the `meta` device is given the shapes of the cut and measured as any model is; a forward is
priced by the machine, training memory is weights, gradients, optimizer state and what a batch leaves for the backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedsim.errors import UserError
from fedsim.hardware import pricing
from fedsim.hardware.machines import Machine
from fedsim.models.measure import forward_cost, retained_bytes
from fedsim.models.sides import Known, forward_side, memory_side
from fedsim.models.units import UnitList
from fedsim.payload.meta import ITEM_BYTES
from fedsim.pruning.reconvene.coupling import Coupling
from fedsim.pruning.reconvene.tracing import Ints
from fedsim.pruning.resizing import resize


@dataclass(frozen=True, kw_only=True)
class Costing:
    """The circumstances that memory and latency are computed for."""

    machine: Machine | None = None
    """The device, as a fleet has it; without one there is no latency."""
    batch: int = 16
    """Samples of a training batch, for memory."""
    forward_batch: int = 1
    """Samples of the forward that latency is of."""
    slots: int = 0
    """Values of optimizer state a parameter: 1 for SGD with momentum, 2 for AdamW."""
    units: int | None = None
    """How many of the first units the device has; None for all, and the loss behind them."""
    whole: int | None = None
    """Bytes of training of the model as it is, with what no cut changes: an auxiliary head, what goes to a server and
    back. Left out, the device has nothing but the model."""
    needs: Callable[[UnitList], int] | None = None
    """Bytes that the device needs for a model that it does not train; left out, it does."""

    def of(self, model: nn.Module, coupling: Coupling) -> Costed:
        """This for one model.

        Raises:
            UserError: it is no unit list.
        """
        if not isinstance(model, UnitList):
            raise UserError(f"memory and latency are computed for unit lists, not for a {type(model).__name__}")
        return Costed(self, model, coupling)


class Costed:
    """Memory and latency by how many units each set keeps."""

    def __init__(self, costing: Costing, model: UnitList, coupling: Coupling) -> None:
        self._costing, self._coupling = costing, coupling
        self._skeleton = deepcopy(model).to("meta")
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self._forwards: Known = {}
        self._kept: Known = {}
        # Activations that leave keep their width, so whatever is not counted here is the same for every cut.
        self._fixed = 0.0 if costing.whole is None else costing.whole - self._counted(self._smaller(coupling.units))

    def memory(self, kept: Ints) -> float:
        """Bytes of training on the device, or of what else it does with the model."""
        needs, smaller = self._costing.needs, self._smaller(kept)
        return self._fixed + self._counted(smaller) if needs is None else needs(smaller)

    def _counted(self, smaller: UnitList) -> float:
        """Of a step of training, without what is the same for every cut."""
        costing = self._costing
        units, end = memory_side(smaller, costing.batch, self._kept)
        units = units[: costing.units]
        item = ITEM_BYTES[smaller.dtype]
        held = sum(unit.state_bytes for unit in units)
        warm = sum(unit.trainable for unit in units) * item * (1 + costing.slots)
        sample = math.prod(smaller.input) * (ITEM_BYTES["int64"] if smaller.tokens else item)
        batch = costing.batch * (sample + ITEM_BYTES["int64"])
        loss = end if costing.units is None else None
        return float(held + warm + batch + retained_bytes(units, costing.batch, to_input=False, loss=loss))

    def latency(self, kept: Ints) -> float:
        """Seconds of a forward on the device.

        Raises:
            UserError: there is no device, or its profile cannot price a forward.
        """
        costing = self._costing
        if costing.machine is None:
            raise UserError("budget.latency needs a device profile to be computed with; name one")
        smaller = self._smaller(kept)
        units = forward_side(smaller, self._forwards)[: costing.units]
        return pricing.seconds(costing.machine, forward_cost(units, costing.forward_batch, smaller.name))

    def _smaller(self, kept: Ints) -> UnitList:
        """The shapes of the model whose sets keep so many units."""
        support = self._coupling.support([np.arange(count) for count in kept.tolist()])
        smaller = deepcopy(self._skeleton)
        with torch.device("meta"):
            resize(smaller, {name: support.shape(name, shape) for name, shape in self._shapes.items()})
        return smaller
