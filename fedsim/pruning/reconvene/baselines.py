"""What a plan is compared with, all of one size: the mask itself, and cuts that choose their layers otherwise.

`upai` keeps the mask and cuts nothing; `uniform` gives all layers one ratio; `all-layers` takes the widths from the
densities of all layers, without asking which are resilient (after PreCrop, arXiv 2203.02549); `random-layers` and
`inverted` give one ratio to layers taken at random, and to the sensitive ones first.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim import seeds
from fedsim.errors import UserError, unknown
from fedsim.payload.supports import Support
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned, fingerprint
from fedsim.pruning.reconvene.curves import Floats, masks
from fedsim.pruning.reconvene.options import Reconvene
from fedsim.pruning.reconvene.planning import Planner, as_json, privacy
from fedsim.pruning.reconvene.scores import Loss, score_type, scored
from fedsim.pruning.reconvene.solving import Limits, Mask, Path, solve
from fedsim.pruning.reconvene.tracing import Ints

CUTS: Final = ("uniform", "all-layers", "random-layers", "inverted")
"""The baselines that are cuts."""
BASELINES: Final = ("dense", "upai", *CUTS)


def baseline(planner: Planner, name: str, like: Plan, *, seed: int = 0) -> Plan:
    """The plan of a baseline that is a cut, of the size of another plan.

    Args:
        like: how many parameters; and how far the layers that it cuts are cut at most.
        seed: of the layers taken at random.

    Raises:
        UserError: no such baseline, or no cut of that size.
    """
    if name not in CUTS:
        raise UserError(unknown("baseline", name, CUTS))
    counts = planner.coupling.counts
    limits = Limits(amounts={"params": lambda kept: float(counts(kept)[0])}, most={"params": float(like.parameters)})
    units, step = planner.coupling.units, planner.options.round_to
    position = float(like.options["found"]["step"])
    if name == "all-layers":
        every: Mask = np.ones(len(units), bool)
        found = solve(lambda x, _: planner.path(x, every), limits, planner.positions, units, step)
    else:
        found = solve(_one_ratio(planner, name, like, limits, seed), limits, [x / 8 for x in range(128)], units, step)
    if found is None:
        raise UserError(f"baseline {name} cannot come down to {like.parameters} parameters; ask for a larger model")
    at = position if name != "all-layers" else found.position
    return planner.made(name, replace(found, position=at))


def _one_ratio(planner: Planner, name: str, like: Plan, limits: Limits, seed: int) -> Path:
    """A path on which the chosen sets keep one share, halved with every step."""
    units = planner.coupling.units
    densities = planner.sensitivity.densities(float(like.options["found"]["step"]))
    if name == "uniform":
        return lambda x, _: (planner.widths(np.full(len(units), 0.5**x)), np.ones(len(units), bool))
    if name == "inverted":
        order = np.argsort(-densities, kind="stable")
    else:
        order = seeds.generator(seed, -1, "layers cut at random").permutation(len(units))
    resilient = set(like.options["found"]["resilient"])
    number = max(1, sum(each.name in resilient for each in planner.coupling.sets))
    least = _least_share(planner, like)
    while number < len(units) and not limits.fit(planner.widths(_shares(order[:number], len(units), least))):
        number += 1  # these layers alone have too few parameters
    if number == len(units):
        warnings.warn(
            f"baseline {name} has to cut all layers to come down to {like.parameters:,} parameters, as uniform does, "
            "so it tells nothing of which layers are cut; ask for a larger model",
            stacklevel=2,
        )
    chosen = np.zeros(len(units), bool)
    chosen[order[:number]] = True
    return lambda x, _: (planner.widths(np.where(chosen, np.maximum(0.5**x, least), 1.0)), chosen)


def _shares(chosen: Ints, sets: int, share: float) -> Floats:
    shares = np.ones(sets)
    shares[chosen] = share
    return shares


def _least_share(planner: Planner, like: Plan) -> float:
    """The smallest share of its units that a plan leaves to a set."""
    kept = planner.coupling.chosen({each.layer: each.indices for each in like.kept})
    return float(min(len(some) / units for some, units in zip(kept, planner.coupling.units.tolist(), strict=True)))


def masked(
    model: nn.Module,
    options: Reconvene,
    parameters: int,
    example: Tensor,
    labels: Tensor | None = None,
    loss: Loss = cross_entropy,
    *,
    seed: int = 0,
    iterations: int = 100,
) -> Pruned:
    """Baseline `upai`: the model whole, with so many values that may be other than zero.

    All of them lie where the score wants them, but for biases and norms, which stay.

    Args:
        parameters: how many.
        iterations: as in `masks`.

    Raises:
        UserError: fewer values than there are biases and norms.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    rest = total - sum(weight.numel() for weight in scored(model).values())
    if parameters <= rest:
        raise UserError(f"{parameters} values cannot be kept: biases and norms alone have {rest}")
    found = masks(model, options, parameters - rest, example, labels, loss, seed=seed, iterations=iterations)
    module = deepcopy(model)
    with torch.no_grad():
        for name, mask in found.items():
            module.get_parameter(name).mul_(mask)
    plan = Plan(
        method="upai",
        parent=fingerprint(model),
        seed=seed,
        options=as_json(options),
        source="",
        kept=(),
        sparsity={name: 1 - int(mask.sum()) / mask.numel() for name, mask in found.items()},
        parameters=total,
        privacy=privacy(options, score_type(options.score).data),
    )
    support = Support(masks={name: mask.numpy() for name, mask in found.items()})
    return Pruned(module=module, plan=plan, support=support, realised={"nonzero": parameters})
