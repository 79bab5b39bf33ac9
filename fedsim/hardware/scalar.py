"""The scalar cost models: one figure for a whole machine, as other simulators have it.

`scalar` has a speed: MACs forward, a ratio of them backward, nothing for optimizers. `fedscale_scalar` is FedScale's
rule (SymbioticLab/FedScale at 7ec441c, `client_metadata.py`): 3.0 x batch x seconds a sample for a training step,
whatever the model's layers are.
"""

from __future__ import annotations

from typing import Final

from fedsim.costs import Cost, Operator, Phase
from fedsim.errors import UserError

STEP_RATIO: Final = 3.0
"""Seconds of a training step over those of its forward pass: FedScale's `augmentation_factor`."""

_STEP: Final = frozenset({Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER})


def scalar(speed: float, backward_ratio: float, operators: tuple[Operator, ...]) -> float:
    """Seconds at one speed for all operators: forward MACs, `backward_ratio` times them backward, no optimizer."""
    macs, backward = 0, 0
    for operator in operators:
        match operator.phase:
            case Phase.FORWARD | Phase.AGGREGATE:
                macs += operator.macs * operator.count
            case Phase.BACKWARD:
                backward += operator.forward_macs * operator.count
            case Phase.OPTIMIZER:
                pass
    return (macs + backward_ratio * backward) / speed


def fedscale(name: str, sample_time: float, cost: Cost) -> float:
    """Seconds of a training step by FedScale's rule, on the profile `name`.

    Whether the step trains all of the model cannot be seen from its cost.

    Raises:
        UserError: the cost is no whole training step.
    """
    phases = {operator.phase for operator in cost.operators}
    if phases != _STEP:
        raise _refused(f"work of the phase {' and '.join(phase for phase in Phase if phase in phases)}", name)
    if cost.batch <= 0:
        raise _refused("work that does not say its batch", name)
    return STEP_RATIO * cost.batch * sample_time


def _refused(what: str, name: str) -> UserError:
    return UserError(
        f"{what} on {name}, but cost model fedscale_scalar prices whole training steps only (forward, backward and "
        "optimizer of a batch), since it knows no layers; take another profile for this node, or a scheduler that "
        "does not split the model"
    )
