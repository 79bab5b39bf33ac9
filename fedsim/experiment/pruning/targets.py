"""Target against realised: of the whole, and of each layer or projection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.experiment.pruning.baselines import planner
from fedsim.experiment.pruning.looking import material
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.reconvene.options import Reconvene

if TYPE_CHECKING:
    from fedsim.experiment.pruning.running import Outcome
    from fedsim.payload.supports import Support
    from fedsim.pruning.plans import Kept, Plan

Row = dict[str, Any]


def targets(outcome: Outcome) -> list[Row]:
    """What was asked for, and what came of it, as shares of the parent's: an entry a quantity."""
    match outcome.options:
        case Reconvene():
            return _budgets(outcome, outcome.options)
        case Mosaic():
            rows = layers(outcome)
            elements = sum(row["elements"] for row in rows)
            gone = elements - sum(row["nonzero"] for row in rows)
            what = "of the decoder's projections" + (" in scope" if outcome.options.scope else "")
            return [
                {
                    "name": "sparsity",
                    "of": what,
                    "asked": outcome.options.sparsity,
                    "target": outcome.options.sparsity,
                    "realised": gone / elements,
                }
            ]
        case _:
            return []


def _budgets(outcome: Outcome, options: Reconvene) -> list[Row]:
    if not options.budget.given:
        return []
    asked, found = outcome.asked, outcome.subject
    sight = material(
        found, data=None, calibration=None, machine=outcome.machine, batch=asked.batch, private=asked.private
    )
    plans = planner(options, found, outcome.study, sight)
    limits = plans.limits()
    units = plans.coupling.chosen({kept.layer: kept.indices for kept in outcome.plan.kept})
    kept = np.array([len(each) for each in units], np.int64)
    rows = []
    for name, most in limits.most.items():
        whole = limits.amounts[name](plans.coupling.units)
        rows.append(
            {
                "name": name,
                "of": "of the parent's" + (" in scope" if options.scope else ""),
                "asked": options.budget.given[name],
                "target": most / whole,
                "realised": limits.amounts[name](kept) / whole,
            }
        )
    return rows


def layers(outcome: Outcome) -> list[Row]:
    """A row a layer that was cut, or a projection of a language model."""
    plan = outcome.plan
    if plan.method == "mosaic":
        return _projections(outcome)
    shares = _shares(plan)
    rows = [_layer(kept, shares.get(kept.layer)) for kept in plan.kept]
    seen = support(outcome)
    return rows + [_masked(name, plan.sparsity.get(name), seen) for name in sorted(seen.masks)]


def _layer(kept: Kept, target: float | None) -> Row:
    return {
        "layer": kept.layer,
        "kind": kept.kind,
        "of": kept.of,
        "kept": len(kept.indices),
        "target": target,
        "realised": len(kept.indices) / kept.of,
    }


def _masked(name: str, target: float | None, seen: Support) -> Row:
    """Of weights that the cut has left, how many may be other than zero."""
    elements, kept = seen.masks[name].size, seen.kept(name)
    assert kept is not None
    return {
        "layer": name,
        "kind": "weights",
        "of": elements,
        "kept": kept,
        "target": None if target is None else 1 - target,
        "realised": kept / elements,
    }


def _shares(plan: Plan) -> dict[str, float]:
    """Of Reconvene's plans: the share of its filters that each resilient layer was to keep, before rounding."""
    found: Mapping[str, Any] = plan.options.get("found", {})
    gamma = plan.options.get("gamma")
    if gamma is None:
        return {}
    resilient = set(found.get("resilient", ()))
    return {name: density**gamma for name, density in found.get("densities", {}).items() if name in resilient}


def _projections(outcome: Outcome) -> list[Row]:
    """Of each projection in scope: what the cut has removed, zeros targeted and set, and both together."""
    from fedsim.pruning.mosaic.adapters import PROJECTIONS, adapter, found, scoped

    plan, seen = outcome.plan, support(outcome)
    parents = _shapes(outcome)
    blocks = found(adapter(plan.options["adapter"]), outcome.subject.module)
    rows = []
    for number in scoped(blocks, plan.options["scope"]):
        block = blocks[number]
        for projection in PROJECTIONS:
            name = block.weight(projection)
            elements, left = math.prod(parents[name]), math.prod(seen.shape(name, parents[name]))
            nonzero, zeros = seen.kept(name), plan.sparsity.get(name, 0.0)
            nonzero = left if nonzero is None else nonzero
            rows.append(
                {
                    "layer": name.removesuffix(".weight"),
                    "block": block.name,
                    "projection": projection,
                    "elements": elements,
                    "held": left,
                    "nonzero": nonzero,
                    "removed": 1 - left / elements,
                    "zeros_target": zeros,
                    "zeros": 1 - nonzero / left if left else 0.0,
                    "target": 1 - left / elements * (1 - zeros),
                    "realised": 1 - nonzero / elements,
                }
            )
    return rows


def outliers(outcome: Outcome) -> Row | None:
    """Percentages of outliers by block and projection, where a ranking tells them."""
    from fedsim.pruning.mosaic.ranking import Ranking, current

    if not isinstance(outcome.study, Ranking):
        return None
    options = outcome.options
    _, blocks = current(outcome.study, outcome.subject.module, options)
    known = outcome.study.distribution(outcome.subject.module, blocks, options.outlier_factor)
    return {
        "factor": options.outlier_factor,
        "blocks": [
            {"name": block.name, "projections": dict(own), "all": together}
            for block, (own, together) in zip(blocks, known, strict=True)
        ],
    }


def support(outcome: Outcome) -> Support:
    """What the pruned model has of its parent."""
    if outcome.pruned is not None:
        return outcome.pruned.support
    assert outcome.subject.stored is not None
    return outcome.subject.stored.support


def _shapes(outcome: Outcome) -> dict[str, tuple[int, ...]]:
    """The parent's shapes by tensor."""
    stored = outcome.subject.stored
    if stored is not None:
        return {name: entry.of for name, entry in stored.manifest.tensors.items()}
    return {name: tuple(tensor.shape) for name, tensor in outcome.subject.module.state_dict().items()}
