"""The pruned variants of a scenario's model: who has which, how they are made, and the model that all are parts of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError
from fedsim.experiment.assembly import Smaller
from fedsim.experiment.fleet import Fleet, process_bytes
from fedsim.experiment.manifests import from_manifest, overruled
from fedsim.experiment.materials import Materials
from fedsim.experiment.placing import placed
from fedsim.hardware.machines import Machine
from fedsim.learning.plan import BlockPlan
from fedsim.payload.supports import WHOLE, Support
from fedsim.pruning.reconvene.options import Reconvene
from fedsim.scenario import Pruned as Section
from fedsim.scenario import Scenario
from fedsim.units import human_count

if TYPE_CHECKING:
    from torch import nn

    from fedsim.models.units import UnitList
    from fedsim.pruning.checks import Checks
    from fedsim.pruning.methods import Material, Method
    from fedsim.pruning.plans import Plan
    from fedsim.pruning.pruned import Pruned

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
    """With the values that the method gave it; kept as long as it is the only variant, since it may be large."""
    request: Request
    macs: int
    """What making it takes on the server; a study that serves several is counted with the first of them."""
    said: Mapping[str, Any]
    """What the summary says of it, its groups apart."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The model of a run, and its variants."""

    network: UnitList
    """What the server holds: the scenario's model, or the largest variant where nobody holds all of that."""
    support: Support = WHOLE
    """The masks of the network itself, where all devices hold the same."""
    networks: tuple[UnitList, ...] = ()
    """Of the variants, with the network's values."""
    smaller: tuple[Smaller, ...] = ()
    """The variants, measured, in the coordinates of the network."""
    made: tuple[Variant, ...] = ()
    """How they have come about, all of them."""
    report: list[dict[str, Any]] = field(default_factory=list)
    """What the summary says of them."""
    warnings: tuple[str, ...] = ()
    """What a reader has to know of how they were put together."""


def family(
    scenario: Scenario, network: UnitList, fleet: Fleet, wanted: Sequence[Request], materials: Materials
) -> Family:
    """The variants that a scenario asks for, and the model that they are parts of.

    Raises:
        UserError: a method cannot do what is asked for.
        PruningError: what a method has cut is not what it planned.
    """
    made = _variants(scenario, network, wanted, materials)
    if not made:
        return Family(network=network)
    everybody = frozenset(range(len(fleet.groups)))
    report = [{**variant.said, "groups": sorted(variant.groups)} for variant in made]
    if len(made) == 1 and made[0].groups == everybody:
        (only,) = made
        assert only.module is not None
        support = Support(masks=only.support.masks)
        return Family(network=only.module, support=support, made=(replace(only, module=None),), report=report)
    _check_server_block(scenario, network, made, materials.cut)
    whole, base = _common(network, made, everybody)
    renewed = sorted({layer for variant in made for layer in _changed(variant.support)})
    made[0].method.renew(whole, renewed, materials.of(made[0].request.machine, made[0].request.held))
    return _put_together(whole, base, made, materials, report)


def _variants(
    scenario: Scenario, network: UnitList, wanted: Sequence[Request], materials: Materials
) -> tuple[Variant, ...]:
    """Planned from the largest to the smallest, each within the one before, so that they nest."""
    from fedsim.pruning.methods import method

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
                    continue  # all of it fits
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
            plan = first if within is None else prunes.plan(network, studies[key], material, within)
            within, same[first.digest] = plan, plan.digest
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
                said=_said(done, checks, request, network, materials),
            )
            charged.add(key)
    return tuple(made.values())


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


# --------------------------------------------------------------------------------------- one model of all


def _check_server_block(scenario: Scenario, network: UnitList, made: Sequence[Variant], cut: int | None) -> None:
    """Refuse variants that differ behind the cut, where all devices share one server block.

    Raises:
        UserError: naming what differs.
    """
    if cut is None:
        return
    behind = tuple(f"{name}." for name, _ in list(network.named_children())[cut:])
    for variant in made:
        names = [name for name in (*variant.support.axes, *variant.support.masks) if name.startswith(behind)]
        if names:
            where = scenario.where(*variant.request.place)
            raise UserError(
                f"groups hold different variants, but {names[0]} is behind the cut, and scheduler "
                f"{scenario.scheduler.name} has one server block for all; set scope: device-block, or prune the whole "
                f"fleet alike {where}"
            )


def _common(network: UnitList, made: Sequence[Variant], everybody: frozenset[int]) -> tuple[UnitList, Support]:
    """A copy of the model that all variants are parts of, and what it has of the scenario's."""
    from fedsim.pruning.resizing import sliced

    largest = made[0].support
    held = frozenset[int]().union(*(variant.groups for variant in made))
    base = WHOLE
    if held == everybody and all(_contains(largest, variant.support) for variant in made):
        base = Support(axes=largest.axes)
    whole: Any = sliced(network, base)
    return whole, base


def _contains(larger: Support, smaller: Support) -> bool:
    for name, axes in larger.axes.items():
        inner = smaller.axes.get(name)
        for number, kept in enumerate(axes):
            if kept is None:
                continue
            mine = None if inner is None else inner[number]
            if mine is None or not np.isin(mine, kept).all():
                return False
    return True


def relative(support: Support, base: Support) -> Support:
    """The same support, in the coordinates of a larger one that contains it."""
    axes = {}
    for name, mine in support.axes.items():
        outer = base.axes.get(name, (None,) * len(mine))
        kept = tuple(_position(inner, other) for inner, other in zip(mine, outer, strict=True))
        if any(each is not None for each in kept):
            axes[name] = kept
    return Support(axes, support.masks, placed=support.placed)


def _position(inner: Any, outer: Any) -> Any:
    if outer is None or inner is None:
        return inner
    return None if len(inner) == len(outer) else np.searchsorted(outer, inner)


def _changed(support: Support) -> set[str]:
    """The modules of which something is gone."""
    return {name.rpartition(".")[0] for name, axes in support.axes.items() if any(kept is not None for kept in axes)}


def _put_together(
    whole: UnitList, base: Support, made: Sequence[Variant], materials: Materials, report: list[dict[str, Any]]
) -> Family:
    from fedsim.pruning.resizing import sliced

    held: list[tuple[Variant, UnitList]] = []
    smaller: list[Smaller] = []
    for variant in made:
        support = relative(variant.support, base)
        if support.whole:
            held.append((variant, whole))
            continue  # its devices hold all there is
        module: Any = sliced(whole, support)
        _share(whole, module, support)
        held.append((variant, module))
        smaller.append(Smaller(model=materials.measured(module), support=support, groups=variant.groups))
    begun = [(variant.method, network, sorted(variant.groups)) for variant, network in held]
    return Family(
        network=whole,
        networks=tuple(network for variant, network in held if network is not whole),
        smaller=tuple(smaller),
        made=tuple(made),
        report=report,
        warnings=tuple(overruled(begun)),
    )


def _share(whole: nn.Module, part: nn.Module, support: Support) -> None:
    """Give a variant the whole one's own tensors wherever it has all of them: nobody writes to either."""
    from fedsim.pruning.resizing import put

    of_part = part.state_dict()
    for name, tensor in (*whole.named_parameters(), *whole.named_buffers()):
        if name in of_part and name not in support.axes and name not in support.masks:
            put(part, name, tensor)


# ------------------------------------------------------------------------------------------- what is said


def _said(done: Pruned, checks: Checks, request: Request, network: UnitList, materials: Materials) -> dict[str, Any]:
    """A variant in the summary."""
    plan, held = done.plan, sum(parameter.numel() for parameter in network.parameters())
    counts = materials.counts(done)
    before, after = materials.block(network), materials.block(done.module, Support(masks=done.support.masks))
    return {
        "method": plan.method,
        "options": dict(plan.options),
        "fit": request.section.fit,
        "share": plan.parameters / held,
        "parameters": {"parent": held, "held": counts.parameters, "nonzero": counts.nonzero},
        "macs": counts.macs,
        "bytes": {"wire": counts.wire, "update": counts.update, "resident": counts.resident},
        "device": {"parent": _of_device(before), "pruned": _of_device(after)},
        "plan": plan.digest,
        "support": done.support.digest,
        "realised": dict(done.realised),
        "checks": checks.data(),
        "privacy": plan.privacy,
    }


def _of_device(plan: BlockPlan) -> dict[str, int]:
    """What a device holds: parameters and forward MACs of a sample without the auxiliary head, bytes of a message.

    Of the parameters, as many as masks leave out are zeros.
    """
    units = plan.units[: plan.trunk]
    return {
        "parameters": sum(unit.trainable for unit in units),
        "zeros": sum(shape.elements - shape.travelling for shape in plan.parameters.shapes),
        "macs": sum(unit.macs for unit in units),
        "message_bytes": plan.weights.nbytes,
    }


def deployment(family: Family, fleet: Fleet, efficiency: float) -> list[dict[str, Any]]:
    """What installing takes beside the first weights, which are part of the run: indices, 4 bytes each, and masks.

    An entry a group, of all of its devices: bytes, and the seconds at the link's rate that each of them takes. And one
    a variant: the MACs of making it on the server.
    """
    found: list[dict[str, Any]] = []
    for variant in family.made:
        support = variant.support
        each = 4 * sum(len(kept) for axes in support.axes.values() for kept in axes if kept is not None)
        each += sum(-(-mask.size // 8) for mask in support.masks.values())
        for group in sorted(variant.groups):
            member = fleet.groups[group]
            seconds = member.link.one_way + each / member.link.goodput_down(efficiency)
            found.append({"group": group, "bytes": each * member.count, "seconds": seconds})
        found.append({"groups": sorted(variant.groups), "macs": variant.macs})
    return found
