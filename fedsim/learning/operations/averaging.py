"""Many models to one: weighted means, mixtures, and sums of changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from fedsim.learning.core import Core, Operation
from fedsim.learning.learners import WeightPart
from fedsim.learning.summing import RunningMean
from fedsim.payload.tensors import FlatTensors
from fedsim.script import Payload

_MEAN: Final = "mean"
_CHANGES: Final = "changes"


def _open_mean(core: Core, node: int, number: int, name: str, part: WeightPart, expected: Sequence[int]) -> None:
    core.memory[_MEAN, node, number] = RunningMean(core.layout(name, part), expected)


def _add_to_mean(core: Core, node: int, number: int, member: int, weights: Payload, weight: int) -> None:
    core.memory[_MEAN, node, number].add(member, core.flat(weights), weight)


def _mean_result(core: Core, node: int, number: int) -> FlatTensors:
    mean: RunningMean = core.memory.pop((_MEAN, node, number))
    return mean.result()


def _pairs(one: FlatTensors, other: FlatTensors) -> Iterator[tuple[Tensor, Tensor]]:
    assert one.layout is other.layout, "weights of two blocks"
    return zip(one.buffers, other.buffers, strict=True)


def _mix(core: Core, _node: int, _number: int, one: Payload, other: Payload, weight: float) -> FlatTensors:
    made = core.flat(one).clone()
    for mine, theirs in _pairs(made, core.flat(other)):
        if mine.is_floating_point():
            mine.lerp_(theirs, weight)  # exact at 0 and at 1
        else:
            torch.maximum(mine, theirs, out=mine)
    return made


def _toward(core: Core, _node: int, _number: int, one: Payload, other: Payload, rate: float) -> FlatTensors:
    start, made = core.flat(one), core.flat(other).clone()
    trained = _trained(core, made)
    for mine, theirs in zip(made.views()[:trained], start.views(), strict=False):
        mine.copy_(theirs + rate * (mine - theirs))
    return made


def _shift(core: Core, _node: int, _number: int, one: Payload, other: Payload, factor: float) -> FlatTensors:
    made = core.flat(one).clone()
    for mine, theirs in _pairs(made, core.flat(other)):
        mine.add_(theirs, alpha=factor)
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
class _Sum:
    """Changes that were taken in since the last application, and the velocity that earlier ones left."""

    block: str
    total: FlatTensors | None = None
    weight: float = 0.0
    velocity: list[Tensor] = field(default_factory=list)


def _open_changes(core: Core, node: int, number: int, name: str) -> None:
    core.memory[_CHANGES, node, number] = _Sum(name)


def _add_change(core: Core, node: int, number: int, change: Payload, weight: float) -> None:
    held: _Sum = core.memory[_CHANGES, node, number]
    value = core.flat(change)
    held.weight += weight
    if held.total is None:
        held.total = value.clone()
        for mine in held.total.buffers:
            if mine.is_floating_point():
                mine.mul_(weight)
        return
    for mine, theirs in _pairs(held.total, value):
        if mine.is_floating_point():
            mine.add_(theirs, alpha=weight)
        else:
            torch.maximum(mine, theirs, out=mine)


def _apply_changes(
    core: Core, node: int, number: int, model: Payload, rate: float, denominator: float, momentum: float
) -> FlatTensors:
    held: _Sum = core.memory[_CHANGES, node, number]
    made, total = core.flat(model).clone(), held.total
    assert total is not None
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
            mine.copy_(change / held.weight)
        else:
            torch.maximum(mine, change, out=mine)
    held.total, held.weight = None, 0.0
    return made


METHODS: Final[Mapping[str, Operation]] = {
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
