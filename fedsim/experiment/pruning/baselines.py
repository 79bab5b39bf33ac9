"""What Reconvene is compared with, all of one size, by the same command."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from fedsim.errors import UserError, unknown
from fedsim.experiment.pruning.stages import Stages
from fedsim.experiment.pruning.subjects import Subject
from fedsim.pruning.reconvene.options import Reconvene

if TYPE_CHECKING:
    from fedsim.pruning.checks import Checks
    from fedsim.pruning.methods import Material
    from fedsim.pruning.plans import Plan
    from fedsim.pruning.pruned import Pruned
    from fedsim.pruning.reconvene import Planner

ALL: Final = "all"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One of them."""

    name: str
    pruned: Pruned
    checks: Checks
    seconds: float
    report: Any = None
    """What it comes to, once it is measured."""


def chosen(named: Sequence[str], options: Any) -> tuple[str, ...]:
    """The names of baselines; the whole model needs none.

    Raises:
        UserError: there is none of a name, or the method has none.
    """
    if not named:
        return ()
    if not isinstance(options, Reconvene):
        raise UserError(f"--baselines are for method reconvene, not for {type(options).__name__}; leave them out")
    from fedsim.pruning.reconvene import BASELINES

    for name in named:
        if name not in (*BASELINES, ALL):
            raise UserError(unknown("baseline", name, (*BASELINES, ALL)))
    wanted = BASELINES if ALL in named else named
    return tuple(name for name in dict.fromkeys(wanted) if name != "dense")


def made(
    names: Sequence[str],
    options: Any,
    found: Subject,
    curve: Any,
    plan: Plan,
    sight: Material,
    stages: Stages,
) -> tuple[Baseline, ...]:
    """All of the size of a plan; one that cannot be made so is the user's to leave out."""
    if not names:
        return ()
    plans = planner(options, found, curve, sight)
    made = []
    for name in names:
        with stages.stage(f"baseline {name}"):
            began = time.perf_counter()
            pruned, checks = (_masked if name == "upai" else _cut)(plans, name, plan, sight)
            seconds = time.perf_counter() - began
        made.append(Baseline(name=name, pruned=pruned, checks=checks, seconds=seconds))
    return tuple(made)


def planner(options: Reconvene, found: Subject, curve: Any, sight: Material) -> Planner:
    """What Reconvene's plans of a model have in common."""
    from fedsim.pruning.reconvene import Costing, Planner

    told = replace(
        options,
        private=options.private or sight.private,
        pretrained=options.pretrained or sight.pretrained,
    )
    costing = Costing(machine=sight.machine, batch=sight.samples, slots=sight.slots)
    return Planner(found.module, curve, told, example=sight.example, costing=costing)


def _cut(plans: Planner, name: str, like: Plan, sight: Material) -> tuple[Pruned, Checks]:
    from fedsim.pruning.reconvene import apply, baseline, rectify

    plan = baseline(plans, name, like, seed=sight.seed)
    cut, checks = apply(plans.model, plan, sight.example)
    return rectify(cut, sight.seed), checks


def _masked(plans: Planner, _name: str, like: Plan, sight: Material) -> tuple[Pruned, Checks]:
    """The mask itself; the whole model is verified as a cut that removes nothing."""
    from copy import deepcopy

    from fedsim.payload.supports import WHOLE
    from fedsim.pruning.reconvene import masked
    from fedsim.pruning.reconvene.method import EACH
    from fedsim.pruning.reconvene.scores import score_type
    from fedsim.pruning.verifying import verify

    inputs, labels = sight.example, None
    if score_type(plans.options.score).data and sight.batch is not None:
        inputs, labels = sight.batch(EACH)
    pruned = masked(plans.model, plans.options, like.parameters, inputs, labels, seed=sight.seed)
    whole = replace(pruned, module=deepcopy(plans.model), support=WHOLE)
    return pruned, verify(plans.model, whole, sight.example, nothing=True)
