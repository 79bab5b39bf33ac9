"""What takes no time: opening and closing learners, and what their weights are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedsim.learning.core import Core, Operation, Trainee
from fedsim.learning.learners import WeightPart
from fedsim.payload.tensors import FlatTensors, Layout
from fedsim.script import SERVER, Payload


def _open(core: Core, node: int, learner: int, name: str) -> None:
    block = core.blocks[name]
    assert (node, learner) not in core.learners, f"learner {learner} of node {node} is open already"
    core.learners[node, learner] = Trainee(block, block.initial)


def _load(core: Core, node: int, learner: int, weights: Payload) -> None:
    trainee = core.learners[node, learner]
    value = core.flat(weights)
    whole = trainee.block.layout
    if value.layout is not whole:
        name = trainee.block.plan.name
        assert value.layout in (core.layout(name, "block"), core.layout(name, "head")), "weights of another block"
        value = _filled(core, node, learner, value)
    core.put_away(trainee)
    trainee.source = value


def _filled(core: Core, node: int, learner: int, part: FlatTensors) -> FlatTensors:
    """A learner's weights with a part of them overwritten; its initial ones, where it is closed."""
    trainee = core.learners[node, learner]
    closed = trainee.instance is None and trainee.source is None
    return overwritten(trainee.block.initial if closed else core.weights(node, learner), part)


def overwritten(value: FlatTensors, part: FlatTensors) -> FlatTensors:
    """A copy of weights with those of a part of them in their place."""
    made = value.clone()
    mine = made.named()
    for name, tensor in part.named().items():
        mine[name].copy_(tensor)
    return made


def _pace(core: Core, node: int, learner: int, round: int) -> None:
    trainee = core.learners[node, learner]
    trainee.round = round
    if trainee.instance is not None:
        trainee.instance.optimizer.pace(round)


def _weights(core: Core, node: int, learner: int, part: WeightPart = "weights") -> FlatTensors:
    value = core.weights(node, learner)
    return part_of(value, core.layout(core.learners[node, learner].block.plan.name, part))


def _part(core: Core, _node: int, _number: int, weights: Payload, name: str, part: WeightPart) -> FlatTensors:
    return part_of(core.flat(weights), core.layout(name, part))


def part_of(value: FlatTensors, layout: Layout) -> FlatTensors:
    """Those of a block's weights that `layout` has, in memory of their own; the very same where it has all."""
    if value.layout is layout:
        return value
    made, named = layout.zeros(), value.named()
    made.fill_({slot.name: named[slot.name] for slot in layout.slots})
    return made


def _change(core: Core, node: int, learner: int, since: Payload) -> FlatTensors:
    made = core.weights(node, learner).clone()
    before = core.flat(since)
    assert before.layout is made.layout, "weights of another block"
    trained = len(core.learners[node, learner].block.plan.parameters.shapes)
    for mine, theirs in zip(made.views()[:trained], before.views(), strict=False):
        mine.sub_(theirs)
    return made


def _copy(core: Core, node: int, learner: int, other: int) -> None:
    core.learners[node, learner].source = core.weights(node, other)
    core.learners[node, learner].round = core.learners[node, other].round


def _close(core: Core, node: int, learner: int) -> None:
    trainee = core.learners[node, learner]
    core.put_away(trainee)
    trainee.source = None
    if node == SERVER:  # the server opens learners as it goes; a device has one for life
        del core.learners[node, learner]


def _hold(_core: Core, _node: int, _learner: int) -> None:
    """Nothing: what is held lies behind payloads."""


METHODS: Final[Mapping[str, Operation]] = {
    "hold": _hold,
    "open": _open,
    "load": _load,
    "pace": _pace,
    "weights": _weights,
    "part": _part,
    "change": _change,
    "copy": _copy,
    "close": _close,
}
