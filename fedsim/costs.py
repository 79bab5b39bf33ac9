"""What a piece of work costs, as plain data: operators with MACs and bytes, hardware unknown.

`models` counts costs from shapes, `learning` puts them together, `hardware` turns them into seconds.
One multiply-accumulate (MAC) is two FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

HEAD_PREFIX: Final = "aux_"
"""Of the names of an auxiliary head's units, so that they can stand in one list with the device block's.

What belongs to the head but to none of its units, such as its loss, is counted under a name of this kind, too.
"""


class OpClass(StrEnum):
    """Classes of operators that hardware serves at different efficiency."""

    LINEAR = "linear"
    ATTENTION = "attention"
    CONV = "conv"
    POINTWISE = "pointwise"
    DEPTHWISE = "depthwise"
    ELEMENTWISE = "elementwise"
    OPTIMIZER = "optimizer"
    COPY = "copy"


class Phase(StrEnum):
    """The part of a training step an operator belongs to."""

    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    AGGREGATE = "aggregate"


@dataclass(frozen=True, slots=True)
class Operator:
    """`count` equal operators of one class.

    `macs` and `bytes` are those of one of them, as counted. `forward_macs` is the forward cost of the operator
    that a backward operator belongs to: what a scalar cost model multiplies by its backward ratio. `unit` names the
    unit of the model it belongs to, where it belongs to one: what a table of measured times is looked up by. `tensors`
    is how many it works through, as one of an optimizer does: a CPU starts anew for each, a GPU takes all at once.
    `sparsity` is the share of the weights that it multiplies by which are zero; they are counted all the same.
    """

    kind: OpClass
    phase: Phase
    macs: int
    bytes: int
    count: int = 1
    forward_macs: int = 0
    unit: str = ""
    tensors: int = 1
    sparsity: float = 0.0


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Cost:
    """The operators of one work at one batch size. Immutable, added with `+`.

    Compared by identity, so that a price can be looked up without hashing every operator; whoever makes costs
    keeps one object a (work kind, batch).
    """

    operators: tuple[Operator, ...]
    batch: int = 0
    """Samples that the operators work on at a time; 0 where there are none, as in averaging."""
    model: str = ""
    """Name of the model whose units the operators belong to; empty where they belong to none."""
    macs: int = field(init=False, repr=False)
    """Multiply-accumulates of all operators, as counted."""
    forward_macs: int = field(init=False, repr=False)
    """Multiply-accumulates of the forward operators."""
    head_macs: int = field(init=False, repr=False)
    """Multiply-accumulates of an auxiliary head's operators, forward and backward."""
    own_forward_macs: int = field(init=False, repr=False)
    """Multiply-accumulates of the forward operators that are no head's."""
    bytes: int = field(init=False, repr=False)
    """Bytes read and written by all operators."""

    def __post_init__(self) -> None:
        macs = forward = head = own = 0
        for op in self.operators:
            here, forwards, heads = op.macs * op.count, op.phase is Phase.FORWARD, op.unit.startswith(HEAD_PREFIX)
            macs += here
            forward += here * forwards
            head += here * heads
            own += here * (forwards and not heads)
        object.__setattr__(self, "macs", macs)
        object.__setattr__(self, "forward_macs", forward)
        object.__setattr__(self, "head_macs", head)
        object.__setattr__(self, "own_forward_macs", own)
        object.__setattr__(self, "bytes", sum(op.bytes * op.count for op in self.operators))

    def __add__(self, other: Cost) -> Cost:
        return total((self, other))


def total(costs: Iterable[Cost]) -> Cost:
    """One cost with the operators of all `costs`, in order; they belong to one batch of one model."""
    parts = tuple(costs)
    batch, model = max((c.batch for c in parts), default=0), max((c.model for c in parts), default="")
    assert all(c.batch in (0, batch) and c.model in ("", model) for c in parts), "costs of several batches or models"
    return Cost(tuple(op for cost in parts for op in cost.operators), batch, model)
