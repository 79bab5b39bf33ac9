"""Prices: the seconds that a cost takes on a profile. The one place where costs meet hardware.

Work without a cost is an error, never zero seconds: a forgotten cost would turn computing into nothing and a run
into pure communication without anyone noticing.
"""

from __future__ import annotations

from fedsim.costs import Cost, Phase
from fedsim.errors import RunError
from fedsim.hardware.profiles import Profile
from fedsim.hardware.rounding import whole_nanoseconds


def seconds(profile: Profile, cost: Cost) -> float:
    """Seconds of `cost` on `profile`, one lane.

    Raises:
        RunError: the work has no operators, or none that the profile's cost model charges for.
    """
    match profile.cost_model:
        case "scalar":
            price = _scalar(profile, cost)
    if price <= 0:
        has = f"its {len(cost.operators)} operators cost nothing" if cost.operators else "it has no operators"
        raise RunError(
            f"work without a cost: {has} on {profile.id} (cost model {profile.cost_model}); "
            "count its MACs where the work is made"
        )
    return price


def nanoseconds(profile: Profile, cost: Cost) -> int:
    """`seconds` rounded up to whole nanoseconds, at least 1.

    A pure function of both: whoever prices one cost object many times, as a run does, may keep its price.

    Raises:
        RunError: as `seconds`.
    """
    return max(1, whole_nanoseconds(seconds(profile, cost)))


def _scalar(profile: Profile, cost: Cost) -> float:
    """One speed for all operators: forward MACs, `backward_ratio` times them backward, nothing for the optimizer."""
    macs, backward = 0, 0
    for operator in cost.operators:
        match operator.phase:
            case Phase.FORWARD | Phase.AGGREGATE:
                macs += operator.macs * operator.count
            case Phase.BACKWARD:
                backward += operator.forward_macs * operator.count
            case Phase.OPTIMIZER:
                pass
    return (macs + profile.backward_ratio * backward) / profile.speed
