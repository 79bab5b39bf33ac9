"""The physical step: a smaller module with the parent's values where the plan keeps them, verified."""

from __future__ import annotations

from dataclasses import replace
from time import process_time
from typing import Any

from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.pruning.checks import Checks
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned, fingerprint
from fedsim.pruning.reconvene.coupling import couple
from fedsim.pruning.reconvene.planning import inputs
from fedsim.pruning.reconvene.rectifying import touched
from fedsim.pruning.resizing import sliced
from fedsim.pruning.verifying import verify


def apply(model: nn.Module, plan: Plan, example: Tensor | None = None) -> tuple[Pruned, Checks]:
    """Cut what a plan says out of a copy of a model, and check the copy.

    A budget that the parent meets already cuts nothing.

    Args:
        example: inputs for tracing and checking; left out, zeros of a unit list's own input shape.

    Raises:
        UserError: the plan was made for another model.
        PruningError: the smaller model is not what the plan says; names the layer.
    """
    start = process_time()
    if fingerprint(model) != plan.parent:
        raise UserError("the plan was made for other weights than this model has; make the plan for this model")
    given = inputs(model) if example is None else example
    options = plan.options
    coupling = couple(model, given, scope=options.get("scope", ()), protected=plan.protected)
    support = coupling.support(coupling.chosen({kept.layer: kept.indices for kept in plan.kept}))
    realised = {**_realised(plan), "touched": touched(support, coupling.traced.norms)}
    made = Pruned(module=sliced(model, support), plan=plan, support=support, realised=realised)
    cut = process_time()
    checks = verify(model, made, given, nothing=options.get("density") in (None, 1))
    timings = {"cut": cut - start, "verify": process_time() - cut}
    return replace(made, timings=timings), checks


def _realised(plan: Plan) -> dict[str, Any]:
    """What is reported of the cut: the share of the filters that each layer keeps, and layers that had no weight."""
    shares = {kept.layer: len(kept.indices) / kept.of for kept in plan.kept}
    return {"kept": shares, "repaired": plan.options.get("found", {}).get("repaired", [])}
