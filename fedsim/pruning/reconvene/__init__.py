"""Pruning of untrained convolutional networks: a reconstruction after Reconvene (arXiv 2404.16877).

A score of pruning at initialisation gives every layer a density (`score`), densities say which layers are resilient and
how wide they may stay within a budget (`plan`), those are cut and checked (`apply`), and what was touched gets new
initial values (`rectify`). What is published is the outline; formulas, thresholds and the solver are reconstruction.
"""

from fedsim.pruning.reconvene.baselines import BASELINES, baseline, masked
from fedsim.pruning.reconvene.costing import Costing
from fedsim.pruning.reconvene.crosschecking import crosscheck
from fedsim.pruning.reconvene.curves import Curve, masks, score
from fedsim.pruning.reconvene.cutting import apply
from fedsim.pruning.reconvene.options import Budget, Reconvene
from fedsim.pruning.reconvene.planning import Planner, plan
from fedsim.pruning.reconvene.rectifying import rectify

__all__ = [
    "BASELINES",
    "Budget",
    "Costing",
    "Curve",
    "Planner",
    "Reconvene",
    "apply",
    "baseline",
    "crosscheck",
    "masked",
    "masks",
    "plan",
    "rectify",
    "score",
]
