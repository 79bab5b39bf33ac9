"""What a summary says of pruned variants, and what installing them takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedsim.experiment.fleet import Fleet
from fedsim.experiment.materials import Materials
from fedsim.learning.plan import BlockPlan
from fedsim.payload.supports import WHOLE, Support
from fedsim.report.variants import WHOLE as WHOLE_MODEL

if TYPE_CHECKING:
    from fedsim.experiment.variants import Variant
    from fedsim.models.units import UnitList
    from fedsim.pruning.checks import Checks
    from fedsim.pruning.pruned import Pruned
    from fedsim.scenario import Pruned as Section


def said(done: Pruned, checks: Checks, section: Section, network: UnitList, materials: Materials) -> dict[str, Any]:
    """A variant in the summary."""
    plan, held = done.plan, sum(parameter.numel() for parameter in network.parameters())
    counts = materials.counts(done)
    before, after = materials.block(network), materials.block(done.module, Support(masks=done.support.masks))
    return {
        "method": plan.method,
        "options": dict(plan.options),
        "fit": section.fit,
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


def said_of_whole(network: UnitList, materials: Materials, *, fits: bool) -> dict[str, Any]:
    """The whole model as a variant in the summary, of groups that were left with it, maybe because it fits."""
    from fedsim.pruning.counting import counts

    found, device = counts(network, materials.example()), _of_device(materials.block(network))
    return {
        "method": WHOLE_MODEL,
        "options": {},
        "fit": "memory" if fits else None,
        "share": 1.0,
        "parameters": {"parent": found.parameters, "held": found.parameters, "nonzero": found.nonzero},
        "macs": found.macs,
        "bytes": {"wire": found.wire, "update": found.update, "resident": found.resident},
        "device": {"parent": device, "pruned": device},
        "plan": None,
        "support": WHOLE.digest,
        "realised": {},
        "checks": None,
        "privacy": "data-free",
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


def deployment(made: Sequence[Variant], fleet: Fleet, efficiency: float) -> list[dict[str, Any]]:
    """What installing takes beside the first weights, which are part of the run: indices, 4 bytes each, and masks.

    An entry a group, of all of its devices: bytes, and the seconds at the link's rate that each of them takes. And one
    a variant: the MACs of making it on the server.
    """
    found: list[dict[str, Any]] = []
    for variant in made:
        support = variant.support if variant.windows is None else WHOLE  # a rule says where windows are
        each = 4 * sum(len(kept) for axes in support.axes.values() for kept in axes if kept is not None)
        each += sum(-(-mask.size // 8) for mask in support.masks.values())
        for group in sorted(variant.groups):
            member = fleet.groups[group]
            seconds = member.link.one_way + each / member.link.goodput_down(efficiency)
            found.append({"group": group, "bytes": each * member.count, "seconds": seconds})
        found.append({"groups": sorted(variant.groups), "macs": variant.macs})
    return found
