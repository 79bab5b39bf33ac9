"""A slice of a model as something that can be trained: shapes of what it sends, and costs of what it does.

Knows no torch: it is made from a `ModelMeasure`, the same with learning on and off.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from fedsim.costs import Cost, OpClass, Operator, Phase, total
from fedsim.learning.optimizers import Training
from fedsim.models.measure import ModelMeasure, backward_cost, forward_cost, retained_bytes
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

    def input_bytes(self, batch: int) -> int:
        """Bytes of `batch` inputs: of raw data, or of activations."""
        return self.model.input_bytes(batch) if self.raw_input else self.gradients(batch).nbytes

    def _forward(self, batch: int) -> Cost:
        return forward_cost(self.units, batch, self.model.name)

    def _backward(self, batch: int) -> Cost:
        return backward_cost(self.units, batch, to_input=not self.raw_input, model=self.model.name)

    def _step(self, batch: int) -> Cost:
        tensors = sum(len(unit.parameters) for unit in self.units)
        kernels = tuple(
            Operator(OpClass.OPTIMIZER, Phase.OPTIMIZER, 0, values * self._value_bytes, tensors=tensors)
            for values in self.training.optimizer.kernels
        )
        return Cost(kernels, batch, self.model.name)

    def _train_part(self, batch: int) -> Part:
        """Forward, loss, backward and optimizer step of a block that holds the loss.

        In memory meanwhile: the inputs, the labels, and what the backward needs of the forward.
        """
        assert self.has_loss
        loss = tuple(op.at(batch) for op in (*self.model.loss_forward, *self.model.loss_backward))
        steps = (self._forward(batch), Cost(loss, batch, self.model.name), self._backward(batch), self._step(batch))
        kept = retained_bytes(self.units, batch, to_input=not self.raw_input, loss=self.model.loss_retained)
        memory = self.input_bytes(batch) + self.labels(batch).nbytes + kept
        return Part("step", total(steps), batch, memory)

    def _kept(self, batch: int, *, input_bytes: int = 0) -> int:
        """Bytes that lie between a forward and its backward; the output is held for it to begin at."""
        to_input = not self.raw_input
        return retained_bytes(self.units, batch, to_input=to_input, input_bytes=input_bytes, output_held=True)

    def _forward_part(self, batch: int) -> Part:
        """Forward alone. What its backward will need stays, the inputs with it where they are needed."""
        arrived = self.input_bytes(batch)
        memory = arrived + self._kept(batch)
        return Part("forward", self._forward(batch), memory=memory, keeps=self._kept(batch, input_bytes=arrived))

    def _backward_part(self, batch: int) -> Part:
        """Backward from a given output gradient, and the optimizer step; frees what the forward left."""
        kept = self._kept(batch, input_bytes=self.input_bytes(batch))
        cost = self._backward(batch) + self._step(batch)
        return Part("backward", cost, batch, memory=self.activations(batch).nbytes, keeps=-kept)

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
