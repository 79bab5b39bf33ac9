"""A slice of a model as something that can be trained: shapes of what it sends, and costs of what it does.

Knows no torch: it is made from a `ModelMeasure`, the same with learning on and off.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from fedsim.costs import Cost, OpClass, Operator, Phase, total
from fedsim.learning.optimizers import Training
from fedsim.models.measure import ModelMeasure, backward_cost, forward_cost
from fedsim.payload.meta import ITEM_BYTES, Shape, TensorMeta
from fedsim.script import Part, Purpose

MODEL: Final = "model"
DEVICE: Final = "device"
SERVER_BLOCK: Final = "server"


class BlockPlan:
    """Units `first` up to, not including, `last` of a model.

    Costs and metas are made once a batch size, so that the same batch gives the same object.
    """

    def __init__(self, name: str, model: ModelMeasure, first: int, last: int, training: Training) -> None:
        self.name = name
        self.units = model.units[first:last]
        self.model = model
        self.raw_input = first == 0
        self.has_loss = last == len(model.units)
        self.training = training
        self._input = model.input if first == 0 else model.units[first - 1].output
        shapes = [s for unit in self.units for s in unit.parameters]
        shapes += [s for unit in self.units for s in unit.buffers]
        self.weights = TensorMeta(Purpose.WEIGHTS, tuple(shapes))
        self.trainable = sum(unit.trainable for unit in self.units)
        self.draws = any(unit.draws for unit in self.units)
        """Whether training it takes random numbers."""
        # Bound methods behind a cache keep this object alive as long as the cache, which is their own attribute.
        self.train_part = cache(self._train_part)
        self.forward_part = cache(self._forward_part)
        self.backward_part = cache(self._backward_part)
        self.activations = cache(self._activations)
        self.gradients = cache(self._gradients)

    @property
    def warm_bytes(self) -> int:
        """Bytes that training holds beside the weights: a gradient and the optimizer's state for each parameter."""
        return self._value_bytes * (1 + self.training.optimizer.slots)

    @property
    def kept_bytes(self) -> int:
        """Bytes of optimizer state that outlive the weights, where the scenario keeps it."""
        return self._value_bytes * self.training.optimizer.slots if self.training.keep_optimizer_state else 0

    @property
    def _value_bytes(self) -> int:
        return self.trainable * ITEM_BYTES[self.model.dtype]

    def _activations(self, batch: int) -> TensorMeta:
        return TensorMeta(Purpose.ACTIVATIONS, (Shape("z", (batch, *self.units[-1].output), self.model.dtype),))

    def _gradients(self, batch: int) -> TensorMeta:
        return TensorMeta(Purpose.GRADIENTS, (Shape("g", (batch, *self._input), self.model.dtype),))

    def labels(self, batch: int) -> TensorMeta:
        """The labels of `batch` samples; one a sample, or one a position for text."""
        return TensorMeta(Purpose.LABELS, (Shape("y", (batch, *self.model.units[-1].output[:-1]), "int64"),))

    def _step(self) -> Cost:
        moved = self.trainable * ITEM_BYTES[self.model.dtype] * self.training.optimizer.passes
        return Cost((Operator(OpClass.OPTIMIZER, Phase.OPTIMIZER, 0, moved),))

    def _train_part(self, batch: int) -> Part:
        """Forward, loss, backward and optimizer step of a block that holds the loss."""
        assert self.has_loss
        loss = Cost(tuple(op.at(batch) for op in (*self.model.loss_forward, *self.model.loss_backward)))
        forward = forward_cost(self.units, batch)
        backward = backward_cost(self.units, batch, to_input=not self.raw_input)
        return Part("step", total((forward, loss, backward, self._step())), batch)

    def _forward_part(self, batch: int) -> Part:
        return Part("forward", forward_cost(self.units, batch))

    def _backward_part(self, batch: int) -> Part:
        """Backward from a given output gradient, and the optimizer step."""
        backward = backward_cost(self.units, batch, to_input=not self.raw_input)
        return Part("backward", backward + self._step(), batch)

    def average_part(self, members: int) -> Part:
        """Averaging `members` models of this block: one MAC a parameter and member."""
        item = ITEM_BYTES[self.model.dtype]
        operator = Operator(
            OpClass.COPY, Phase.AGGREGATE, members * self.trainable, (members + 1) * self.trainable * item
        )
        return Part("aggregate", Cost((operator,)))


def plans(model: ModelMeasure, cut: int | None, training: Training) -> dict[str, BlockPlan]:
    """The blocks that scripts may hold: the whole model or, with a cut, the device and the server block."""
    count = len(model.units)
    if cut is None:
        return {MODEL: BlockPlan(MODEL, model, 0, count, training)}
    return {
        DEVICE: BlockPlan(DEVICE, model, 0, cut, training),
        SERVER_BLOCK: BlockPlan(SERVER_BLOCK, model, cut, count, training),
    }
