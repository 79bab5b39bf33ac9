"""The unstructured step: zeros, block by block, on inputs that have come through the blocks done before."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedsim.errors import UserError
from fedsim.payload.supports import Support
from fedsim.pruning.mosaic.adapters import PROJECTIONS, READERS, Block, adapter, found
from fedsim.pruning.mosaic.calibration import Windows, calibrated
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.pruners import Pruner, pruner
from fedsim.pruning.mosaic.streaming import Inputs, Stream, reading
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned, PruningError

TOLERANCE: Final = 0.001
"""How far the realised share of zeros of a projection may be off its target."""


def resolved(plan: Plan) -> Mosaic:
    """The options that a plan was made with.

    Raises:
        UserError: it is a plan of another method.
    """
    if plan.method != "mosaic":
        raise UserError(f"a plan of method {plan.method} is not for Mosaic; make one with mosaic.plan")
    known = {field.name for field in fields(Mosaic)}
    said: dict[str, Any] = {name: value for name, value in plan.options.items() if name in known}
    return Mosaic(**said | {"scope": tuple(said.get("scope", ()))})


def sparsify(pruned: Pruned, plan: Plan, windows: Windows) -> Pruned:
    """Set the planned share of each projection to zero, in a copy of a model that was cut (or left whole) by the plan.

    `realised` then has the share of zeros by weight. A plan without zeros gives back what there was.

    Raises:
        PruningError: a projection has another share of zeros than planned, by more than 0.1 points.
    """
    if not plan.sparsity:
        return pruned
    return sparsified(replace(pruned, module=deepcopy(pruned.module)), plan, windows)


def sparsified(pruned: Pruned, plan: Plan, windows: Windows) -> Pruned:
    """As `sparsify`, in the model itself: for who has no more use for it, and no memory for another.

    Raises:
        PruningError: as `sparsify`; some projections have their zeros then.
    """
    if not plan.sparsity:
        return pruned
    options = resolved(plan)
    rule, chosen = pruner(options), adapter(options.adapter)
    began = time.perf_counter()
    module = pruned.module
    blocks = found(chosen, module)
    targets = _targets(blocks, plan)
    masks: dict[str, NDArray[np.bool_]] = {}
    with reading(module):
        stream = Stream(module, chosen, blocks, calibrated(windows).tokens)
        concerned = [n for n, block in enumerate(blocks) if any(block.weight(p) in targets for p in PROJECTIONS)]
        last = max(concerned)
        for number, block in enumerate(blocks[: last + 1]):
            if number in concerned:
                seen = stream.watch(module, number, block, hessian=rule.hessian)
                masks |= _pruned(module, block, rule, seen, targets)
            if number < last:
                stream.advance(module, number, block)
    realised = {name: 1 - float(np.count_nonzero(mask)) / mask.size for name, mask in masks.items()}
    return replace(
        pruned,
        support=Support(pruned.support.axes, masks),
        updated=tuple(sorted({*pruned.updated, *masks})),
        realised={**pruned.realised, "sparsity": realised},
        timings={**pruned.timings, "sparsify": time.perf_counter() - began},
    )


def _targets(blocks: tuple[Block, ...], plan: Plan) -> dict[str, float]:
    """Shares of zeros by weight.

    Raises:
        UserError: a weight that this model does not have.
    """
    known = {block.weight(projection) for block in blocks for projection in PROJECTIONS}
    for name in plan.sparsity:
        if name not in known:
            raise UserError(f"the plan sets weights of {name} to zero, which is no projection of this model's blocks")
    return dict(plan.sparsity)


def _pruned(
    module: nn.Module, block: Block, rule: Pruner, seen: dict[Any, Inputs], targets: dict[str, float]
) -> dict[str, NDArray[np.bool_]]:
    """Prune a block's projections in place; masks by weight."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for projection in PROJECTIONS:
        name, inputs = block.weight(projection), seen[READERS[projection]]
        if name not in targets:
            continue
        weight = module.get_submodule(block.projections[projection]).get_parameter("weight")
        values, mask = rule(weight.detach().float(), inputs, targets[name])
        if not bool(values.isfinite().all()):
            raise PruningError(f"{name}: values that are not finite; raise damping, or calibrate on more windows")
        weight.copy_(values * mask)
        zeros = 1 - float(mask.sum()) / mask.numel()
        unused = float(inputs.dead.sum()) / len(inputs.dead)  # whose weights go in any case
        allowed = max(TOLERANCE, 1 / mask.numel())
        if not targets[name] - allowed <= zeros <= max(targets[name], unused) + allowed:
            raise PruningError(
                f"{name}: {zeros:.2%} zeros, but {targets[name]:.2%} were planned; the pruner {type(rule).__name__} "
                "does not keep to its share"
            )
        masks[name] = mask.cpu().numpy()
    return masks
