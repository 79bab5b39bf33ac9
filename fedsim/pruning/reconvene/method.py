"""Reconvene behind the seam of all pruning methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from fedsim.errors import UserError
from fedsim.models.initial import drawn, reinitialise
from fedsim.pruning import counting
from fedsim.pruning.checks import Checks
from fedsim.pruning.methods import Material
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned
from fedsim.pruning.reconvene.costing import Costing
from fedsim.pruning.reconvene.curves import Curve, score
from fedsim.pruning.reconvene.cutting import apply
from fedsim.pruning.reconvene.options import Budget, Reconvene
from fedsim.pruning.reconvene.planning import plan
from fedsim.pruning.reconvene.rectifying import rectify
from fedsim.pruning.reconvene.scores import score_type

EACH = 10
"""Samples of each class that scores with data are taken on, as in the public code of SNIP and GraSP."""


@dataclass(frozen=True, slots=True)
class ReconveneMethod:
    """Plans by the options, for what the material says of the device."""

    options: Reconvene

    @property
    def studied(self) -> str:
        """Curves depend on the score and on how far it goes."""
        options = self.options
        return f"{options.score} {options.iterations} {options.lowest_density}"

    def study(self, model: nn.Module, material: Material) -> Curve:
        """The curve.

        Raises:
            UserError: a language model; or the score needs data, and there are none.
        """
        if not material.example.is_floating_point():
            raise UserError("reconvene prunes networks on images or vectors, and this one takes tokens; take mosaic")
        if not score_type(self.options.score).data:
            return score(model, self.options, material.example, seed=material.seed)
        if material.batch is None:
            raise UserError(
                f"score {self.options.score} needs samples with a label each, and there are none; take synflow, which "
                "needs none"
            )
        inputs, labels = material.batch(EACH)
        return score(model, self.options, inputs, labels, seed=material.seed)

    def plan(self, model: nn.Module, study: Curve, material: Material, within: Plan | None = None) -> Plan:
        """What to cut."""
        options = replace(
            self.options,
            scope=self.options.scope or material.scope,
            protected=(*self.options.protected, *(p for p in material.protected if p not in self.options.protected)),
            private=self.options.private or material.private,
            pretrained=self.options.pretrained or material.pretrained,
        )
        costing = Costing(machine=material.machine, batch=material.samples, slots=material.slots, units=material.units)
        if material.memory is not None and options.budget.memory is not None:
            if material.trains:
                costing = replace(costing, whole=material.memory(model))
            else:
                costing = replace(costing, needs=material.memory)
        return plan(model, study, options, example=material.example, costing=costing, within=within)

    def apply(self, model: nn.Module, plan: Plan, material: Material) -> tuple[Pruned, Checks]:
        """Cut."""
        return apply(model, plan, material.example)

    def finish(self, pruned: Pruned, material: Material) -> Pruned:
        """New initial values for what was touched."""
        return rectify(pruned, material.seed)

    def renew(self, model: nn.Module, layers: Iterable[str], material: Material) -> None:
        """The same values for a model of which several variants are parts."""
        if self.options.reinitialise == "none" or self.options.pretrained or material.pretrained:
            return
        chosen = set(layers)
        everything = self.options.reinitialise == "all"
        names = [name for name, part in model.named_modules() if drawn(part) and (everything or name in chosen)]
        with torch.no_grad():
            reinitialise(model, names, material.seed)

    def macs(self, model: nn.Module, plan: Plan, material: Material, *, study: bool = True) -> int:
        """Iterations, times samples, times a forward and the backward to inputs and weights: 3 forwards.

        GraSP takes the gradient twice and differentiates one of them again, which is counted as three of these. Scores
        that look at weights alone take none. All of it is the study.
        """
        if not study:
            return 0
        kind = score_type(self.options.score)
        if not kind.data and not kind.iterated:
            return 0
        samples = len(material.batch(EACH)[1]) if kind.data and material.batch is not None else 1
        rounds = self.options.iterations if kind.iterated else 1
        passes = 9 if self.options.score == "grasp" else 3
        return counting.macs(model, material.example) * samples * rounds * passes

    def sized(self, share: float) -> ReconveneMethod:
        """Within a budget of parameters."""
        return ReconveneMethod(replace(self.options, budget=Budget(params=share), density=None))
