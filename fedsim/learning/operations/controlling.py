"""SCAFFOLD's control variates: each device keeps its own, zero at the start, through rounds that it sits out.

Karimireddy et al., arXiv 1910.06378, option II.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from fedsim.learning.core import Core, Operation
from fedsim.payload.tensors import FlatTensors
from fedsim.script import Payload

_KEPT: Final = "control"


def _own(core: Core, node: int, like: FlatTensors) -> FlatTensors:
    """c_k: a device's control variate."""
    kept = core.memory.get((_KEPT, node, 0))
    if kept is None:
        kept = core.memory[_KEPT, node, 0] = like.layout.zeros()
    assert isinstance(kept, FlatTensors)
    return kept


def corrected(core: Core, node: int, parameters: Sequence[nn.Parameter], control: Payload) -> None:
    """g − c_k + c, in place; a parameter without a gradient is left alone."""
    c = core.flat(control)
    for parameter, theirs, mine in zip(parameters, c.views(), _own(core, node, c).views(), strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(core.here(theirs - mine))


@torch.no_grad()
def _renew(core: Core, node: int, learner: int, control: Payload, since: Payload, scale: float) -> FlatTensors:
    """c_k⁺ = c_k − c + (w_t − w_k)·scale; answers with c_k⁺ − c_k."""
    c = core.flat(control)
    mine, change = _own(core, node, c), c.layout.zeros()
    names = [slot.name for slot in c.layout.slots]
    start, now = core.flat(since).named(), core.weights(node, learner).named()
    for name, of_server, made in zip(names, c.views(), change.views(), strict=True):
        made.copy_((start[name] - now[name]) * scale - of_server)
    for kept, made in zip(mine.views(), change.views(), strict=True):
        kept.add_(made)
    return change


def _zeros(core: Core, _node: int, _learner: int, name: str) -> FlatTensors:
    return core.layout(name, "parameters").zeros()


def own_control(core: Core, node: int) -> dict[str, Tensor] | None:
    """A copy of a device's control variate by parameter; None before its first round."""
    kept = core.memory.get((_KEPT, node, 0))
    return None if kept is None else {name: view.clone() for name, view in kept.named().items()}


METHODS: Final[Mapping[str, Operation]] = {"control.renew": _renew, "control.zeros": _zeros}
