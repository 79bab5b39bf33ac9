"""Plans of structured pruning: from a curve and a budget to the filters that stay.

The widths of resilient layers follow the densities of the mask; the solver finds the density at which the budget holds.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.units import UnitList
from fedsim.payload.supports import Support
from fedsim.pruning import counting
from fedsim.pruning.plans import Kept, Kind, Plan, Privacy, most_private
from fedsim.pruning.pruned import fingerprint
from fedsim.pruning.reconvene.costing import Costing
from fedsim.pruning.reconvene.coupling import Coupling, couple
from fedsim.pruning.reconvene.curves import Curve, Floats
from fedsim.pruning.reconvene.options import Reconvene, limit
from fedsim.pruning.reconvene.sensitivity import Sensitivity
from fedsim.pruning.reconvene.solving import Found, Limits, Mask, solve
from fedsim.pruning.reconvene.tracing import Ints

_BEYOND = 2.0
"""How far beyond the last step of a curve, as a multiple of it, sizes are looked for with the sets as they come."""


def plan(
    model: nn.Module,
    curve: Curve,
    options: Reconvene,
    *,
    example: Tensor | None = None,
    costing: Costing | None = None,
    within: Plan | None = None,
) -> Plan:
    """What to cut out of a model, which stays as it is.

    Args:
        curve: of this model.
        example: inputs to trace the model with; left out, zeros of a unit list's own input shape.
        costing: what memory and latency are computed with, where the budget names them.
        within: the plan of a larger variant, which has all that is to stay.

    Raises:
        UserError: the curve is of another model; neither a budget nor a density is given; the budget cannot be
            reached, with the smallest that can.
    """
    return Planner(model, curve, options, example=example, costing=costing, within=within).plan()


class Planner:
    """A model with its curve, coupling and sensitivity: what plans of it have in common."""

    def __init__(
        self,
        model: nn.Module,
        curve: Curve,
        options: Reconvene,
        *,
        example: Tensor | None = None,
        costing: Costing | None = None,
        within: Plan | None = None,
    ) -> None:
        self.model, self.curve, self.options = model, curve, options
        self.parent = fingerprint(model)
        if curve.parent != self.parent:
            raise UserError("the curve was made for other weights than this model has; score the model again")
        if curve.score != options.score:
            raise UserError(f"the curve is of score {curve.score}, but the options say {options.score}; score again")
        self.example = inputs(model) if example is None else example
        self.coupling = couple(model, self.example, scope=options.scope, protected=options.protected)
        if not self.coupling.sets:
            raise UserError(f"nothing in {called(model)} may be cut: {self._why()}")
        self.sensitivity = Sensitivity(model, self.coupling, curve, options)
        self._costing = costing
        self._privacy = privacy(options, curve.data)
        if within is not None:
            self._privacy = most_private(self._privacy, within.privacy)
        outer = {} if within is None else {each.layer: each.indices for each in within.kept}
        self._allowed = self.coupling.chosen(outer)
        self._ceiling = np.array([len(units) for units in self._allowed], np.int64)

    def plan(self) -> Plan:
        """The plan for the options' budget or density."""
        if self.options.density is None:
            return self.made("reconvene", self._solved())
        found = self._at(self.options.density)
        if (found.kept == self.coupling.units).all():
            raise UserError(
                f"density {self.options.density:g} makes no layer narrower: round_to {self.options.round_to} and "
                f"min_channels {self.options.min_channels} leave all filters, or no layer is resilient; take smaller "
                "ones, a lower density, or another tau"
            )
        return self.made("reconvene", found)

    def path(self, position: float, cut: Mask | None) -> tuple[Ints, Mask]:
        """The widths at a step of the curve: resilient sets keep d^gamma of their units, others all."""
        chosen = self.sensitivity.resilient(position) if cut is None else cut
        shares = np.where(chosen, self.sensitivity.densities(position) ** self.options.gamma, 1.0)
        return self.widths(shares), chosen

    def widths(self, shares: Floats) -> Ints:
        """How many units sets keep of these shares of theirs: rounded up, and at least the least."""
        units, step = self.coupling.units, self.options.round_to
        whole = step * np.ceil(np.round(shares * units / step, 9)).astype(np.int64)
        least = -(-self.options.min_channels // step) * step
        return np.minimum(np.maximum(whole, least), self._ceiling)

    def limits(self) -> Limits:
        """Of the options' budget.

        Raises:
            UserError: there is none, or nothing to compute memory or latency with.
        """
        given = self.options.budget.given
        if not given:
            raise UserError("neither a budget nor a density is given; set budget.params to 25 %, or density to 0.1")
        amounts: dict[str, Any] = {
            "params": lambda kept: float(self.coupling.counts(kept, scope=True)[0]),
            "macs": lambda kept: float(self._in_scope(kept)),
        }
        dear = sorted(given.keys() - amounts.keys())
        if dear:
            if self._costing is None:
                raise UserError(f"budget.{dear[0]} needs a device profile to be computed with; name one")
            costing = self._costing.of(self.model, self.coupling)
            amounts |= {"memory": costing.memory, "latency": costing.latency}
        chosen = {name: amounts[name] for name in (*amounts,) if name in given}
        whole = {name: amount(self.coupling.units) for name, amount in chosen.items()}
        most = {name: limit(name, given[name], whole[name]) for name in chosen}
        return Limits(amounts=chosen, most=most, dear=bool(dear))

    def made(self, method: str, found: Found) -> Plan:
        """The plan of widths: which units stay is said by the scores where they were found."""
        units = self.units(found.kept, found.position)
        support = self.coupling.support(units)
        parameters, macs = self._counts(found.kept)
        return Plan(
            method=method,
            parent=self.parent,
            seed=self.curve.seed,
            options={**as_json(self.options), "found": self._report(found)},
            source=self.curve.digest,
            kept=kept_layers(self.model, self.coupling, support),
            protected=self.options.protected,
            parameters=parameters,
            macs=macs,
            privacy=self._privacy,
        )

    def units(self, kept: Ints, position: float) -> list[Ints]:
        """By set, the units with the highest scores; of equal ones the first."""
        chosen = []
        for number, count in enumerate(kept.tolist()):
            allowed = self._allowed[number]
            scores = self.sensitivity.scores(number, position)[allowed]
            chosen.append(np.sort(allowed[np.argsort(-scores, kind="stable")[:count]]))
        return chosen

    def _counts(self, kept: Ints) -> tuple[int, int]:
        """Parameters and MACs after a cut; what is neither a convolution nor a linear layer stays as it is."""
        parameters, macs = self.coupling.counts(kept)
        return parameters, macs + self._other_macs

    def _in_scope(self, kept: Ints) -> int:
        """MACs of what lies in the scope; without one, of all that multiplies."""
        return self.coupling.counts(kept, scope=True)[1] if self.options.scope else self._counts(kept)[1]

    @cached_property
    def _other_macs(self) -> int:
        return counting.macs(self.model, self.example) - self.coupling.counts(self.coupling.units)[1]

    def _at(self, density: float) -> Found:
        position = self.curve.step_of(density)
        kept, cut = self.path(position, None)
        return Found(kept=kept, cut=cut, position=position, frozen=False)

    def _solved(self) -> Found:
        limits = self.limits()
        found = solve(self.path, limits, self.positions, self._ceiling, self.options.round_to)
        if found is None:
            raise UserError(self._unreachable(limits))
        return found

    @property
    def positions(self) -> list[float]:
        """Where the solver looks first: at the steps of the curve, and beyond."""
        return [step / 2 for step in range(int(2 * _BEYOND * self.curve.steps) + 1)]

    def _report(self, found: Found) -> dict[str, Any]:
        collapsed = set(self.curve.collapsed(found.position)) - set(self.sensitivity.blind)
        densities, tau = self.sensitivity.densities(found.position), self.sensitivity.tau(found.position)
        return {
            "step": found.position,
            "tau": tau,
            "resilient": [each.name for each, cut in zip(self.coupling.sets, found.cut, strict=True) if cut],
            "frozen": found.frozen,
            "densities": {e.name: float(d) for e, d in zip(self.coupling.sets, densities, strict=True)},
            "repaired": [e.name for e in self.coupling.sets if collapsed.issuperset(e.layers)],
            "blind": list(self.sensitivity.blind),
        }

    def _why(self) -> str:
        protected, scope = self.options.protected, self.options.scope
        reasons = [f"{', '.join(protected)} must stay whole"] if protected else []
        reasons += [f"nothing outside {', '.join(scope)} may change"] if scope else []
        return " and ".join(reasons) or "no layer's outputs are read by layers that can follow"

    def _unreachable(self, limits: Limits) -> str:
        """For a budget that no model on the path meets: which, and the smallest there is."""
        smallest, _ = self.path(self.positions[-1] * 80, self.path(self.positions[-1], None)[1])
        parts = []
        for name, most in limits.most.items():
            least, whole = limits.amounts[name](smallest), limits.amounts[name](self.coupling.units)
            if least > most:
                asked, there = (f"{100 * value / whole:.3g} %" for value in (most, least))
                what = (
                    f"{called(self.model)}'s {', '.join(self.options.scope)}"
                    if self.options.scope
                    else called(self.model)
                )
                parts.append(f"{name} {asked} of {what} cannot be reached: the smallest is {there}")
        cut = sum(self.path(self.positions[-1], None)[1])
        parts.append(f"{cut} of {len(self.coupling.sets)} sets of coupled layers are resilient")
        if self.options.protected or self.options.scope:
            parts.append(self._why())
        return "; ".join(parts) + "; raise the budget, or tau, or let more be cut"


def inputs(model: nn.Module) -> Tensor:
    """Two samples of zeros, of a unit list's own shape.

    Raises:
        UserError: the model does not know its input shape.
    """
    if not isinstance(model, UnitList):
        raise UserError(f"a {type(model).__name__} does not say what it takes; give an example of its inputs")
    return torch.zeros((2, *model.input), dtype=torch.int64 if model.tokens else getattr(torch, model.dtype))


def kept_layers(model: nn.Module, coupling: Coupling, support: Support) -> tuple[Kept, ...]:
    """What a support keeps of the layers that make units, where it is not all."""
    kept = []
    for name in dict.fromkeys(each.name for each in coupling.sets):
        outputs, of = coupling.outputs(support, name), coupling.width(name)
        if len(outputs) < of:
            kind: Kind = "features" if isinstance(model.get_submodule(name), nn.Linear) else "filters"
            kept.append(Kept(layer=name, kind=kind, of=of, indices=tuple(outputs.tolist())))
    return tuple(kept)


def privacy(options: Reconvene, data: bool) -> Privacy:
    """What plans by a score depend on, which may look at a batch."""
    if not data:
        return "data-free"
    return "device-private" if options.private else "public"


def called(model: nn.Module) -> str:
    """What a model is called in messages."""
    return model.name if isinstance(model, UnitList) else type(model).__name__


def as_json(options: Reconvene) -> dict[str, Any]:
    """The options as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}
