"""Many models to one: weighted means, mixtures, and sums of changes; and what a pruned variant has of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch
from torch import Tensor

from fedsim.learning.core import Core, Operation
from fedsim.learning.learners import WeightPart
from fedsim.learning.summing import RunningMean, Sums
from fedsim.payload.tensors import FlatTensors, Layout
from fedsim.script import Payload

_MEAN: Final = "mean"
_CHANGES: Final = "changes"


class _Mean:
    """Running means of members by what they hold, put together in the end.

    Args:
        core: of the host.
        layouts: of the whole block, then of its variants.
        expected: the members that may come.
        base: what stays where no member has a coordinate.
        whole: whether all members that come do so here.
    """

    def __init__(
        self, core: Core, layouts: Sequence[Layout], expected: Sequence[int], base: Payload | None, whole: bool
    ) -> None:
        self._core = core
        self._layout = layouts[0]
        self._base = base
        self._means = {layout: RunningMean(layout, expected, whole=whole) for layout in layouts}

    def add(self, member: int, value: FlatTensors, weight: int) -> None:
        """Take in one member's weights."""
        self._means[value.layout].add(member, value, weight)

    def skip(self, member: int) -> None:
        """Wait no longer for a member, which does not come."""
        for mean in self._means.values():
            mean.skip(member)

    def sums(self, runs: Sequence[int] | None) -> list[Sums]:
        """What has come of some runs, by what members may hold: a part of a mean that is put together elsewhere."""
        return [mean.sums(runs) for mean in self._means.values()]

    def join(self, sums: Sequence[Sums]) -> None:
        """Take in such a part."""
        for mean, part in zip(self._means.values(), sums, strict=True):
            mean.join(part)

    def result(self, round: int) -> FlatTensors:
        """The mean over those who came, coordinate by coordinate; where windows move, those of a round."""
        came = {layout: mean for layout, mean in self._means.items() if mean.weight}
        if came.keys() == {self._layout}:
            return came[self._layout].result()
        assert self._base is not None, "a mean of variants without a base"
        base = self._core.flat(self._base)
        assert base.layout is self._layout, "a base of another block"
        total, weight = self._layout.zeros(), self._layout.zeros()
        for mean in came.values():
            value = mean.total()
            spread(self._core, total, value, accumulated, round)
            spread(self._core, weight, value, partial(_covered, share=mean.weight), round)
        for mine, covered, before in zip(total.buffers, weight.buffers, base.buffers, strict=True):
            if mine.is_floating_point():
                torch.where(covered > 0, mine / covered, before, out=mine)
            else:
                torch.where(covered > 0, mine, before, out=mine)
        return total


def accumulated(mine: Tensor, theirs: Tensor) -> Tensor:
    """A sum with a value more; of integers, the larger one."""
    return mine + theirs if mine.is_floating_point() else torch.maximum(mine, theirs)


def _covered(mine: Tensor, _: Tensor, share: float) -> Tensor:
    """The weight of those that have a coordinate, with one more of them."""
    return mine + share


def spread(
    core: Core, whole: FlatTensors, given: FlatTensors, how: Callable[[Tensor, Tensor], Tensor], round: int = 0
) -> None:
    """Overwrite `whole`, where a variant (or the whole block) has coordinates, by a function of it and of `given`."""
    if given.layout is whole.layout:
        for mine, theirs in zip(whole.views(), given.views(), strict=True):
            mine.copy_(how(mine, theirs))
        return
    core.fitting(given.layout, round).change_(whole, given, how)


def _open_mean(
    core: Core,
    node: int,
    number: int,
    names: Sequence[str],
    part: WeightPart,
    expected: Sequence[int],
    base: Payload | None,
    whole: bool = True,
) -> None:
    layouts = [core.layout(name, part) for name in names]
    core.memory[_MEAN, node, number] = _Mean(core, layouts, expected, base, whole)


def _add_to_mean(core: Core, node: int, number: int, member: int, weights: Payload, weight: int) -> None:
    core.memory[_MEAN, node, number].add(member, core.flat(weights), weight)


def _mean_result(core: Core, node: int, number: int, round: int = 0) -> FlatTensors:
    mean: _Mean = core.memory.pop((_MEAN, node, number))
    return mean.result(round)


def without(core: Core, node: int, number: int, absent: Sequence[int]) -> None:
    """Tell a mean who does not come to it."""
    mean: _Mean = core.memory[_MEAN, node, number]
    for member in absent:
        mean.skip(member)


def part_of_sums(core: Core, node: int, number: int, runs: Sequence[int] | None) -> list[Sums]:
    """What has come of some runs of a mean, which are complete; None: all that is left, and the mean is gone."""
    key = _MEAN, node, number
    mean: _Mean = core.memory.pop(key) if runs is None else core.memory[key]
    return mean.sums(runs)


def join_sums(core: Core, node: int, number: int, sums: Sequence[Sums]) -> None:
    """Add a part of a mean that another host has summed up."""
    core.memory[_MEAN, node, number].join(sums)


def _pairs(one: FlatTensors, other: FlatTensors) -> Iterator[tuple[Tensor, Tensor]]:
    assert one.layout is other.layout, "weights of two blocks"
    return zip(one.buffers, other.buffers, strict=True)


def _mix(core: Core, _node: int, _number: int, one: Payload, other: Payload, weight: float) -> FlatTensors:
    made, added = core.flat(one).clone(), core.flat(other)
    if added.layout is not made.layout:
        spread(core, made, added, partial(_mixed, weight=weight))
        return made
    for mine, theirs in _pairs(made, added):
        if mine.is_floating_point():
            mine.lerp_(theirs, weight)  # exact at 0 and at 1
        else:
            torch.maximum(mine, theirs, out=mine)
    return made


def _mixed(mine: Tensor, theirs: Tensor, weight: float) -> Tensor:
    return torch.lerp(mine, theirs, weight) if mine.is_floating_point() else torch.maximum(mine, theirs)


def _toward(core: Core, _node: int, _number: int, one: Payload, other: Payload, rate: float) -> FlatTensors:
    start, end = core.flat(one), core.flat(other)
    if end.layout is not start.layout:  # what a variant does not have stays as it is
        whole = start.clone()
        spread(core, whole, end, lambda mine, theirs: theirs)
        end = whole
    made = end.clone()
    trained = _trained(core, made)
    for mine, theirs in zip(made.views()[:trained], start.views(), strict=False):
        mine.copy_(theirs + rate * (mine - theirs))
    return made


def _shift(core: Core, _node: int, _number: int, one: Payload, other: Payload, factor: float) -> FlatTensors:
    made, added = core.flat(one).clone(), core.flat(other)
    if added.layout is made.layout:
        for mine, theirs in _pairs(made, added):
            mine.add_(theirs, alpha=factor)
    else:
        spread(core, made, added, lambda mine, theirs: mine + theirs * factor)
    return made


def _trained(core: Core, value: FlatTensors) -> int:
    """How many of its tensors are parameters; they come first."""
    for block in core.blocks.values():
        names = {shape.name for shape in block.plan.parameters.shapes}
        mine = [slot.name for slot in value.layout.slots]
        if set(mine) <= {shape.name for shape in block.plan.weights.shapes}:
            return sum(name in names for name in mine)
    raise AssertionError("weights of no block")


@dataclass(slots=True)
class _Total:
    """Changes of one variant, or of the whole block: their weighted sum, and the sum of their weights."""

    value: FlatTensors
    weight: float


@dataclass(slots=True)
class _Sum:
    """Changes that were taken in since the last application, and the velocity that earlier ones left."""

    block: str
    totals: dict[Layout, _Total] = field(default_factory=dict)
    velocity: list[Tensor] = field(default_factory=list)


def _open_changes(core: Core, node: int, number: int, name: str) -> None:
    core.memory[_CHANGES, node, number] = _Sum(name)


def _add_change(core: Core, node: int, number: int, change: Payload, weight: float) -> None:
    held: _Sum = core.memory[_CHANGES, node, number]
    value = core.flat(change)
    before = held.totals.get(value.layout)
    if before is None:
        first = held.totals[value.layout] = _Total(value.clone(), weight)
        for mine in first.value.buffers:
            if mine.is_floating_point():
                mine.mul_(weight)
        return
    before.weight += weight
    for mine, theirs in _pairs(before.value, value):
        if mine.is_floating_point():
            mine.add_(theirs, alpha=weight)
        else:
            torch.maximum(mine, theirs, out=mine)


def _put_together(core: Core, held: _Sum, model: FlatTensors) -> tuple[FlatTensors, float]:
    """The sum of all changes as one of the whole block, and their weight.

    A coordinate that only some of them have is scaled up to the weight of all; one that none has does not change.
    """
    weight = sum(each.weight for each in held.totals.values())
    if held.totals.keys() == {model.layout}:
        return held.totals[model.layout].value, weight
    total, covered = model.layout.zeros(), model.layout.zeros()
    for each in held.totals.values():
        spread(core, total, each.value, accumulated)
        spread(core, covered, each.value, partial(_covered, share=each.weight))
    trained = len(core.blocks[held.block].plan.parameters.shapes)
    views = zip(total.views(), covered.views(), model.views(), strict=True)
    for at, (mine, share, before) in enumerate(views):
        if not mine.is_floating_point():
            torch.where(share > 0, mine, before, out=mine)
        else:  # parameters hold differences, buffers values
            absent = torch.zeros_like(mine) if at < trained else before * weight
            mine.copy_(torch.where(share > 0, mine * (weight / share), absent))
    return total, weight


def _apply_changes(
    core: Core, node: int, number: int, model: Payload, rate: float, denominator: float, momentum: float
) -> FlatTensors:
    held: _Sum = core.memory[_CHANGES, node, number]
    made = core.flat(model).clone()
    assert held.totals, "a sum of nothing"
    total, weight = _put_together(core, held, made)
    trained = len(core.blocks[held.block].plan.parameters.shapes)
    if momentum and not held.velocity:
        held.velocity = [torch.zeros_like(view) for view in made.views()[:trained]]
    for at, (mine, change) in enumerate(zip(made.views(), total.views(), strict=True)):
        if at < trained:
            step = change / denominator
            if momentum:
                step = held.velocity[at].mul_(momentum).add_(step)
            mine.add_(step, alpha=rate)
        elif mine.is_floating_point():
            mine.copy_(change / weight)
        else:
            torch.maximum(mine, change, out=mine)
    held.totals.clear()
    return made


def _fit(
    core: Core, _node: int, _number: int, weights: Payload, name: str, part: WeightPart, round: int = 0
) -> FlatTensors:
    return core.fitting(core.layout(name, part), round).fitted(core.flat(weights))


METHODS: Final[Mapping[str, Operation]] = {
    "fit": _fit,
    "mean.open": _open_mean,
    "mean.add": _add_to_mean,
    "mean.result": _mean_result,
    "mix": _mix,
    "toward": _toward,
    "shift": _shift,
    "changes.open": _open_changes,
    "changes.add": _add_change,
    "changes.apply": _apply_changes,
}
