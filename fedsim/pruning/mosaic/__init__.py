"""Projection pruning of language models after the public Mosaic code; structured and composite parts are our
reconstruction.

    ranking = rank(model, windows)                       # one dense forward; save and load
    options = Mosaic(sparsity=0.6, alpha=0.5)
    chosen = plan(model, ranking, options)
    cut, checks = apply(model, chosen, windows)          # whole heads and channels; verified
    pruned = sparsify(cut, chosen, windows)              # zeros

`prune` does the last three. One ranking serves every target, policy and variant. `recover` trains the result for a
while, its zeros staying zero; `advise` says which of the three kinds suits a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsim.lazily import attributes

if TYPE_CHECKING:
    from fedsim.pruning.mosaic.calibration import Calibration, drawn
    from fedsim.pruning.mosaic.composing import prune
    from fedsim.pruning.mosaic.cutting import apply
    from fedsim.pruning.mosaic.options import Mosaic, Recovery
    from fedsim.pruning.mosaic.planning import plan
    from fedsim.pruning.mosaic.platforms import advise
    from fedsim.pruning.mosaic.ranking import Ranking, rank
    from fedsim.pruning.mosaic.recovering import recover
    from fedsim.pruning.mosaic.sparsifying import sparsify

_WHERE = {
    "Calibration": "calibration",
    "drawn": "calibration",
    "prune": "composing",
    "apply": "cutting",
    "Mosaic": "options",
    "Recovery": "options",
    "advise": "platforms",
    "recover": "recovering",
    "plan": "planning",
    "Ranking": "ranking",
    "rank": "ranking",
    "sparsify": "sparsifying",
}

__all__ = [
    "Calibration",
    "Mosaic",
    "Ranking",
    "Recovery",
    "advise",
    "apply",
    "drawn",
    "plan",
    "prune",
    "rank",
    "recover",
    "sparsify",
]

__getattr__ = attributes(__name__, _WHERE)  # the options alone, which scenarios need, take no torch
