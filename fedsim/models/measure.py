"""What a model costs, unit by unit: shapes, parameters, operators. Plain data, made by `counting`; no torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.payload.meta import ITEM_BYTES, Shape


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity that is `fixed + each * batch`."""

    fixed: int = 0
    each: int = 0

    def at(self, batch: int) -> int:
        """Its value at one batch size."""
        return self.fixed + self.each * batch


@dataclass(frozen=True, slots=True)
class LinearOperator:
    """An operator whose MACs and bytes are `fixed + each * batch`. `unit` names the unit it belongs to.

    `weight` names the parameter that a forward one multiplies by, if it does, and `sparsity` is the share of its zeros.
    """

    kind: OpClass
    phase: Phase
    macs_each: int
    bytes_fixed: int
    bytes_each: int
    forward_macs_each: int = 0
    unit: str = ""
    macs_fixed: int = 0
    weight: str = ""
    sparsity: float = 0.0

    def at(self, batch: int) -> Operator:
        """The operator at one batch size."""
        return Operator(
            self.kind,
            self.phase,
            self.macs_fixed + self.macs_each * batch,
            self.bytes_fixed + self.bytes_each * batch,
            forward_macs=self.forward_macs_each * batch,
            unit=self.unit,
            sparsity=self.sparsity,
        )


@dataclass(frozen=True, slots=True)
class Retained:
    """Memory that autograd keeps of a unit between its forward and its backward.

    The unit's input and output are memory that it shares with its neighbours, so they are told apart from the rest.
    """

    between: Line = Line()
    """Bytes of what is neither input nor output, nor a weight or buffer; each block of memory once."""
    keeps_input: bool = False
    """Whether its backward needs the memory of its input."""
    keeps_output: bool = False
    """Whether its backward needs the memory of its output."""
    output: Line | None = Line()
    """Bytes of the memory that its output lies in; None where that is its input's, as of a view."""


@dataclass(frozen=True, slots=True)
class UnitMeasure:
    """One unit of a model: the only places where it may be cut are after units.

    `backward` propagates to the unit's input; `backward_first` does not, as for the first unit of a block whose
    input is raw data; `backward_frozen` does nothing else, and is counted for units of auxiliary heads only. Shapes are
    without the batch axis.
    """

    name: str
    output: tuple[int, ...]
    parameters: tuple[Shape, ...]
    buffers: tuple[Shape, ...]
    forward: tuple[LinearOperator, ...]
    backward: tuple[LinearOperator, ...]
    backward_first: tuple[LinearOperator, ...]
    backward_frozen: tuple[LinearOperator, ...] = ()
    draws: bool = False
    """Whether a training forward takes random numbers, as dropout does."""
    retained: Retained = Retained()
    """What its backward needs, where that goes on to the unit's input."""
    retained_first: Retained = Retained()
    """The same, where the unit's input needs no gradient."""

    @property
    def macs(self) -> int:
        """Forward MACs that each sample adds."""
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
    loss_retained: Retained = Retained()
    input_dtype: str = "float32"

    @property
    def macs(self) -> int:
        """Forward MACs that each sample adds."""
        return sum(unit.macs for unit in self.units)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(unit.trainable for unit in self.units)

    def activation_bytes(self, unit: int) -> int:
        """Bytes of one sample's activations after the first `unit` units."""
        return math.prod(self.units[unit - 1].output) * ITEM_BYTES[self.dtype]

    def input_bytes(self, batch: int) -> int:
        """Bytes of a batch of raw inputs."""
        return batch * math.prod(self.input) * ITEM_BYTES[self.input_dtype]


def forward_cost(units: Sequence[UnitMeasure], batch: int, model: str = "") -> Cost:
    """Cost of one forward pass through `units` of `model`."""
    return Cost(tuple(op.at(batch) for unit in units for op in unit.forward), batch, model)


def backward_cost(units: Sequence[UnitMeasure], batch: int, *, to_input: bool, model: str = "") -> Cost:
    """Cost of one backward pass; `to_input` asks for the gradient of the first unit's input as well.

    Without it, the first unit that has parameters is the last to be reached.
    """
    operators: list[Operator] = []
    for unit in units:
        operators += [op.at(batch) for op in (unit.backward if to_input else unit.backward_first)]
        to_input = to_input or bool(unit.parameters)
    return Cost(tuple(operators), batch, model)


def retained_bytes(
    units: Sequence[UnitMeasure],
    batch: int,
    *,
    to_input: bool,
    input_bytes: int = 0,
    loss: Retained | None = None,
    output_held: bool = False,
) -> int:
    """Bytes that training keeps between a forward through `units` and the backward, beside weights and buffers.

    Between two units lies one block of memory, kept if either of them needs it. Exact from two samples on, in PyTorch's
    default memory layout: with axes of one sample PyTorch takes a view for a copy here and there, and with the channels
    last it copies where maps are flattened (3 % of VGG-5).

    Args:
        to_input: whether the backward goes on to the first unit's input.
        input_bytes: bytes of the first unit's input at this batch size; counted where a unit needs it. Leave it out
            where the input is in memory anyway.
        loss: what the loss keeps, where it follows.
        output_held: whether somebody holds the last output, as one does who waits for its gradient.
    """
    total, boundary, needed = 0, input_bytes, False
    steps = []
    for unit in units:
        steps.append(unit.retained if to_input else unit.retained_first)
        to_input = to_input or bool(unit.parameters)
    for step in steps if loss is None else (*steps, loss):
        total += step.between.at(batch)
        needed = needed or step.keeps_input
        if step.output is not None:  # the memory before this step is complete
            total += boundary if needed else 0
            boundary, needed = step.output.at(batch), step.keeps_output
    return total + (boundary if needed or output_held else 0)
