"""Handles on what a node learns: scripts hold these, never tensors.

A method that computes returns a `Work` to be awaited. `load`, `weights`, `clone` and `close` take no time: they are
queued behind everything the node has been told before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fedsim.learning.plan import BlockPlan
from fedsim.payload.meta import TensorMeta
from fedsim.script import Command, Payload, Port, Work


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


class Learner:
    """A block's weights and optimizer state on one node.

    Opened with the block's initial weights, unless `load` gives it others before it computes. It counts as holding its
    weights from `load` on, and gradients and optimizer state as well once it computes, until it is closed.
    """

    __slots__ = ("_held", "_kept", "_node", "number", "plan")

    def __init__(self, node: Node, plan: BlockPlan) -> None:
        self._node = node
        self._held = self._kept = 0
        self.plan = plan
        self.number = node.learner()
        node.queue(self.number, "open", plan.name)

    def _holding(self, nbytes: int) -> int:
        """How many bytes more this learner holds if it holds `nbytes` from now on."""
        more, self._held = nbytes - self._held, nbytes
        return more

    def _computing(self) -> int:
        self._kept = self.plan.kept_bytes  # there is optimizer state from now on
        return self._holding(self.plan.weights.nbytes + self.plan.warm_bytes)

    def load(self, weights: Payload) -> None:
        """Take over `weights`; the optimizer starts afresh unless the scenario keeps its state."""
        holds = self._holding(max(self._held, self.plan.weights.nbytes + self._kept))
        self._node.queue(self.number, "load", weights, holds=holds)

    def weights(self) -> Payload:
        """The weights as they are at this place in the queue."""
        payload = self._node.payload(self.plan.weights)
        self._node.queue(self.number, "weights", output=payload)
        return payload

    def take(self) -> Payload:
        """The weights, after which the learner is closed."""
        payload = self.weights()
        self.close()
        return payload

    def clone(self) -> Learner:
        """Another learner of this node with the same weights and a fresh optimizer."""
        other = Learner(self._node, self.plan)
        self._node.queue(other.number, "copy", self.number)
        return other

    def close(self) -> None:
        """Drop the weights (and the optimizer state, unless the scenario keeps it); `load` opens it again."""
        self._node.queue(self.number, "close", holds=self._holding(self._kept))

    def train(self, batches: Sequence[Batch]) -> Work[None]:
        """A local step on each batch, one after the other, as one work with a span a step."""
        parts = tuple(self.plan.train_part(batch.size) for batch in batches)
        return Work(self._node.command(self.number, "train", tuple(batches), holds=self._computing()), parts, None)

    def forward(self, batch: Batch, tag: int = 0) -> Work[Payload]:
        """Activations of a batch; what `backward` with the same tag needs is kept."""
        z = self._node.payload(self.plan.activations(batch.size))
        command = self._node.command(self.number, "forward", batch, tag, output=z, holds=self._computing())
        return Work(command, (self.plan.forward_part(batch.size),), z)

    def labels(self, batch: Batch) -> Payload:
        """The labels of a batch, as they travel beside its activations."""
        y = self._node.payload(self.plan.labels(batch.size))
        self._node.queue(self.number, "labels", batch, output=y)
        return y

    def backward(self, gradient: Payload, tag: int = 0) -> Work[None]:
        """Back-propagate a gradient of the activations of `forward(…, tag)` and take an optimizer step."""
        part = self.plan.backward_part(_batch_size(gradient))
        return Work(self._node.command(self.number, "backward", gradient, tag), (part,), None)

    def train_step(self, activations: Payload, labels: Payload) -> Work[Payload]:
        """One step on activations; answers with the loss gradient at them, from before the step."""
        size = _batch_size(activations)
        gradient = self._node.payload(self.plan.gradients(size))
        holds = self._computing()
        command = self._node.command(self.number, "train_step", activations, labels, output=gradient, holds=holds)
        return Work(command, (self.plan.train_part(size),), gradient)


def _batch_size(payload: Payload) -> int:
    meta = payload.meta
    assert isinstance(meta, TensorMeta)
    return meta.shapes[0].shape[0]


class Contribution(Protocol):
    """A message that brings weights trained on a number of samples."""

    @property
    def sender(self) -> int:
        """The device it comes from."""
        ...

    @property
    def weights(self) -> Payload:
        """What was trained."""
        ...

    @property
    def samples(self) -> int:
        """On how many samples."""
        ...


class Mean:
    """A weighted mean of a block's weights that is summed up as its members come in.

    One summation tree, whatever the order of arrival and the number of workers: members by node number in runs of
    eight, left to right inside a run, runs added in order. Real-valued tensors are averaged; integer buffers take
    the largest value.
    """

    __slots__ = ("_members", "_node", "_number", "_plan", "_uniform")

    def __init__(
        self, node: Node, plan: BlockPlan, expected: Iterable[int], weighting: Literal["samples", "uniform"]
    ) -> None:
        self._node = node
        self._plan = plan
        self._number = node.learner()
        self._members = 0
        self._uniform = weighting == "uniform"
        node.queue(self._number, "mean.open", plan.name, tuple(sorted(expected)))

    def add(self, message: Contribution) -> None:
        """Take in a contribution."""
        self.put(message.sender, message.weights, message.samples)

    def put(self, member: int, weights: Payload, samples: int) -> None:
        """Take in the weights of one expected member."""
        holds = 0 if self._members else self._plan.weights.nbytes  # the sum
        self._members += 1
        self._node.queue(self._number, "mean.add", member, weights, 1 if self._uniform else samples, holds=holds)

    @property
    def members(self) -> int:
        """How many have been taken in."""
        return self._members

    def result(self) -> Work[Payload]:
        """The mean over those that came; there must be at least one."""
        assert self._members, "a mean of nothing"
        payload = self._node.payload(self._plan.weights)
        holds = -self._plan.weights.nbytes  # it takes the place of the global model
        command = self._node.command(self._number, "mean.result", output=payload, holds=holds)
        return Work(command, (self._plan.average_part(self._members),), payload)
