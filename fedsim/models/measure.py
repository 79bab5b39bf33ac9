"""What a model costs, unit by unit: shapes, parameters, operators. Plain data, made by `counting`; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.payload.meta import ITEM_BYTES, Shape


@dataclass(frozen=True, slots=True)
class LinearOperator:
    """An operator whose MACs and bytes are `fixed + each * batch`."""

    kind: OpClass
    phase: Phase
    macs_each: int
    bytes_fixed: int
    bytes_each: int
    forward_macs_each: int = 0

    def at(self, batch: int) -> Operator:
        """The operator at one batch size."""
        return Operator(
            self.kind,
            self.phase,
            self.macs_each * batch,
            self.bytes_fixed + self.bytes_each * batch,
            forward_macs=self.forward_macs_each * batch,
        )


@dataclass(frozen=True, slots=True)
class UnitMeasure:
    """One unit of a model: the only places where it may be cut are after units.

    `backward` propagates to the unit's input; `backward_first` does not, as for the first unit of a block whose
    input is raw data. Shapes are without the batch axis.
    """

    name: str
    output: tuple[int, ...]
    parameters: tuple[Shape, ...]
    buffers: tuple[Shape, ...]
    forward: tuple[LinearOperator, ...]
    backward: tuple[LinearOperator, ...]
    backward_first: tuple[LinearOperator, ...]
    draws: bool = False
    """Whether a training forward takes random numbers, as dropout does."""

    @property
    def macs(self) -> int:
        """Forward MACs per sample."""
        return sum(op.macs_each for op in self.forward)

    @property
    def trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(shape.elements for shape in self.parameters)

    @property
    def state_bytes(self) -> int:
        """Bytes of parameters and buffers: what travels when the unit is sent."""
        return sum(shape.nbytes for shape in (*self.parameters, *self.buffers))


@dataclass(frozen=True)
class ModelMeasure:
    """A whole model: its units in order, and the loss on its output."""

    name: str
    input: tuple[int, ...]
    classes: int
    dtype: str
    units: tuple[UnitMeasure, ...]
    loss_forward: tuple[LinearOperator, ...]
    loss_backward: tuple[LinearOperator, ...]

    @property
    def macs(self) -> int:
        """Forward MACs per sample."""
        return sum(unit.macs for unit in self.units)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(unit.trainable for unit in self.units)

    def activation_bytes(self, unit: int) -> int:
        """Bytes of one sample's activations after the first `unit` units."""
        elements = 1
        for size in self.units[unit - 1].output:
            elements *= size
        return elements * ITEM_BYTES[self.dtype]


def forward_cost(units: Sequence[UnitMeasure], batch: int) -> Cost:
    """Cost of one forward pass through `units`."""
    return Cost(tuple(op.at(batch) for unit in units for op in unit.forward))


def backward_cost(units: Sequence[UnitMeasure], batch: int, *, to_input: bool) -> Cost:
    """Cost of one backward pass; `to_input` asks for the gradient of the first unit's input as well.

    Without it, the first unit that has parameters is the last to be reached.
    """
    operators: list[Operator] = []
    for unit in units:
        operators += [op.at(batch) for op in (unit.backward if to_input else unit.backward_first)]
        to_input = to_input or bool(unit.parameters)
    return Cost(tuple(operators))
