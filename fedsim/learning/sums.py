"""Handles on what becomes of many models: means, mixtures and sums of changes. Scripts hold these, never tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from fedsim.learning.learners import Node, WeightPart
from fedsim.learning.plan import BlockPlan
from fedsim.payload.meta import TensorMeta
from fedsim.script import Part, Payload, Work


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

    __slots__ = ("_members", "_meta", "_node", "_number", "_plan", "_uniform")

    def __init__(
        self,
        node: Node,
        plan: BlockPlan,
        expected: Iterable[int],
        weighting: Literal["samples", "uniform"],
        part: WeightPart = "weights",
    ) -> None:
        self._node = node
        self._plan = plan
        self._meta: TensorMeta = getattr(plan, part)
        self._number = node.learner()
        self._members = 0
        self._uniform = weighting == "uniform"
        node.queue(self._number, "mean.open", plan.name, part, tuple(sorted(expected)))

    def add(self, message: Contribution) -> None:
        """Take in a contribution."""
        self.put(message.sender, message.weights, message.samples)

    def put(self, member: int, weights: Payload, samples: int) -> None:
        """Take in the weights of one expected member."""
        holds = 0 if self._members else self._meta.memory_bytes  # the sum
        self._members += 1
        self._node.queue(self._number, "mean.add", member, weights, 1 if self._uniform else samples, holds=holds)

    @property
    def members(self) -> int:
        """How many have been taken in."""
        return self._members

    def result(self) -> Work[Payload]:
        """The mean over those that came; there must be at least one."""
        assert self._members, "a mean of nothing"
        payload = self._node.payload(self._meta)
        holds = -self._meta.memory_bytes  # it takes the place of the global model
        command = self._node.command(self._number, "mean.result", output=payload, holds=holds)
        return Work(command, (averaging(self._plan, self._meta, self._members),), payload)


class Changes:
    """A weighted sum of changes of a block's weights, which come as `Learner.change` makes them.

    Parameters hold differences, which are added up; real-valued buffers hold values, which are averaged with the same
    weights; integer buffers take the largest value. The sum moves the global model when it is applied, and begins
    anew; a server momentum lives on from one application to the next.
    """

    __slots__ = ("_moving", "_node", "_number", "_plan", "members", "total")

    def __init__(self, node: Node, plan: BlockPlan) -> None:
        self._node = node
        self._plan = plan
        self._number = node.learner()
        self._moving = False
        self.members = 0
        """How many changes are in the sum."""
        self.total = 0.0
        """The sum of their weights."""
        node.queue(self._number, "changes.open", plan.name)

    def add(self, change: Payload, weight: float) -> None:
        """Take one in."""
        holds = 0 if self.members else self._plan.state_bytes
        self.members += 1
        self.total += weight
        self._node.queue(self._number, "changes.add", change, weight, holds=holds)

    def applied(self, model: Payload, *, rate: float, denominator: float, momentum: float = 0.0) -> Work[Payload]:
        """`model` moved by `rate` times the sum over `denominator`, through `momentum`; the sum begins anew."""
        assert self.members, "a sum of nothing"
        payload = self._node.payload(self._plan.weights)
        args = (model, rate, denominator, momentum)
        holds = -self._plan.state_bytes
        if momentum and not self._moving:
            self._moving, holds = True, 0  # a velocity stays
        command = self._node.command(self._number, "changes.apply", *args, output=payload, holds=holds)
        part = self._plan.average_part(self.members + 1)
        self.members, self.total = 0, 0.0
        return Work(command, (part,), payload)


def averaging(plan: BlockPlan, meta: TensorMeta, members: int) -> Part:
    """What it costs to put `members` of a block's weights, or of a part of them, together."""
    if meta == plan.weights:
        return plan.average_part(members)
    trained = {shape.name for shape in plan.parameters.shapes}
    return plan.average_part(members, sum(shape.elements for shape in meta.shapes if shape.name in trained))


class Combining:
    """Ways to make one model of two. Each is a work of about two MACs a parameter."""

    __slots__ = ("_node", "_number", "_plans")

    def __init__(self, node: Node, plans: Iterable[BlockPlan]) -> None:
        self._node = node
        self._plans = tuple(plans)
        self._number = node.learner()

    def _work(self, method: str, one: Payload, other: Payload, factor: float) -> Work[Payload]:
        meta = one.meta
        assert isinstance(meta, TensorMeta) and meta == other.meta, "weights of two blocks"
        plan = next(p for p in self._plans if meta in (p.weights, p.block, p.head, p.parameters))
        made = self._node.payload(meta)
        command = self._node.command(self._number, method, one, other, factor, output=made)
        return Work(command, (averaging(plan, meta, 2),), made)

    def mix(self, one: Payload, other: Payload, weight: float) -> Work[Payload]:
        """(1 − weight)·one + weight·other, buffers alike; integer buffers take the larger value."""
        return self._work("mix", one, other, weight)

    def toward(self, one: Payload, other: Payload, rate: float) -> Work[Payload]:
        """one + rate·(other − one) for parameters, whatever the rate; buffers are those of `other`."""
        return self._work("toward", one, other, rate)

    def shift(self, one: Payload, other: Payload, factor: float) -> Work[Payload]:
        """one + factor·other, of parameters without buffers."""
        return self._work("shift", one, other, factor)

    def zeros(self, plan: BlockPlan) -> Payload:
        """Zeros in the shapes of a block's parameters."""
        made = self._node.payload(plan.parameters)
        self._node.queue(self._number, "control.zeros", plan.name, output=made)
        return made

    def part(self, plan: BlockPlan, weights: Payload, part: WeightPart) -> Payload:
        """A part of a block's weights."""
        made = self._node.payload(getattr(plan, part))
        self._node.queue(self._number, "part", weights, plan.name, part, output=made)
        return made
