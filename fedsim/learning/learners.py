"""Handles on what a node learns: scripts hold these, never tensors.

A method that computes returns a `Work` to be awaited. `load`, `weights`, `clone` and `close` take no time: they are
queued behind everything the node has been told before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import ScriptError
from fedsim.learning.plan import BlockPlan
from fedsim.payload.codecs import Codec
from fedsim.payload.meta import TensorMeta
from fedsim.script import Command, Payload, Port, Work

WeightPart = Literal["weights", "block", "head", "parameters"]
"""All weights of a block; without its head; the head's alone; or the trained parameters, without buffers."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples `start` to `start + size` of a node's own order of epoch `epoch`."""

    epoch: int
    start: int
    size: int


class Node:
    """Numbers learners and payloads of one node and queues its commands."""

    __slots__ = ("_learners", "_payloads", "number", "port")

    def __init__(self, port: Port) -> None:
        self.port = port
        self.number = port.node
        self._learners = 0
        self._payloads = 0

    def learner(self) -> int:
        """A fresh learner number."""
        self._learners += 1
        return self._learners

    def payload(self, meta: TensorMeta) -> Payload:
        """A fresh handle for tensors that a command of this node will make."""
        self._payloads += 1
        return Payload(self.number, self._payloads, meta)

    def command(
        self, learner: int, method: str, *args: object, output: Payload | None = None, holds: int = 0
    ) -> Command:
        """A command of this node, after which it holds `holds` bytes more."""
        return Command(self.number, learner, method, args, output, holds)

    def queue(self, learner: int, method: str, *args: object, output: Payload | None = None, holds: int = 0) -> None:
        """Queue a command that takes no time."""
        self.port.command(self.command(learner, method, *args, output=output, holds=holds))


@dataclass(frozen=True, slots=True)
class Proximal:
    """A term ½·mu·‖w − anchor‖² of the loss, which holds parameters near those of `anchor` (FedProx)."""

    anchor: Payload
    mu: float


@dataclass(frozen=True, slots=True)
class Controlled:
    """Gradients corrected by the server's control variate less the device's own (SCAFFOLD): g + c − c_k."""

    control: Payload


Pull = Proximal | Controlled
"""What bends the gradients of a local step."""


class Learner:
    """A block's weights and optimizer state on one node.

    Opened with the block's initial weights, unless `load` gives it others before it computes. It counts as holding its
    weights from `load` on, and gradients and optimizer state as well once it computes, until it is closed.
    """

    __slots__ = ("_beside", "_control", "_held", "_kept", "_node", "_residue", "_round", "number", "plan")

    def __init__(self, node: Node, plan: BlockPlan) -> None:
        self._node = node
        self._held = self._kept = self._residue = self._beside = 0
        self._control = 0  # bytes of the device's control variate, once it has one
        self._round = 0
        self.plan = plan
        self.number = node.learner()
        node.queue(self.number, "open", plan.name)

    def _holding(self, nbytes: int) -> int:
        """How many bytes more this learner holds if it holds `nbytes` from now on."""
        more, self._held = nbytes - self._held, nbytes
        return more

    def _computing(self) -> int:
        self._kept = self.plan.kept_bytes + self._control  # there is optimizer state from now on
        return self._holding(self.plan.state_bytes + self.plan.warm_bytes + self._control)

    # -------------------------------------------------------------------------------- what takes no time

    def load(self, weights: Payload, round: int | None = None, *, keep: Sequence[Payload] = ()) -> None:
        """Take over `weights`; the optimizer starts afresh unless the scenario keeps its state.

        Weights of the block without its head, or of the head alone, leave the rest as it is. `round` is the one that
        the weights belong to, by which the learning rate is scheduled. What is to `keep` counts as held until the
        learner is closed: payloads that later steps are compared with.

        Raises:
            ScriptError: the weights are not what this learner has of the model.
        """
        if weights.meta not in (self.plan.weights, self.plan.block, self.plan.head):
            raise ScriptError(
                f"node {self._node.number} was given weights of {weights.nbytes} bytes, but its {self.plan.name} has "
                f"{self.plan.weights.nbytes}; devices may hold pruned variants of the model, so send each of them "
                "me.fit(weights, device)"
            )
        holds = self._holding(max(self._held, self.plan.state_bytes + self._kept)) - self._beside
        self._beside = sum(meta_of(payload).memory_bytes for payload in keep)
        self._node.queue(self.number, "load", weights, holds=holds + self._beside)
        if round is not None:
            self.pace(round)

    def adopt(self, head: Payload) -> None:
        """Take over a head, and go on with everything else as it is, the optimizer's state included."""
        self._node.queue(self.number, "adopt", head)

    def pace(self, round: int) -> None:
        """Train at the learning rate of `round` from now on."""
        self._round = round
        if self.plan.scheduled:
            self._node.queue(self.number, "pace", round)

    def weights(self, part: WeightPart = "weights") -> Payload:
        """The weights as they are at this place in the queue; of `part` of them, `block` being all but the head."""
        payload = self._node.payload(getattr(self.plan, part))
        self._node.queue(self.number, "weights", part, output=payload)
        return payload

    def take(self, part: WeightPart = "weights") -> Payload:
        """The weights, or a part of them, after which the learner is closed."""
        payload = self.weights(part)
        self.close()
        return payload

    def change(self, since: Payload) -> Payload:
        """How far the parameters have moved from those of `since`; buffers as they are now."""
        payload = self._node.payload(self.plan.weights)
        self._node.queue(self.number, "change", since, output=payload)
        return payload

    def renew_control(self, control: Payload, since: Payload, steps: int) -> Payload:
        """How far this device's control variate moves by the round that ends here, of `steps` steps (SCAFFOLD).

        c_k⁺ − c_k = (w_t − w_k)/(H·lr) − c, with w_t the weights `since` and c the server's `control`. The device keeps
        c_k⁺, through rounds that it sits out. At a learning rate of 0 nothing has been learnt, and c_k stays.
        """
        change = self._node.payload(self.plan.parameters)
        rate = self.plan.training.optimizer.rate(self._round)
        if rate:
            args = (control, since, 1 / (steps * rate))
            self._node.queue(self.number, "control.renew", *args, output=change)
        else:
            self._node.queue(self.number, "control.zeros", self.plan.name, output=change)
        return change

    def clone(self) -> Learner:
        """Another learner of this node with the same weights and a fresh optimizer."""
        other = Learner(self._node, self.plan)
        self._node.queue(other.number, "copy", self.number)
        return other

    def close(self) -> None:
        """Drop the weights (and the optimizer state, unless the scenario keeps it); `load` opens it again."""
        holds, self._beside = self._holding(self._kept) - self._beside, 0
        self._node.queue(self.number, "close", holds=holds)

    def labels(self, batch: Batch) -> Payload:
        """The labels of a batch, as they travel beside its activations."""
        y = self._node.payload(self.plan.labels(batch.size))
        self._node.queue(self.number, "labels", batch, output=y)
        return y

    # --------------------------------------------------------------------------- whole steps on own data

    def train(self, batches: Sequence[Batch], pull: Pull | None = None) -> Work[None]:
        """A local step on each batch, one after the other, as one work with a span a step."""
        parts = tuple(self.plan.train_part(batch.size, pulled=pull is not None) for batch in batches)
        args = (tuple(batches),) if pull is None else (tuple(batches), pull)
        if isinstance(pull, Controlled):
            self._control = meta_of(pull.control).memory_bytes
        return Work(self._node.command(self.number, "train", *args, holds=self._computing()), parts, None)

    def local_step(self, batch: Batch) -> Work[Payload]:
        """A step on a batch through the block and its head; answers with the activations of its forward."""
        z = self._node.payload(self.plan.activations(batch.size))
        command = self._node.command(self.number, "local_step", batch, output=z, holds=self._computing())
        return Work(command, (self.plan.train_part(batch.size),), z)

    def estimated_step(self, batch: Batch) -> Work[Payload]:
        """A step of the block alone on a batch, by the gradient that its head, which is not trained, gives.

        Answers with the activations of its forward.
        """
        z = self._node.payload(self.plan.activations(batch.size))
        command = self._node.command(self.number, "estimated_step", batch, output=z, holds=self._computing())
        return Work(command, (self.plan.estimate_part(batch.size),), z)

    def infer(
        self,
        batch: Batch,
        mode: Literal["eval", "train"] = "eval",
        augment: int | None = None,
        codec: Codec | None = None,
    ) -> Work[Payload]:
        """Activations of a batch that nobody will send a gradient for; changes nothing.

        In mode `train` normalisation goes by the batch and dropout drops, as in a step. With a number to `augment` by,
        images are shifted and mirrored at random, each number in its own way. They travel in the scenario's codec,
        unless one is given.
        """
        meta = self.plan.activations(batch.size)
        z = self._node.payload(meta if codec is None else replace(meta, codec=codec))
        command = self._node.command(self.number, "infer", batch, mode, augment, output=z)
        return Work(command, (self.plan.infer_part(batch.size),), z)

    def answer(self, batch: Batch, tokens: int = 0) -> Work[None]:
        """Answer a request: a forward of a batch or, with `tokens`, so many new ones behind each prompt.

        A prompt is the beginning of a sample, as long as leaves room for them. Nothing is held but the weights.
        """
        parts = self.plan.answer_parts(batch.size, tokens)
        return Work(self._node.command(self.number, "answer", batch, tokens), parts, None)

    # --------------------------------------------------------------------- steps together with the server

    def forward(self, batch: Batch, tag: int = 0) -> Work[Payload]:
        """Activations of a batch; what `backward` with the same tag needs is kept."""
        z = self._node.payload(self.plan.activations(batch.size))
        command = self._node.command(self.number, "forward", batch, tag, output=z, holds=self._computing())
        part = self.plan.forward_part(batch.size)
        self._residue += part.keeps
        return Work(command, (part,), z)

    def backward(self, gradient: Payload, tag: int = 0, *, step: bool = True) -> Work[None]:
        """Back-propagate a gradient of the activations of `forward(…, tag)`, and take an optimizer step.

        Without a `step`, gradients add up until there is one.
        """
        part = self.plan.backward_part(batch_size(gradient), step=step)
        self._residue += part.keeps
        return Work(self._node.command(self.number, "backward", gradient, tag, step), (part,), None)

    def abandon(self) -> None:
        """Forget every forward whose backward has not come, and the gradients that have been added up."""
        self._node.queue(self.number, "abandon", holds=-self._residue)
        self._residue = 0

    # ------------------------------------------------------------------------------ steps on activations

    def train_step(self, activations: Payload, labels: Payload) -> Work[Payload]:
        """One step on activations; answers with the loss gradient at them, from before the step."""
        size = batch_size(activations)
        gradient = self._node.payload(self.plan.gradients(size))
        holds = self._computing()
        command = self._node.command(self.number, "train_step", activations, labels, output=gradient, holds=holds)
        return Work(command, (self.plan.train_part(size),), gradient)

    def step(self, activations: Payload, labels: Payload) -> Work[None]:
        """One step on activations whose gradient nobody wants."""
        command = self._node.command(self.number, "step", activations, labels, holds=self._computing())
        return Work(command, (self.plan.train_part(batch_size(activations), to_input=False),), None)

    def step_from(self, pool: int, rows: NDArray[np.int64]) -> Work[None]:
        """One step on rows of the pool with this number."""
        command = self._node.command(self.number, "pool.step", pool, rows, holds=self._computing())
        return Work(command, (self.plan.train_part(len(rows), to_input=False),), None)

    def accumulate(
        self, activations: Payload, labels: Payload, scale: float = 1.0, *, step: bool = False
    ) -> Work[Payload]:
        """The gradient of `scale` times the loss at activations; that of the weights adds up until a `step`."""
        size = batch_size(activations)
        gradient = self._node.payload(self.plan.gradients(size))
        args, holds = (activations, labels, scale, step), self._computing()
        command = self._node.command(self.number, "accumulate", *args, output=gradient, holds=holds)
        part = self.plan.train_part(size) if step else self.plan.gradient_part(size)
        return Work(command, (part,), gradient)

    def gradient(self, activations: Payload, labels: Payload, shares: Sequence[float] = ()) -> Work[Payload]:
        """The loss gradient at activations, and nothing else: no step is taken, and no running statistics are kept.

        With the `shares` of labels in the data that these are of, the loss is that of logits + log(shares): a label
        that is common there counts for less (Menon et al., arXiv 2007.07314).
        """
        size = batch_size(activations)
        gradient, args = self._node.payload(self.plan.gradients(size)), (activations, labels, tuple(shares))
        command = self._node.command(self.number, "gradient", *args, output=gradient, holds=self._computing())
        return Work(command, (replace(self.plan.gradient_part(size), samples=0),), gradient)


def batch_size(payload: Payload) -> int:
    """Samples behind a payload of activations, gradients or labels."""
    return meta_of(payload).shapes[0].shape[0]


def meta_of(payload: Payload) -> TensorMeta:
    """What is known of a payload's tensors."""
    assert isinstance(payload.meta, TensorMeta)
    return payload.meta
