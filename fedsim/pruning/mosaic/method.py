"""Mosaic behind the seam of all pruning methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from fedsim.errors import UserError
from fedsim.pruning import counting
from fedsim.pruning.checks import Checks
from fedsim.pruning.methods import Material
from fedsim.pruning.mosaic.adapters import PROJECTIONS, READERS, Projection, adapter, found, matrix
from fedsim.pruning.mosaic.calibration import Calibration
from fedsim.pruning.mosaic.composing import composed
from fedsim.pruning.mosaic.cutting import FIRST, apply, example
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.ranking import Ranking, rank
from fedsim.pruning.mosaic.sparsifying import sparsify
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned


@dataclass(frozen=True, slots=True)
class MosaicMethod:
    """Plans by the options, on the material's windows."""

    options: Mosaic

    @property
    def studied(self) -> str:
        """Rankings depend on how units are scored; of outliers, on what counts as one."""
        options = self.options
        return f"{options.unit_score} {options.outlier_factor} {options.adapter}"

    def study(self, model: nn.Module, material: Material) -> Ranking:
        """The ranking.

        Raises:
            UserError: there is no text.
        """
        return rank(model, self._windows(material), self._scoped(model, material))

    def plan(self, model: nn.Module, study: Ranking, material: Material, within: Plan | None = None) -> Plan:
        """What to cut and what to set to zero; where zeros come first, they are set in a copy to see."""
        return composed(model, study, self._scoped(model, material), self._windows(material), within=within)

    def apply(self, model: nn.Module, plan: Plan, material: Material) -> tuple[Pruned, Checks]:
        """Cut."""
        return apply(model, plan, self._windows(material))

    def finish(self, pruned: Pruned, material: Material) -> Pruned:
        """Zeros."""
        return sparsify(pruned, pruned.plan, self._windows(material))

    def renew(self, model: nn.Module, layers: Iterable[str], material: Material) -> None:
        """Nothing: the weights are trained."""

    def macs(self, model: nn.Module, plan: Plan, material: Material, *, study: bool = True) -> int:
        """A forward over the windows for the ranking and for each step that looks at them; second moments, tokens·C²
        each, and what is solved with them, C³ + rows·C² a matrix. A loss behind the ranking takes a backward, too.
        Zeros that come first are set twice, for the plan and for the cut.
        """
        tokens = self._windows(material).tokens
        blocks = found(adapter(self.options.adapter), model)
        forward = counting.macs(model, example(model, tokens)) * len(tokens)
        zeros = set(plan.sparsity) if self.options.pruner == "sparsegpt" else set()
        cut = {kept.layer for kept in plan.kept} if self.options.update == "least_squares" else set()
        first = 2 * (FIRST in plan.options)
        solving = 0
        for block in blocks:
            shapes = {projection: matrix(model, block, projection).shape for projection in PROJECTIONS}
            sparse = [p for p in PROJECTIONS if block.weight(p) in zeros]
            made_up: list[Projection] = ["o", "down"] if cut & set(block.projections.values()) else []
            for times, wanted in ((1 + first, sparse), (1, made_up)):  # each step has second moments of its own
                seen = sum(tokens.numel() * shapes[reader][1] ** 2 for reader in {READERS[p] for p in wanted})
                solving += times * (seen + sum(shapes[p][1] ** 3 + shapes[p][0] * shapes[p][1] ** 2 for p in wanted))
        ranking = (4 if self.options.unit_score == "taylor" else 1) if study else 0
        looks = bool(cut) + bool(plan.sparsity) + first
        return forward * (ranking + looks) + solving

    def sized(self, share: float) -> MosaicMethod:
        """So many of the projections' parameters; zeros take as much memory as other values, so all is cut out.

        Raises:
            UserError: the options cut nothing out.
        """
        if not self.options.alpha:
            raise UserError(
                "fit: memory, but with alpha 0 weights only become zero, which takes as much memory; set alpha above "
                "0, such as 1"
            )
        return MosaicMethod(replace(self.options, sparsity=1 - share))

    def _scoped(self, model: nn.Module, material: Material) -> Mosaic:
        """The options, for the decoder blocks among the units that may shrink.

        Raises:
            UserError: there are none.
        """
        scope = self.options.scope
        if material.scope and not scope:
            names = [block.name for block in found(adapter(self.options.adapter), model)]
            scope = tuple(unit for unit in material.scope if any(f"{name}.".startswith(f"{unit}.") for name in names))
            if not scope:
                raise UserError(
                    f"none of {', '.join(material.scope)}, which may shrink, is a decoder block; the first is "
                    f"{names[0]}: move the cut behind it, or set scope: model"
                )
        return replace(self.options, scope=scope, seed=material.seed)

    def _windows(self, material: Material) -> Calibration:
        if material.windows is None:
            raise UserError("mosaic prunes language models by what they do on text, and there is none; give text data")
        given = material.windows()
        if isinstance(given, Calibration):
            return given
        return Calibration(tokens=given, privacy="device-private" if material.private else "public")
