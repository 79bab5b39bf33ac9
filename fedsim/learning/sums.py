"""Handles on what becomes of many models: means, mixtures and sums of changes. Scripts hold these, never tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol, get_args

from fedsim.costs import total
from fedsim.errors import ScriptError
from fedsim.learning.bundles import VARIANT
from fedsim.learning.learners import Node, WeightPart, meta_of
from fedsim.learning.plan import BlockPlan
from fedsim.learning.rolling import Rolling
from fedsim.payload.meta import TensorMeta
from fedsim.payload.supports import WHOLE
from fedsim.script import Part, Payload, Work

PARTS: Final = 10
LONGEST: Final = 8


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

    One summation tree, whatever the order of arrival and the number of workers: members by node number in runs (see
    `run_length`), left to right inside a run, runs added in order. Real-valued tensors are averaged; integer buffers
    take the largest value.

    Members that hold pruned variants are summed up by variant. Each coordinate is then the mean over the members that
    have it (HeteroFL, arXiv 2010.01264, with any channels in the place of leading ones); what no member has stays as it
    is in `base`.

    Args:
        node: whoever sums up.
        plan: the block whose weights they are, or are variants of.
        expected: the members that may come.
        weighting: what a member counts.
        part: the weights, or a part of them.
        variants: what members may have in the place of the whole block.
        base: see above; may be left out where there are no variants.
        rolling: which window variants have, where these move; all members are of one round.

    Raises:
        ScriptError: there are variants, and no base.
    """

    __slots__ = ("_came", "_meta", "_node", "_number", "_part", "_plans", "_rolling", "_uniform")

    def __init__(
        self,
        node: Node,
        plan: BlockPlan,
        expected: Iterable[int],
        weighting: Literal["samples", "uniform"],
        part: WeightPart = "weights",
        *,
        variants: Iterable[BlockPlan] = (),
        base: Payload | None = None,
        rolling: Rolling | None = None,
    ) -> None:
        self._node = node
        self._rolling = rolling
        self._part: WeightPart = part
        self._meta: TensorMeta = getattr(plan, part)
        self._number = node.learner()
        self._came: Counter[TensorMeta] = Counter()
        self._uniform = weighting == "uniform"
        self._plans = {self._meta: plan}
        for variant in variants:
            self._plans.setdefault(getattr(variant, part), variant)
        if len(self._plans) > 1 and base is None:
            raise ScriptError(
                "devices hold pruned variants of the model, and a mean of these needs base=, the weights that stay "
                "where no variant of a round has a coordinate: me.mean(expected=chosen, base=w)"
            )
        names = tuple(each.name for each in self._plans.values())
        node.queue(self._number, "mean.open", names, part, tuple(sorted(expected)), base)

    def add(self, message: Contribution) -> None:
        """Take in a contribution."""
        self.put(message.sender, message.weights, message.samples)

    def put(self, member: int, weights: Payload, samples: int) -> None:
        """Take in the weights of one expected member."""
        meta = meta_of(weights)
        assert meta in self._plans, f"weights of another block from member {member}"
        holds = 0 if meta in self._came else meta.memory_bytes  # the sum
        self._came[meta] += 1
        self._node.queue(self._number, "mean.add", member, weights, 1 if self._uniform else samples, holds=holds)

    @property
    def members(self) -> int:
        """How many have been taken in."""
        return self._came.total()

    def result(self) -> Work[Payload]:
        """The mean over those that came; there must be at least one."""
        assert self._came, "a mean of nothing"
        payload = self._node.payload(self._meta)
        # It takes the place of the global model; the sums of all variants are gone.
        holds = -sum(meta.memory_bytes for meta in self._came)
        window = () if self._rolling is None else (self._rolling.round,)
        command = self._node.command(self._number, "mean.result", *window, output=payload, holds=holds)
        parts = [averaging(self._plans[meta], meta, count) for meta, count in self._came.items()]
        if len(self._plans) > 1 and self._part in ("weights", "block"):
            share = self._coverage()
            if share is not None:
                self._node.port.mark("covered", share)
        return Work(command, (_together(parts),), payload)

    def _coverage(self) -> float | None:
        """The share of the trained parameters that at least one of those that came has, where that is known."""
        whole = next(iter(self._plans.values()))
        held = [self._plans[meta] for meta in self._came]
        if whole.bundle is not None:
            return whole.bundle.share(held)
        if self._rolling is not None:
            share, reached = self._rolling.shares(held)
            self._node.port.mark("reached", reached)
            return share
        return whole.covered_by(tuple(WHOLE if plan is whole else plan.support for plan in held))


class Changes:
    """A weighted sum of changes of a block's weights, which come as `Learner.change` makes them.

    Parameters hold differences, which are added up; real-valued buffers hold values, which are averaged with the same
    weights; integer buffers take the largest value. The sum moves the global model when it is applied, and begins
    anew; a server momentum lives on from one application to the next.

    Where changes are of pruned variants, a coordinate that only some of them have moves as if the others had changed it
    like these.
    """

    __slots__ = ("_came", "_moving", "_node", "_number", "_plan", "_plans", "members", "total")

    def __init__(self, node: Node, plan: BlockPlan, variants: Iterable[BlockPlan] = ()) -> None:
        self._node = node
        self._plan = plan
        self._plans = {variant.weights: variant for variant in (*variants, plan)}
        self._came: Counter[TensorMeta] = Counter()
        self._number = node.learner()
        self._moving = False
        self.members = 0
        """How many changes are in the sum."""
        self.total = 0.0
        """The sum of their weights."""
        node.queue(self._number, "changes.open", plan.name)

    def add(self, change: Payload, weight: float) -> None:
        """Take one in."""
        meta = meta_of(change)
        holds = 0 if meta in self._came else meta.memory_bytes  # the sum
        self._came[meta] += 1
        self.members += 1
        self.total += weight
        self._node.queue(self._number, "changes.add", change, weight, holds=holds)

    def applied(self, model: Payload, *, rate: float, denominator: float, momentum: float = 0.0) -> Work[Payload]:
        """`model` moved by `rate` times the sum over `denominator`, through `momentum`; the sum begins anew."""
        assert self.members, "a sum of nothing"
        payload = self._node.payload(self._plan.weights)
        args = (model, rate, denominator, momentum)
        holds = -sum(meta.memory_bytes for meta in self._came)
        if momentum and not self._moving:
            self._moving = True
            holds += self._plan.state_bytes  # a velocity stays
        command = self._node.command(self._number, "changes.apply", *args, output=payload, holds=holds)
        self._came[self._plan.weights] += 1  # the model that they move
        parts = [self._plans[meta].average_part(count) for meta, count in self._came.items()]
        self.members, self.total = 0, 0.0
        self._came.clear()
        return Work(command, (_together(parts),), payload)


def run_length(members: int) -> int:
    """How many of the members that may come to a mean are summed up in one place, from left to right.

    A tenth of them, so that several workers can have as many each, but no more than eight, since a run cannot be cut.
    It depends on nothing else: another length gives other bits.
    """
    return max(1, min(LONGEST, -(-members // PARTS)))


def runs(members: Sequence[int]) -> list[Sequence[int]]:
    """The members of each run, in order."""
    length = run_length(len(members))
    return [members[i : i + length] for i in range(0, len(members), length)]


def run_of(members: Sequence[int]) -> dict[int, int]:
    """The number of each member's run."""
    return {member: number for number, run in enumerate(runs(members)) for member in run}


def averaging(plan: BlockPlan, meta: TensorMeta, members: int) -> Part:
    """What it costs to put `members` of a block's weights, or of a part of them, together."""
    if meta == plan.weights:
        return plan.average_part(members)
    trained = {shape.name for shape in plan.parameters.shapes}
    return plan.average_part(members, sum(shape.elements for shape in meta.shapes if shape.name in trained))


def _together(parts: Sequence[Part]) -> Part:
    """One part of the cost of all."""
    return parts[0] if len(parts) == 1 else replace(parts[0], cost=total(each.cost for each in parts))


def part_of_plan(plan: BlockPlan, weights: Payload) -> WeightPart:
    """Which part of a block's weights these are."""
    for part in get_args(WeightPart):
        if getattr(plan, part) == weights.meta:
            found: WeightPart = part
            return found
    raise AssertionError(f"weights of no part of {plan.name}")


class Combining:
    """Ways to make one model of two. Each is a work of about two MACs a parameter.

    The other one may be of a pruned variant: what it does not have stays as it is.
    """

    __slots__ = ("_node", "_number", "_plans")

    def __init__(self, node: Node, plans: Iterable[BlockPlan]) -> None:
        self._node = node
        self._plans = tuple(plans)
        self._number = node.learner()

    def _work(self, method: str, one: Payload, other: Payload, factor: float) -> Work[Payload]:
        made = self._node.payload(meta_of(one))
        command = self._node.command(self._number, method, one, other, factor, output=made)
        meta = meta_of(other)
        plan = next(p for p in self._plans if meta in (p.weights, p.block, p.head, p.parameters))
        whole = next(p for p in self._plans if p.name == plan.name.partition(VARIANT)[0])
        assert getattr(whole, part_of_plan(plan, other)) == one.meta, "weights of two blocks"
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
