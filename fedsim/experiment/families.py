"""The model of a run and its pruned variants: parts of one model, or models of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import UserError
from fedsim.experiment.accounts import said_of_whole
from fedsim.experiment.assembly import Smaller
from fedsim.experiment.fleet import Fleet
from fedsim.experiment.manifests import overruled
from fedsim.experiment.materials import Materials
from fedsim.experiment.placing import placed
from fedsim.experiment.variants import Request, Variant, variants
from fedsim.payload.supports import WHOLE, Support
from fedsim.scenario import Scenario

if TYPE_CHECKING:
    from torch import nn

    from fedsim.models.units import UnitList


@dataclass(frozen=True, kw_only=True)
class Family:
    """The model of a run, and its variants."""

    network: UnitList
    """What the server holds: the scenario's model, or the largest variant where nobody holds all of that."""
    support: Support = WHOLE
    """The masks of the network itself, where all devices hold the same."""
    networks: tuple[UnitList, ...] = ()
    """Of the variants, with the network's values; with their own, where they are apart."""
    smaller: tuple[Smaller, ...] = ()
    """The variants, measured, in the coordinates of the network; of the scenario's model, where they are apart."""
    apart: bool = False
    """Whether each variant is a model of its own; the whole one is a variant, too, where somebody has it."""
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
    apart = scenario.pruning is not None and scenario.pruning.aggregation == "per-variant"
    made, fits = variants(scenario, network, wanted, materials, nested=not apart)
    everybody = frozenset(range(len(fleet.groups)))
    others = everybody.difference(*(variant.groups for variant in made))
    rolling = scenario.pruning is not None and scenario.pruning.windows == "rolling"
    if rolling:
        made = tuple(_rolling(scenario, network, variant, materials) for variant in made)
    report = list(_report(network, made, fits, others if apart and made else fits, materials))
    if not made:
        return Family(network=network, report=report)
    if len(made) == 1 and not others and not rolling:
        (only,) = made
        assert only.module is not None
        support = Support(masks=only.support.masks)
        return Family(network=only.module, support=support, made=(replace(only, module=None),), report=report)
    _check_server_block(scenario, network, made, materials.cut)
    if apart:
        return _side_by_side(network, made, others, materials, report)
    whole, base = _common(network, made, everybody)
    renewed = sorted({layer for variant in made for layer in _changed(variant.support)})
    made[0].method.renew(whole, renewed, materials.of(made[0].request.machine, made[0].request.held))
    return _put_together(whole, base, made, materials, report)


def _report(
    network: UnitList, made: Sequence[Variant], fits: frozenset[int], others: frozenset[int], materials: Materials
) -> Iterator[dict[str, Any]]:
    """A line a variant, by number; before them one for those left whole since it fits, and one for `others`."""
    whole = (True, fits), (False, others - fits)
    lines = [(said_of_whole(network, materials, fits=because), groups) for because, groups in whole if groups]
    for said, groups in lines:
        yield {**said, "groups": sorted(groups), "variant": 1}
    for number, variant in enumerate(made, 1 + bool(lines)):
        yield {**variant.said, "groups": sorted(variant.groups), "variant": number}


# ------------------------------------------------------------------------------------- models of their own


def _side_by_side(
    network: UnitList,
    made: Sequence[Variant],
    others: frozenset[int],
    materials: Materials,
    report: list[dict[str, Any]],
) -> Family:
    """A model for each variant, with the values that its method gave it, and the whole one for the others.

    Behind the cut there is one server block for all: that of the first.
    """
    from fedsim.pruning.resizing import put

    members: list[tuple[UnitList, Support, frozenset[int]]] = [(network, WHOLE, others)] if others else []
    for variant in made:
        assert variant.module is not None
        members.append((variant.module, variant.support, variant.groups))
    first = members[0][0]
    if materials.cut is not None:
        behind = tuple(f"{name}." for name, _ in list(first.named_children())[materials.cut :])
        shared = [each for each in (*first.named_parameters(), *first.named_buffers()) if each[0].startswith(behind)]
        for module, _, _ in members[1:]:
            for name, tensor in shared:
                put(module, name, tensor)
    return Family(
        network=first,
        networks=tuple(module for module, _, _ in members),
        smaller=tuple(
            Smaller(model=materials.measured(module), support=support, groups=groups)
            for module, support, groups in members
        ),
        apart=True,
        made=tuple(replace(variant, module=None) for variant in made),
        report=report,
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
    rolling = any(variant.windows is not None for variant in made)
    base = WHOLE
    if held == everybody and not rolling and all(_contains(largest, variant.support) for variant in made):
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
        smaller.append(
            Smaller(model=materials.measured(module), support=support, groups=variant.groups, windows=variant.windows)
        )
    begun = [(variant.method, network, sorted(variant.groups)) for variant, network in held]
    return Family(
        network=whole,
        networks=tuple(network for variant, network in held if network is not whole),
        smaller=tuple(smaller),
        made=tuple(made),
        report=report,
        warnings=tuple(overruled(begun)),
    )


def _rolling(scenario: Scenario, network: UnitList, variant: Variant, materials: Materials) -> Variant:
    """A variant whose channels move, each layer keeping as many as the method has left it.

    Raises:
        UserError: that cannot be.
    """
    from fedsim.pruning.rolling import windows

    assert scenario.pruning is not None
    request = variant.request
    material = materials.of(request.machine, request.held, request.section.calibration)
    with placed(scenario, *request.place):
        if request.section.manifest is not None:
            raise UserError("windows: rolling needs a method, since a folder's channels stay where they are")
        made = windows(
            network,
            variant.support,
            material.example,
            scope=material.scope,
            protected=material.protected,
            step=scenario.pruning.window_step,
        )
    return replace(variant, windows=made, support=made.support(0))


def _share(whole: nn.Module, part: nn.Module, support: Support) -> None:
    """Give a variant the whole one's own tensors wherever it has all of them: nobody writes to either."""
    from fedsim.pruning.resizing import put

    of_part = part.state_dict()
    for name, tensor in (*whole.named_parameters(), *whole.named_buffers()):
        if name in of_part and name not in support.axes and name not in support.masks:
            put(part, name, tensor)
