"""Prices: the seconds that a cost takes on a machine. The one place where costs meet hardware.

Work without a cost is an error, never zero seconds: a forgotten cost would turn computing into nothing and a run
into pure communication without anyone noticing. Knows the cost models by name; variation and heat come on top
(`variation`).
"""

from __future__ import annotations

from fedsim.costs import Cost
from fedsim.errors import RunError
from fedsim.hardware import roofline, tables
from fedsim.hardware.machines import Machine
from fedsim.hardware.profiles import CostModel
from fedsim.hardware.rounding import whole_nanoseconds
from fedsim.hardware.scalar import fedscale, scalar


def seconds(machine: Machine, cost: Cost) -> float:
    """Seconds of `cost` on one lane of `machine`.

    Raises:
        RunError: the work has no operators, or none that the profile's cost model charges for.
        UserError: the profile cannot price such work: a time that its table lacks, a rule for whole training steps.
    """
    if not cost.operators:
        raise _free(machine, "it has no operators")
    profile = machine.profile
    match machine.cost_model:
        case CostModel.SCALAR:
            assert profile.speed is not None and profile.backward_ratio is not None
            price = scalar(profile.speed, profile.backward_ratio, cost.operators)
        case CostModel.FEDSCALE:
            assert profile.sample_time is not None
            price = fedscale(profile.id, profile.sample_time, cost)
        case CostModel.ROOFLINE | CostModel.TABLE:
            price = sum(by_operator(machine, cost))
    if price <= 0:
        raise _free(machine, f"its {len(cost.operators)} operators cost nothing")
    return price


def nanoseconds(machine: Machine, cost: Cost) -> int:
    """`seconds` rounded up to whole nanoseconds, at least 1.

    A pure function of both: whoever prices one cost object many times, as a run does, may keep its price.

    Raises:
        RunError, UserError: as `seconds`.
    """
    return max(1, whole_nanoseconds(seconds(machine, cost)))


def by_operator(machine: Machine, cost: Cost) -> list[float]:
    """Seconds of each operator of `cost`, in order; they add up to `seconds`.

    Where times are measured by unit, the first operator of each unit and phase bears all of it; where they are known
    for whole steps only, the first operator of the cost.

    Raises:
        UserError: as `seconds`.
    """
    profile = machine.profile
    match machine.cost_model:
        case CostModel.ROOFLINE:
            assert machine.processor is not None
            return roofline.by_operator(machine.processor, cost)
        case CostModel.TABLE:
            return tables.by_operator(profile, cost)
        case CostModel.SCALAR:
            assert profile.speed is not None and profile.backward_ratio is not None
            return [scalar(profile.speed, profile.backward_ratio, (operator,)) for operator in cost.operators]
        case CostModel.FEDSCALE:
            assert profile.sample_time is not None
            return [fedscale(profile.id, profile.sample_time, cost)] + [0.0] * (len(cost.operators) - 1)


def _free(machine: Machine, reason: str) -> RunError:
    where = f"{machine.profile.id} (cost model {machine.cost_model})"
    return RunError(f"work without a cost: {reason} on {where}; count its MACs where the work is made")
