"""The pruned variants of a scenario's model: who has which, and how they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError
from fedsim.experiment.accounts import said
from fedsim.experiment.fleet import Fleet, process_bytes
from fedsim.experiment.manifests import from_manifest
from fedsim.experiment.materials import Materials
from fedsim.experiment.placing import placed
from fedsim.hardware.machines import Machine
from fedsim.payload.supports import Support
from fedsim.payload.windows import Windows
from fedsim.pruning.reconvene.options import Reconvene
from fedsim.scenario import Pruned as Section
from fedsim.scenario import Scenario
from fedsim.units import human_count

if TYPE_CHECKING:
    from fedsim.models.units import UnitList
    from fedsim.pruning.methods import Material, Method
    from fedsim.pruning.plans import Plan

SHARES: Final = tuple(n / 20 for n in range(19, 0, -1))
"""What `fit: memory` tries: 95 %, 90 %, ... of the parameters in scope."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A way of pruning that some groups ask for."""

    section: Section
    machine: Machine
    """What they are; budgets of time and memory are of it."""
    held: int
    """The most samples that one of their devices has, up to those of a batch."""
    groups: tuple[int, ...]
    place: tuple[str | int, ...]
    """Where the scenario says so."""


def requests(scenario: Scenario, fleet: Fleet, samples: NDArray[np.int64]) -> list[Request]:
    """The distinct ways of pruning, in the order of groups; none for groups that stay whole."""
    found: dict[tuple[str, str, Machine, int], Request] = {}
    for index, (group, member) in enumerate(zip(scenario.fleet, fleet.groups, strict=True)):
        section: Section | None = scenario.pruning if group.pruning is None else group.pruning
        if section is None or not section.prunes:
            continue
        place = ("pruning",) if group.pruning is None else ("fleet", index, "pruning")
        numbers = fleet.numbers(index)
        held = min(scenario.training.batch, int(samples[numbers.start : numbers.stop].max()))
        key = (section.model_dump_json(), repr(section.options), member.machine, held)
        before = found.get(key)
        groups = (index,) if before is None else (*before.groups, index)
        found[key] = Request(section=section, machine=member.machine, held=held, groups=groups, place=place)
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A pruned model that some groups have."""

    groups: frozenset[int]
    method: Method
    support: Support
    """What it has of the scenario's model."""
    module: UnitList | None
    """With the values that the method gave it; of several that nest only the last one's is kept, since they may be
    large."""
    request: Request
    windows: Windows | None = None
    """What its devices have round by round, where that moves; the support is that of the first."""
    macs: int
    """What making it takes on the server; a study that serves several is counted with the first of them."""
    said: Mapping[str, Any]
    """What the summary says of it, its groups apart."""


def variants(
    scenario: Scenario, network: UnitList, wanted: Sequence[Request], materials: Materials, *, nested: bool
) -> tuple[tuple[Variant, ...], frozenset[int]]:
    """The variants, from the largest to the smallest, and the groups whose devices can train all of the model.

    Args:
        nested: whether each is planned within the one before, as parts of one model.
    """
    from fedsim.pruning.methods import method

    fits: set[int] = set()
    studies: dict[str, Any] = {}
    charged: set[str] = set()
    planned: list[tuple[Request, Material, Method, str, Plan]] = []
    for request in wanted:
        with placed(scenario, *request.place):
            material = materials.of(request.machine, request.held, request.section.calibration)
            if request.section.manifest is not None:
                prunes = from_manifest(scenario, network, request.section.manifest)
            else:
                prunes = method(request.section.options)
            key = _study_key(request, prunes)
            if key not in studies:
                studies[key] = prunes.study(network, material)
            if request.section.fit is not None:
                _check_size(request.section.options)
                found = _fitting(prunes, network, studies[key], material, request)
                if found is None:
                    fits |= set(request.groups)
                    continue
                prunes = found
            planned.append((request, material, prunes, key, prunes.plan(network, studies[key], material)))
    planned.sort(key=lambda each: -each[4].parameters)
    within: Plan | None = None
    made: dict[str, Variant] = {}
    same: dict[str, str] = {}  # from plans for devices alone to those within larger ones
    for request, material, prunes, key, first in planned:
        with placed(scenario, *request.place):
            if first.digest in same:
                before = made[same[first.digest]]
                made[same[first.digest]] = replace(before, groups=before.groups | set(request.groups))
                continue
            plan = first if within is None or not nested else prunes.plan(network, studies[key], material, within)
            within, same[first.digest] = plan, plan.digest
            if nested:
                made = {digest: replace(variant, module=None) for digest, variant in made.items()}
            cut, checks = prunes.apply(network, plan, material)
            done = prunes.finish(cut, material)
            module: Any = done.module
            made[plan.digest] = Variant(
                groups=frozenset(request.groups),
                method=prunes,
                support=done.support,
                module=module,
                request=request,
                macs=prunes.macs(network, plan, material, study=key not in charged),
                said=said(done, checks, request.section, network, materials),
            )
            charged.add(key)
    return tuple(made.values()), frozenset(fits)


def _study_key(request: Request, prunes: Method) -> str:
    """Requests for which this is the same can share a study."""
    calibration = request.section.calibration
    told = None if calibration is None else calibration.model_dump_json()
    return f"{type(prunes).__qualname__} {prunes.studied} {told}"


def _check_size(options: Any) -> None:
    """Refuse a size where the device says the size.

    Raises:
        UserError: a budget or a density is given.
    """
    if not isinstance(options, Reconvene):
        return
    for name, given in (("budget", options.budget.given), ("density", options.density)):
        if given:
            raise UserError(
                f"fit: memory takes the largest model that the device can train, so {name} would change nothing; leave "
                "one of them out"
            )


def _fitting(prunes: Method, network: UnitList, study: Any, material: Material, request: Request) -> Method | None:
    """The method at the largest size that the device can train; None where it can train all of it.

    Raises:
        UserError: it cannot train any.
    """
    assert material.memory is not None
    machine = request.machine
    free = round(machine.memory.usable) - process_bytes(machine)
    least = material.memory(network)
    if least <= free:
        return None
    for share in SHARES:
        smaller = prunes.sized(share)
        try:
            cut, _ = smaller.apply(network, smaller.plan(network, study, material), material)
        except UserError:
            continue  # that size cannot be reached; another one may
        least = min(least, material.memory(cut.module))
        if least <= free:
            return smaller
    raise UserError(
        f"no size that {type(prunes).__name__.lower()} can reach fits {machine.id}: the smallest needs "
        f"{human_count(least, 'B')} for model and a step, and {human_count(free, 'B')} are free; take a smaller "
        "training.batch, another cut, or another device"
    )
