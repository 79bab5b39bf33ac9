"""Pruning of untrained convolutional networks: a reconstruction after Reconvene (arXiv 2404.16877).

A score of pruning at initialisation gives every layer a density (`score`), densities say which layers are resilient and
how wide they may stay within a budget (`plan`), those are cut and checked (`apply`), and what was touched gets new
initial values (`rectify`). What is published is the outline; formulas, thresholds and the solver are reconstruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsim.lazily import attributes

if TYPE_CHECKING:
    from fedsim.pruning.reconvene.baselines import BASELINES, baseline, masked
    from fedsim.pruning.reconvene.costing import Costing
    from fedsim.pruning.reconvene.crosschecking import crosscheck
    from fedsim.pruning.reconvene.curves import Curve, masks, score
    from fedsim.pruning.reconvene.cutting import apply
    from fedsim.pruning.reconvene.emptying import Emptied, without_empty
    from fedsim.pruning.reconvene.fusing import fuse
    from fedsim.pruning.reconvene.options import Budget, Reconvene
    from fedsim.pruning.reconvene.planning import Planner, plan
    from fedsim.pruning.reconvene.portfolios import Variant, magnitude, portfolio
    from fedsim.pruning.reconvene.rectifying import rectify

_WHERE = {
    "BASELINES": "baselines",
    "baseline": "baselines",
    "masked": "baselines",
    "Costing": "costing",
    "crosscheck": "crosschecking",
    "Curve": "curves",
    "masks": "curves",
    "score": "curves",
    "apply": "cutting",
    "Emptied": "emptying",
    "without_empty": "emptying",
    "fuse": "fusing",
    "Budget": "options",
    "Reconvene": "options",
    "Planner": "planning",
    "plan": "planning",
    "Variant": "portfolios",
    "magnitude": "portfolios",
    "portfolio": "portfolios",
    "rectify": "rectifying",
}

__all__ = [
    "BASELINES",
    "Budget",
    "Costing",
    "Curve",
    "Emptied",
    "Planner",
    "Reconvene",
    "Variant",
    "apply",
    "baseline",
    "crosscheck",
    "fuse",
    "magnitude",
    "masked",
    "masks",
    "plan",
    "portfolio",
    "rectify",
    "score",
    "without_empty",
]

__getattr__ = attributes(__name__, _WHERE)  # the options alone, which scenarios need, take no torch
