"""The table cost model: measured times of units in place of computed ones of operators.

A unit's time, forward or backward, stands for all of its operators in that phase, the optimizer's for the step of every
unit of the cost. What the table lacks is an error, never zero seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedsim.costs import Cost, Operator, Phase
from fedsim.errors import UserError, shown, unknown
from fedsim.hardware.profiles import Profile
from fedsim.hardware.scalar import scalar
from fedsim.hardware.times import ModelTimes, UnitTimes, at

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
    key = ("", Phase.OPTIMIZER) if operator.phase is Phase.OPTIMIZER else (operator.unit, operator.phase)
    if key in told:
        return 0.0
    told.add(key)
    times = _of_model(profile, cost)
    if operator.phase is Phase.OPTIMIZER:
        return sum(_optimizer(profile, cost, times, unit) for unit in _units(cost))
    unit = _of_unit(profile, cost, times, operator.unit)
    seconds = unit.forward if operator.phase is Phase.FORWARD else unit.backward
    if seconds is None:
        raise _lacks(profile, cost, operator.unit, operator.phase)
    if cost.batch <= 0:
        raise UserError(f"work of {cost.model} that does not say its batch, on {profile.id}, whose times depend on it")
    return at(cost.batch, times.batches, seconds)


def _units(cost: Cost) -> Iterator[str]:
    """Units that take part in an optimizer step: those that went backward, once each."""
    return iter(dict.fromkeys(op.unit for op in cost.operators if op.phase is Phase.BACKWARD and op.unit != LOSS))


def _optimizer(profile: Profile, cost: Cost, times: ModelTimes, name: str) -> float:
    seconds = _of_unit(profile, cost, times, name).optimizer
    if seconds is None:
        raise _lacks(profile, cost, name, Phase.OPTIMIZER)
    return seconds


def _of_model(profile: Profile, cost: Cost) -> ModelTimes:
    assert profile.times is not None, "a profile has what its cost model needs"
    if cost.model not in profile.times:
        raise UserError(
            f"{unknown(f'model in the times of {profile.id}', cost.model, profile.times)}; measure its units, or take "
            "a profile with cost model roofline"
        )
    return profile.times[cost.model]


def _of_unit(profile: Profile, cost: Cost, times: ModelTimes, name: str) -> UnitTimes:
    if name not in times.units:
        raise UserError(f"{unknown(f'unit of {cost.model} in the times of {profile.id}', name, times.units)}; add it")
    return times.units[name]


def _lacks(profile: Profile, cost: Cost, unit: str, phase: Phase) -> UserError:
    return UserError(
        f"profile {profile.id} has no {phase} time of unit {shown(unit)} of {cost.model}; add "
        f"times.{cost.model}.units.{unit}.{phase}"
    )


def _aggregate(profile: Profile, operator: Operator) -> float:
    if profile.speed is None:
        raise UserError(
            f"profile {profile.id} has measured times of units, but averaging models is no unit's work; add the speed "
            "that it averages at, as in 'speed: 2.2 GMAC/s', or take another profile for the server"
        )
    return scalar(profile.speed, 1.0, (operator,))
