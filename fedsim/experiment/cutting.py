"""Where the model of a scenario is cut: as it says, or where it suits the fleet best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError
from fedsim.experiment.fleet import Fleet
from fedsim.experiment.forecast import best, candidates, steps_of
from fedsim.experiment.placing import placed
from fedsim.experiment.profiling import Profiler, is_profiled
from fedsim.hardware.profiles import CostModel
from fedsim.models.measure import UnitMeasure
from fedsim.models.units import check_cut
from fedsim.scenario import Scenario


def choose_cut(scenario: Scenario, profiler: Profiler, samples: NDArray[np.int64]) -> int | None:
    """The number of units on the devices; None where the scheduler trains whole models.

    A cut is checked even then, since one scenario serves systems that cut the model and systems that do not. Of the
    cuts that fit into memory, the one of least time is the profiler's for schedulers that train in micro-batches.

    Raises:
        UserError: there is no such cut, none is given, or it leaves one side nothing to multiply.
    """
    cut, scheduler = scenario.model.cut, scenario.scheduler.options
    model, fleet = profiler.model, profiler.fleet
    units = [unit.name for unit in model.units]
    if isinstance(cut, int):
        with placed(scenario, "model", "cut"):
            check_cut(scenario.model.name, units, cut)
    if not scheduler.splits:
        return None
    _check_layers(scenario, fleet)
    if cut is None:
        raise UserError(
            f"scheduler {scenario.scheduler.name} cuts the model, but model.cut is not given; "
            f"add cut: auto, or 1 to {len(units) - 1} (units of {scenario.model.name}: {', '.join(units)}) "
            f"{scenario.where('model')}"
        )
    with placed(scenario, "model", "cut"):
        if cut == "auto":
            objective, efficiency = scenario.model.objective, profiler.network.efficiency
            found = candidates(fleet, model, profiler.training, samples, steps_of(scheduler), efficiency)
            usual = best(found, objective, scenario.model.name).cut
            if objective != "time" or not is_profiled(scheduler):
                return usual
            return profiler.best((candidate.cut for candidate in found if candidate.fits), scheduler).cut
        _check_work(scenario.model.name, model.units, cut)
    return cut


def _check_layers(scenario: Scenario, fleet: Fleet) -> None:
    """Refuse profiles that know whole training steps only, where the model is cut."""
    machines = [*(group.machine for group in fleet.groups), fleet.server]
    for machine in machines:
        if machine.cost_model is CostModel.FEDSCALE:
            raise UserError(
                f"scheduler {scenario.scheduler.name} cuts the model, but profile {machine.profile.id} knows times of "
                "whole training steps only (cost_model: fedscale_scalar); choose a scheduler that trains whole models, "
                f"or other profiles {scenario.where('scheduler')}"
            )


def _check_work(name: str, units: tuple[UnitMeasure, ...], cut: int) -> None:
    """Refuse a cut with nothing to multiply on one side, which no cost model could charge for."""
    working = [index for index, unit in enumerate(units, 1) if unit.macs]
    first, last = (working[0], working[-1] - 1) if working else (1, 0)
    other = "choose a model that multiplies in two units or more"
    for who, block, way_out in (
        ("devices", units[:cut], f"choose cut: {first} or more"),
        ("server", units[cut:], f"choose cut: {last} or less"),
    ):
        if any(unit.macs for unit in block):
            continue
        listed = ", ".join(unit.name for unit in block)
        raise UserError(
            f"with cut: {cut} the {who} of {name} would multiply nothing ({listed}), "
            f"which no cost model can charge for; {way_out if first <= last else other}"
        )
