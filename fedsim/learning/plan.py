"""A slice of a model as something that can be trained: shapes of what it sends, and costs of what it does.

Knows no torch: it is made from a `ModelMeasure`, the same with learning on and off.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np

from fedsim.costs import Cost, OpClass, Operator, Phase, total
from fedsim.learning.bundles import VARIANT, Bundle, prefix
from fedsim.learning.optimizers import Training
from fedsim.models.generation import Decoding
from fedsim.models.measure import (
    LinearOperator,
    ModelMeasure,
    UnitMeasure,
    backward_cost,
    forward_cost,
    retained_bytes,
)
from fedsim.payload.codecs import PLAIN
from fedsim.payload.meta import ITEM_BYTES, Shape, TensorMeta
from fedsim.payload.supports import WHOLE, Support, covered
from fedsim.payload.windows import Windows
from fedsim.script import Part, Purpose

MODEL: Final = "model"
DEVICE: Final = "device"
SERVER_BLOCK: Final = "server"

HEAD_LOSS: Final = "aux_loss"
"""Unit that the operators of an auxiliary head's loss are counted under."""


def _named(operators: Iterable[LinearOperator]) -> tuple[LinearOperator, ...]:
    return tuple(replace(operator, unit=HEAD_LOSS) for operator in operators)


def _state(units: Iterable[UnitMeasure]) -> tuple[Shape, ...]:
    """Parameters, then buffers: the order in which a block's weights lie and travel."""
    units = tuple(units)
    return (*(s for unit in units for s in unit.parameters), *(s for unit in units for s in unit.buffers))


def _with_zeros(unit: UnitMeasure, support: Support) -> UnitMeasure:
    """A unit whose forward operators say which share of their weights masks leave out."""
    share = {name: 1 - np.count_nonzero(mask) / mask.size for name, mask in support.masks.items()}
    return replace(unit, forward=tuple(replace(op, sparsity=float(share.get(op.weight, 0.0))) for op in unit.forward))


def optimizer_kernels(
    units: Iterable[UnitMeasure], values: Iterable[int], dtype: str, macs: int = 0
) -> tuple[Operator, ...]:
    """Kernels over all parameters of `units`, each of which reads or writes so many values a parameter."""
    shapes = [shape for unit in units for shape in unit.parameters]
    nbytes = sum(shape.elements for shape in shapes) * ITEM_BYTES[dtype]
    kinds = OpClass.OPTIMIZER, Phase.OPTIMIZER
    return tuple(Operator(*kinds, macs, each * nbytes, tensors=len(shapes)) for each in values)


class BlockPlan:
    """Units `first` up to, not including, `last` of a model, with an auxiliary head behind them where there is one.

    Costs and metas are made once a batch size, so that the same batch gives the same object.

    Args:
        name: what it is called on a host: `model`, `device` or `server`.
        model: the whole model, measured.
        first: index of the first unit.
        last: index behind the last unit.
        training: how it is trained.
        head: the auxiliary head that gives it a loss of its own, measured; trained, sent and averaged with it.
        support: what of its parent's tensors it has, where the model is a pruned one. Shapes are those of `model`.
        decoding: what it costs token by token, of a language model that is to answer.
        prefix: of the names that its tensors have in a bundle, where it is a member of one.
        bundle: models that are its weights in the place of the one whose costs it has.
        windows: what it has of its parent's tensors round by round, where that moves; `support` is that of the first.
    """

    def __init__(
        self,
        name: str,
        model: ModelMeasure,
        first: int,
        last: int,
        training: Training,
        head: ModelMeasure | None = None,
        support: Support = WHOLE,
        decoding: Decoding | None = None,
        prefix: str = "",
        bundle: Bundle | None = None,
        windows: Windows | None = None,
    ) -> None:
        trunk, ends = model.units[first:last], () if head is None else head.units
        if support.masks:
            trunk = tuple(_with_zeros(unit, support) for unit in trunk)
        self.name = name
        self.trunk = len(trunk)
        """Number of its units that belong to the model; the head's follow."""
        self.units = (*trunk, *ends)
        self.model = model
        self.raw_input = first == 0
        self.has_head = head is not None
        self.has_loss = head is not None or last == len(model.units)
        self.training = training
        self.support = support if bundle is None else bundle.support
        self.decoding = decoding
        self.prefix = prefix
        self.bundle = bundle
        self.windows = windows
        self._input = model.input if first == 0 else model.units[first - 1].output
        loss = model if head is None else head
        self._loss_forward = loss.loss_forward if head is None else _named(head.loss_forward)
        self._loss_backward = loss.loss_backward if head is None else _named(head.loss_backward)
        self._loss_retained = loss.loss_retained
        self.weights = self._weights("weights", _state(self.units))
        """What all its weights weigh on a link; `state_bytes` is what a node holds of them."""
        self.block = self.weights if head is None else self._weights("block", _state(trunk))
        """The weights without the head's."""
        self.head = self._weights("head", _state(ends))
        """The head's weights alone; nothing, where there is no head."""
        self.parameters = self._weights("parameters", (s for unit in self.units for s in unit.parameters))
        """What is trained of the weights: control variates have its shapes."""
        self.trainable = sum(unit.trainable for unit in self.units) if bundle is None else bundle.trainable
        self.draws = any(unit.draws for unit in self.units)
        """Whether training it takes random numbers."""
        # Bound methods behind a cache keep this object alive as long as the cache, which is their own attribute.
        self.train_part = cache(self._train_part)
        self.forward_part = cache(self._forward_part)
        self.backward_part = cache(self._backward_part)
        self.infer_part = cache(self._infer_part)
        self.answer_parts = cache(self._answer_parts)
        self.gradient_part = cache(self._gradient_part)
        self.estimate_part = cache(self._estimate_part)
        self.activations = cache(self._activations)
        self.gradients = cache(self._gradients)
        self.covered_by = cache(self._covered_by)

    def _weights(self, part: str, shapes: Iterable[Shape]) -> TensorMeta:
        if self.bundle is not None:
            return self.bundle.meta(part)
        codecs = self.training.codecs
        codec = PLAIN if self.name == SERVER_BLOCK else codecs.weights  # the server block travels nowhere
        shapes = tuple(shapes)
        support = self.support.part(shape.name for shape in shapes)
        if support.whole and not self.prefix:
            return TensorMeta(Purpose.WEIGHTS, shapes, codec)
        shapes = tuple(replace(shape, kept=support.kept(shape.name)) for shape in shapes)
        digest = support.digest
        if self.prefix:  # two members of a bundle are two models, whatever they have of their parent
            digest = hashlib.sha256(f"{self.prefix} {digest}".encode()).hexdigest()
        return TensorMeta(Purpose.WEIGHTS, shapes, codec, digest)

    @property
    def state_bytes(self) -> int:
        """Bytes of the weights where they are trained, averaged or kept."""
        return self.weights.memory_bytes

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate depends on the round."""
        return getattr(self.training.optimizer, "schedule", None) is not None

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
        output = self.units[self.trunk - 1].output
        shape = Shape("z", (batch, *output), self.model.dtype)
        return TensorMeta(Purpose.ACTIVATIONS, (shape,), self.training.codecs.activations)

    def _gradients(self, batch: int) -> TensorMeta:
        shape = Shape("g", (batch, *self._input), self.model.dtype)
        return TensorMeta(Purpose.GRADIENTS, (shape,), self.training.codecs.gradients)

    def labels(self, batch: int) -> TensorMeta:
        """The labels of `batch` samples; one a sample, or one a position for text."""
        return TensorMeta(Purpose.LABELS, (Shape("y", (batch, *self.model.units[-1].output[:-1]), "int64"),))

    def input_bytes(self, batch: int) -> int:
        """Bytes of `batch` inputs: of raw data, or of activations."""
        return self.model.input_bytes(batch) if self.raw_input else self._gradients(batch).memory_bytes

    def _cost(self, operators: Iterable[Operator], batch: int) -> Cost:
        return Cost(tuple(operators), batch, self.model.name)

    def _forward(self, batch: int) -> Cost:
        return forward_cost(self.units, batch, self.model.name)

    def _backward(self, batch: int, *, to_input: bool) -> Cost:
        return backward_cost(self.units, batch, to_input=to_input, model=self.model.name)

    def loss_cost(self, batch: int) -> Cost:
        """Of the loss on `batch` outputs, forward and backward."""
        return self._cost((op.at(batch) for op in (*self._loss_forward, *self._loss_backward)), batch)

    def _kernels(self, values: Iterable[int], macs: int = 0) -> tuple[Operator, ...]:
        """Kernels over all parameters, each of which reads or writes so many values a parameter."""
        return optimizer_kernels(self.units, values, self.model.dtype, macs)

    def _step(self, batch: int) -> Cost:
        return self._cost(self._kernels(self.training.optimizer.kernels), batch)

    def _training_memory(self, batch: int, *, to_input: bool) -> int:
        """Bytes of a whole step: the inputs, the labels, and what the backward needs of the forward."""
        kept = retained_bytes(self.units, batch, to_input=to_input, loss=self._loss_retained)
        return self.input_bytes(batch) + self.labels(batch).nbytes + kept

    def _train_part(self, batch: int, *, to_input: bool | None = None, pulled: bool = False) -> Part:
        """Forward, loss, backward and optimizer step of a block that has a loss.

        Args:
            batch: samples.
            to_input: whether the gradient of its input is wanted as well; by default that of activations is.
            pulled: whether the gradients are bent: a difference, and then that added, one MAC each parameter.
        """
        assert self.has_loss
        wanted = not self.raw_input if to_input is None else to_input
        steps = [self._forward(batch), self.loss_cost(batch), self._backward(batch, to_input=wanted)]
        if pulled:
            bend = (*self._kernels((3,)), *self._kernels((3,), macs=self.trainable))
            steps.append(self._cost(bend, batch))
        steps.append(self._step(batch))
        return Part("step", total(steps), batch, self._training_memory(batch, to_input=wanted))

    def _gradient_part(self, batch: int) -> Part:
        """Forward, loss and backward as far as the input, without an optimizer step."""
        assert self.has_loss
        cost = total((self._forward(batch), self.loss_cost(batch), self._backward(batch, to_input=True)))
        return Part("gradient", cost, batch, self._training_memory(batch, to_input=True))

    def _estimate_part(self, batch: int) -> Part:
        """A step of the block alone, by the gradient that the head, which is not trained, gives at its activations."""
        trunk, ends, dtype = self.units[: self.trunk], self.units[self.trunk :], self.model.dtype
        operators = [op.at(batch) for unit in ends for op in unit.backward_frozen]
        operators += backward_cost(trunk, batch, to_input=not self.raw_input).operators
        operators += optimizer_kernels(trunk, self.training.optimizer.kernels, dtype)
        cost = total((self._forward(batch), self.loss_cost(batch), self._cost(operators, batch)))
        return Part("step", cost, batch, self._training_memory(batch, to_input=not self.raw_input))

    def _infer_part(self, batch: int) -> Part:
        """Forward through the block without its head and without a backward to come: two neighbours are in memory."""
        trunk = self.units[: self.trunk]
        sizes = [self.input_bytes(batch)]
        sizes += [batch * math.prod(unit.output) * ITEM_BYTES[self.model.dtype] for unit in trunk]
        memory = max(before + after for before, after in pairwise(sizes))
        return Part("infer", forward_cost(trunk, batch, self.model.name), memory=memory)

    def _answer_parts(self, batch: int, tokens: int) -> tuple[Part, ...]:
        """Answering a request: a forward or, to give new tokens, a prompt and then a token at a time.

        What generated a token is in memory until the next: a prompt's forward gives the first.
        """
        if not tokens:
            return (self._infer_part(batch),)
        decoding = self.decoding
        assert decoding is not None, "tokens of a model that was not measured token by token"
        first = Part("prefill", decoding.prefill(batch), memory=decoding.prefill_memory(batch))
        lengths = range(decoding.length + 1, decoding.length + tokens)
        rest = (Part("decode", decoding.step(batch, n), memory=decoding.step_memory(batch, n)) for n in lengths)
        return (first, *rest)

    def _kept(self, batch: int, *, input_bytes: int = 0) -> int:
        """Bytes that lie between a forward and its backward; the output is held for it to begin at."""
        to_input = not self.raw_input
        return retained_bytes(self.units, batch, to_input=to_input, input_bytes=input_bytes, output_held=True)

    def _forward_part(self, batch: int) -> Part:
        """Forward alone. What its backward will need stays, the inputs with it where they are needed."""
        arrived = self.input_bytes(batch)
        memory = arrived + self._kept(batch)
        return Part("forward", self._forward(batch), memory=memory, keeps=self._kept(batch, input_bytes=arrived))

    def _backward_part(self, batch: int, *, step: bool = True) -> Part:
        """Backward from a given output gradient, and maybe the optimizer step; frees what the forward left."""
        kept = self._kept(batch, input_bytes=self.input_bytes(batch))
        cost = self._backward(batch, to_input=not self.raw_input)
        if step:
            cost = cost + self._step(batch)
        return Part("backward", cost, batch, memory=self._activations(batch).memory_bytes, keeps=-kept)

    def _covered_by(self, supports: tuple[Support, ...]) -> float | None:
        """The share of its parameters, a head's among them, that variants of these supports have together."""
        return covered(supports, {shape.name: shape.shape for shape in self.parameters.shapes})

    def average_part(self, members: int, trainable: int | None = None) -> Part:
        """Putting `members` models of this block together: one MAC a parameter and member.

        `trainable` is the number of parameters, where not all of the block's take part.
        """
        item, count = ITEM_BYTES[self.model.dtype], self.trainable if trainable is None else trainable
        operator = Operator(OpClass.COPY, Phase.AGGREGATE, members * count, (members + 1) * count * item)
        return Part("aggregate", Cost((operator,)))


def plans(
    model: ModelMeasure,
    cut: int | None,
    training: Training,
    head: ModelMeasure | None = None,
    support: Support = WHOLE,
    decoding: Decoding | None = None,
    bundle: Bundle | None = None,
) -> dict[str, BlockPlan]:
    """The blocks that scripts may hold: the whole model or, with a cut, the device and the server block.

    A `head` stands behind the device block. The `support` says what a pruned model has of its parent's. The whole model
    may answer token by token. A `bundle` takes the place of what devices hold.
    """
    count = len(model.units)
    if cut is None:
        return {MODEL: BlockPlan(MODEL, model, 0, count, training, support=support, decoding=decoding, bundle=bundle)}
    return {
        DEVICE: BlockPlan(DEVICE, model, 0, cut, training, head, support, bundle=bundle),
        SERVER_BLOCK: BlockPlan(SERVER_BLOCK, model, cut, count, training, support=support),
    }


def variant_plan(
    number: int,
    model: ModelMeasure,
    cut: int | None,
    training: Training,
    head: ModelMeasure | None = None,
    support: Support = WHOLE,
    decoding: Decoding | None = None,
    *,
    apart: bool = False,
    windows: Windows | None = None,
) -> BlockPlan:
    """What devices of a pruned variant hold: the smaller of `plans`' first block, under a name of its own.

    Args:
        number: the variant's, from 1.
        model: the variant, measured; its server block is nobody's.
        support: what it has of the model that all variants are parts of.
        decoding: what it costs token by token, where it is to answer.
        apart: whether it is a model of its own, rather than a part of one.
        windows: what it has of the model round by round, where that moves.
    """
    last = len(model.units) if cut is None else cut
    name = f"{MODEL if cut is None else DEVICE}{VARIANT}{number}"
    own = None if cut is None else head
    named = prefix(number) if apart else ""
    return BlockPlan(name, model, 0, last, training, own, support, decoding, named, windows=windows)
