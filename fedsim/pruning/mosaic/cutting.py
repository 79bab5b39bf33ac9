"""The structured step: a copy of a model without the units that a plan drops, block by block, and verified.

What stays of the output projections (o, down) can make up for what went: the least-squares solution on the calibration
windows, as they arrive through the blocks that were cut before. Unlike FLAP's this adds no biases.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.payload.supports import Axes, Support
from fedsim.pruning.checks import Checks
from fedsim.pruning.mosaic.adapters import Adapter, Block, Projection, adapter, found, on_device
from fedsim.pruning.mosaic.calibration import Windows, calibrated
from fedsim.pruning.mosaic.indexing import Units, axes, chosen
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.sparsifying import resolved, sparsified
from fedsim.pruning.mosaic.streaming import Inputs, Stream, reading
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned, fingerprint
from fedsim.pruning.verifying import verify

FIRST: Final = "zeros_first"
"""Where a plan's options have the shares of weights, by matrix, that become zero before the cut."""


def apply(model: nn.Module, plan: Plan, windows: Windows) -> tuple[Pruned, Checks]:
    """Cut out what a plan drops, and verify the result. The model is left as it was.

    If zeros come first, they are set in a copy of the model, from which the units are cut then; the checks compare the
    cut with that.

    Raises:
        UserError: the plan was made for another model.
        PruningError: the result is not what the plan says.
    """
    if fingerprint(model) != plan.parent:
        raise UserError(
            f"the plan was made for another model than this {type(model).__name__} (of fingerprint "
            f"{plan.parent[:12]}...); make a plan for this one"
        )
    tokens = calibrated(windows).tokens
    seconds: dict[str, float] = {}
    changed: tuple[str, ...] = ()
    if FIRST in plan.options:
        sparse = zeroed(model, resolved(plan), plan.options[FIRST], windows)
        model, changed = sparse.module, sparse.updated
        seconds |= sparse.timings
    began = time.perf_counter()
    pruned = cut(model, plan, tokens)
    cutting = time.perf_counter()
    checks = verify(model, pruned, example(model, tokens), nothing=not plan.cuts)
    seconds |= {"cut": cutting - began, "verify": time.perf_counter() - cutting}
    return replace(pruned, timings=seconds, updated=tuple(sorted({*pruned.updated, *changed}))), checks


def zeroed(model: nn.Module, options: Mosaic, shares: Mapping[str, float], windows: Windows) -> Pruned:
    """A copy of a model in which so many weights of each matrix are zero, and nothing is cut."""
    made = Plan(
        method="mosaic",
        parent="",
        seed=options.seed,
        options=asdict(options) | {"scope": list(options.scope)},
        source="",
        kept=(),
        sparsity=shares,
        parameters=0,
        privacy="public",
    )
    whole = Pruned(module=deepcopy(model), plan=made, support=Support())
    whole.module.zero_grad(set_to_none=True)
    return sparsified(whole, made, windows)


def example(model: nn.Module, tokens: Tensor) -> Tensor | dict[str, Any]:
    """One window, as the model takes it."""
    window = on_device(model, tokens[:1])
    return {"input_ids": window, "use_cache": False} if hasattr(model, "config") else window


def cut(model: nn.Module, plan: Plan, tokens: Tensor) -> Pruned:
    """The smaller model, not verified yet."""
    chosen_adapter = adapter(plan.options["adapter"])
    blocks = found(chosen_adapter, model)
    units = chosen(blocks, plan.kept)
    module = deepcopy(model)
    module.zero_grad(set_to_none=True)
    support = Support({name: kept for n, each in units.items() for name, kept in axes(model, blocks[n], each).items()})
    updated: list[str] = []
    if units and plan.options["update"] == "least_squares":
        with reading(module):
            updated = _compensated(module, chosen_adapter, blocks, units, support.axes, tokens, plan.options["damping"])
    else:
        for number in units:
            _shrink(module, blocks[number], support.axes, {})
    return Pruned(module=module, plan=plan, support=support, updated=tuple(updated))


def _compensated(
    module: nn.Module,
    adapter: Adapter,
    blocks: Sequence[Block],
    units: Mapping[int, Units],
    kept: Mapping[str, Axes],
    tokens: Tensor,
    damping: float,
) -> list[str]:
    """Cut block by block on inputs that have come through the blocks cut before; names of the updated tensors."""
    updated: list[str] = []
    stream = Stream(module, adapter, blocks, tokens)
    for number in range(max(units) + 1):
        block = blocks[number]
        if number in units:
            outputs: tuple[Projection, ...] = ("o", "down")
            fewer = [projection for projection in outputs if block.weight(projection) in kept]
            seen = stream.watch(module, number, block, hessian=True, only=fewer)
            values: dict[str, Tensor] = {}
            for projection in fewer:
                name = block.weight(projection)
                columns = kept[name][1]
                assert columns is not None
                weight = module.get_submodule(block.projections[projection]).get_parameter("weight")
                values[name] = compensated(weight.detach(), seen[projection], columns, damping)
            updated += values
            _shrink(module, block, kept, values)
        if number < max(units):
            stream.advance(module, number, block)
    return updated


def compensated(weight: Tensor, inputs: Inputs, kept: np.ndarray[Any, Any], damping: float) -> Tensor:
    """The kept columns of a weight that give nearest to its outputs on the inputs: W_K + W_D H_DK (H_KK + d)^-1.

    Args:
        damping: d, as a share of the mean of H_KK's diagonal.
    """
    hessian = inputs.hessian.double()
    stay = torch.from_numpy(kept).to(weight.device)
    goes = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    goes[stay] = False
    inner = hessian[stay][:, stay]
    diagonal = inner.diagonal()
    diagonal += damping * (diagonal.mean() or 1.0)
    wide = weight.double()
    lost = wide[:, goes] @ hessian[goes][:, stay]
    made = wide[:, stay] + torch.cholesky_solve(lost.T, torch.linalg.cholesky(inner)).T
    return made.to(weight.dtype)


def _shrink(module: nn.Module, block: Block, kept: Mapping[str, Axes], values: Mapping[str, Tensor]) -> None:
    """Leave only what is kept of a block's tensors, and set what follows from their shapes."""
    for path in block.projections.values():
        linear: Any = module.get_submodule(path)
        for own in ("weight", "bias"):
            name = f"{path}.{own}"
            if name not in kept:
                continue
            old = linear.get_parameter(own)
            new = values.get(name)
            if new is None:
                index = Support(kept).index(name, tuple(old.shape))
                new = old.detach()[tuple(torch.from_numpy(each) for each in index)].clone()
            setattr(linear, own, nn.Parameter(new, old.requires_grad))
        linear.out_features, linear.in_features = linear.weight.shape
    attention: Any = module.get_submodule(block.attention)
    q, k = (module.get_submodule(block.projections[p]).get_parameter("weight").shape[0] for p in ("q", "k"))
    attention.num_key_value_groups = q // k
