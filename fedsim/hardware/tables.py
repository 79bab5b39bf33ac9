"""The table cost model: measured times of units in place of computed ones of operators.

A unit's time, forward or backward, stands for all of its operators in that phase. The optimizer's step takes the
optimizer times of all units of the cost. What the table lacks is an error, never zero seconds.
"""

from __future__ import annotations

from typing import Final

from fedsim.costs import Cost, Operator, Phase
from fedsim.errors import UserError, shown, unknown
from fedsim.hardware.profiles import Profile
from fedsim.hardware.scalar import scalar
from fedsim.hardware.times import ModelTimes, at

LOSS: Final = "loss"
"""The unit that a model's loss counts as; it has no optimizer step."""


def by_operator(profile: Profile, cost: Cost) -> list[float]:
    """Seconds by operator of `cost`; the first one of each unit and phase bears the time of all.

    Raises:
        UserError: the table lacks a time.
    """
    told: set[tuple[str, Phase]] = set()
    return [_first(profile, cost, operator, told) for operator in cost.operators]


def _first(profile: Profile, cost: Cost, operator: Operator, told: set[tuple[str, Phase]]) -> float:
    if operator.phase is Phase.AGGREGATE:
        return _aggregate(profile, operator)
    key = ("" if operator.phase is Phase.OPTIMIZER else operator.unit, operator.phase)
    if key in told:
        return 0.0
    told.add(key)
    times = _of_model(profile, cost)
    if operator.phase is Phase.OPTIMIZER:
        units = dict.fromkeys(op.unit for op in cost.operators if op.unit not in ("", LOSS))
        return sum(_time(profile, cost, times, unit, Phase.OPTIMIZER) for unit in units)
    return _time(profile, cost, times, operator.unit, operator.phase)


def _time(profile: Profile, cost: Cost, times: ModelTimes, name: str, phase: Phase) -> float:
    if name not in times.units:
        raise UserError(f"{unknown(f'unit of {cost.model} in the times of {profile.id}', name, times.units)}; add it")
    unit = times.units[name]
    seconds = {Phase.FORWARD: unit.forward, Phase.BACKWARD: unit.backward}.get(phase)
    if phase is Phase.OPTIMIZER and unit.optimizer is not None:
        return unit.optimizer
    if seconds is None:
        raise UserError(
            f"profile {profile.id} has no {phase} time of unit {shown(name)} of {cost.model}; add "
            f"times.{cost.model}.units.{name}.{phase}"
        )
    if cost.batch <= 0:
        raise UserError(f"work of {cost.model} that does not say its batch, on {profile.id}, whose times depend on it")
    return at(cost.batch, times.batches, seconds)


def _of_model(profile: Profile, cost: Cost) -> ModelTimes:
    if cost.model not in profile.times:
        raise UserError(
            f"{unknown(f'model in the times of {profile.id}', cost.model, profile.times)}; measure its units, or take "
            "a profile with cost model roofline"
        )
    return profile.times[cost.model]


def _aggregate(profile: Profile, operator: Operator) -> float:
    if profile.speed is None:
        raise UserError(
            f"profile {profile.id} has measured times of units, but averaging models is no unit's work; add the speed "
            "that it averages at, as in 'speed: 2.2 GMAC/s', or take another profile for the server"
        )
    return scalar(profile.speed, 1.0, (operator,))
