"""A second opinion on sensitivities: crop each layer alone, and see how much of the network's score is lost.

Cropping is a stand-in for the cut: the filters that rank lowest are set to zero. Where the losses rank the layers
otherwise than their densities do, a warning names those that disagree most.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.models.building import seeded
from fedsim.pruning.reconvene.curves import Floats, output_axis
from fedsim.pruning.reconvene.planning import Planner
from fedsim.pruning.reconvene.scores import Batch, Loss, SynFlow, score_type, scored
from fedsim.pruning.reconvene.tracing import Ints, Port


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """What densities and crops say of each set of coupled layers, by the name of its first layer."""

    densities: Mapping[str, float]
    losses: Mapping[str, float]
    """The share of the network's score that is lost when half of the units go."""
    correlation: float
    """Of both rankings, by Spearman; 1 where they agree."""
    disagreeing: tuple[str, ...]
    """Sets whose two ranks are more than half of the sets apart."""


def crosscheck(
    planner: Planner,
    step: float,
    example: Tensor,
    labels: Tensor | None = None,
    loss: Loss = cross_entropy,
) -> Opinions:
    """Compare densities at a step of the curve with what cropping each set to half of its units does.

    The network's score is the sum of its weights' scores; for SynFlow, whose layers all have the same sum, that sum.
    Warns where the rankings disagree.
    """
    batch = Batch(example=example, labels=labels, loss=loss, seed=planner.curve.seed)
    sets = planner.coupling.sets
    whole = _total(planner.model, planner.curve.score, batch, {})
    lost = []
    for number, each in enumerate(sets):
        lowest = np.argsort(planner.sensitivity.scores(number, step), kind="stable")[: each.units // 2]
        gone = {name: each.places[Port(name, "out")][lowest].ravel() for name in each.layers}
        lost.append(1 - _total(planner.model, planner.curve.score, batch, gone) / whole)
    densities, losses = planner.sensitivity.densities(step), np.array(lost)
    apart = np.abs(_ranks(densities) - _ranks(losses)) > len(sets) / 2
    disagreeing = tuple(each.name for each, far in zip(sets, apart, strict=True) if far)
    if disagreeing:
        warnings.warn(
            f"densities and crops disagree on how sensitive {', '.join(disagreeing)} is; compare with another score",
            stacklevel=2,
        )
    return Opinions(
        densities={each.name: float(d) for each, d in zip(sets, densities, strict=True)},
        losses={each.name: float(loss) for each, loss in zip(sets, losses, strict=True)},
        correlation=float(spearmanr(densities, losses).statistic) if len(sets) > 1 else 1.0,
        disagreeing=disagreeing,
    )


def _ranks(values: Floats) -> Ints:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def _total(model: nn.Module, name: str, batch: Batch, gone: Mapping[str, Ints]) -> float:
    """The score of a copy of the model without these outputs of these layers."""
    copy = deepcopy(model)
    with torch.no_grad():
        for layer, outputs in gone.items():
            part = copy.get_submodule(layer)
            assert isinstance(part.weight, Tensor)
            part.weight.index_fill_(output_axis(part), torch.from_numpy(outputs), 0)
            if isinstance(part.bias, Tensor):
                part.bias.index_fill_(0, torch.from_numpy(outputs), 0)
    with seeded(batch.seed), torch.enable_grad():
        made = score_type(name)(copy, scored(copy), batch)
        if isinstance(made, SynFlow):
            return made.flow()
        return sum(float(values.sum()) for values in made().values())
