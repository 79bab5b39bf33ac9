"""What goes from one share of the nodes to another: values, sums of a mean, and nodes that hold nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.learning.core import Core, Trainee
from fedsim.learning.summing import Sums
from fedsim.payload.coding import Value
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import DTYPES, FlatTensors
from fedsim.script import Purpose

Bytes = NDArray[np.uint8]
"""The elements of a tensor in memory. Shared memory takes them without a copy; here they are copied in."""


# --------------------------------------------------------------------------------------------- values


def packed(value: Value) -> list[Bytes]:
    """The bytes of weights, buffer by buffer, or of one tensor."""
    return [_bytes(tensor) for tensor in (value.buffers if isinstance(value, FlatTensors) else (value,))]


def unpacked(core: Core, meta: TensorMeta, parts: Sequence[Bytes]) -> Value:
    """The value of a payload as it lies in memory here."""
    if meta.purpose is Purpose.WEIGHTS:
        made = core.layout_of(meta).empty()
        for buffer, part in zip(made.buffers, parts, strict=True):
            _fill(buffer, part)
        return made
    (shape,), (part,) = meta.shapes, parts
    tensor = torch.empty(shape.shape, dtype=DTYPES[shape.dtype])
    _fill(tensor, part)
    return core.arranged(tensor)


def _bytes(tensor: Tensor) -> Bytes:
    flat: Bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat


def _fill(tensor: Tensor, part: Bytes) -> None:
    if tensor.numel():
        np.copyto(_bytes(tensor), part)


# ----------------------------------------------------------------------------------------------- sums

PackedSums = list[tuple[int, dict[int, list[tuple[str, Bytes]]]]]
"""By what members may hold: the weight of those that came, and the sums of their runs, with the types of elements."""


def packed_sums(sums: Sequence[Sums]) -> PackedSums:
    """Of a part of a mean."""
    return [
        (each.weight, {run: [(_name(t), _bytes(t)) for t in total] for run, total in each.runs.items()})
        for each in sums
    ]


def unpacked_sums(packed: PackedSums) -> list[Sums]:
    """The same, to be read where they are."""
    return [
        Sums(weight=weight, runs={run: tuple(_tensor(*part) for part in parts) for run, parts in runs.items()})
        for weight, runs in packed
    ]


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensor(name: str, part: Bytes) -> Tensor:
    dtype = DTYPES[name]
    if not part.size:
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.frombuffer(part.data, dtype=dtype)


# ---------------------------------------------------------------------------------------------- nodes

PackedNode = dict[str, Any]


def left(core: Core, nodes: Sequence[int]) -> dict[int, PackedNode]:
    """Let go of nodes that hold nothing: which learners they have, and what is owed to them."""
    made = {}
    for node in nodes:
        assert not any(key[1] == node for key in core.memory), f"node {node} holds something, so it cannot move"
        learners = {}
        for key in [key for key in core.learners if key[0] == node]:
            trainee = core.learners.pop(key)
            idle = trainee.instance is None and trainee.kept is None and not trainee.residues
            assert idle and (trainee.source is None or trainee.source is trainee.block.initial), f"node {node} is busy"
            learners[key[1]] = (trainee.block.plan.name, trainee.source is None, trainee.works, trainee.round)
        made[node] = {"learners": learners, "owed": core.arrivals.settle(node)}
    return made


def settle(core: Core, nodes: dict[int, PackedNode]) -> None:
    """Take such nodes in."""
    for node, packed in nodes.items():
        for number, (name, closed, works, round) in packed["learners"].items():
            block = core.blocks[name]
            trainee = Trainee(block, None if closed else block.initial, works=works, round=round)
            core.learners[node, number] = trainee
        core.arrivals.owe(packed["owed"])
