"""Batch norms put into the layers in front of them: for networks that are trained and only run."""

from __future__ import annotations

from copy import deepcopy
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fedsim.pruning.pruned import PruningError
from fedsim.pruning.reconvene.curves import output_axis
from fedsim.pruning.reconvene.tracing import trace
from fedsim.pruning.watching import evaluating

TOLERANCE: Final = 1e-5
"""The greatest difference of outputs, as a share of the greatest output."""


def fuse(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy without the batch norms that alone read what a convolution or a linear layer writes.

    Their running statistics, scale and shift go into the layer's weight and bias; in their place stands an identity.
    Other norms stay: those behind a sum, those of groups, those without statistics.

    Args:
        example: at least two samples, on which both models must agree.

    Raises:
        UserError: torch-pruning cannot trace the model.
        PruningError: the outputs differ.
    """
    traced = trace(model, example)
    fused = deepcopy(model)
    for layer, norm in traced.norms.items():
        part, behind = fused.get_submodule(layer), fused.get_submodule(norm)
        if layer in traced.alone and isinstance(behind, _BatchNorm) and behind.running_mean is not None:
            assert isinstance(part, _ConvNd | nn.Linear)
            _put_into(part, behind)
            fused.set_submodule(norm, nn.Identity())
    difference = apart(model, fused, example)
    if not difference <= TOLERANCE:
        raise PruningError(f"with its norms fused, the model's output differs by {difference:.2g} of its greatest")
    return fused


def _put_into(part: _ConvNd | nn.Linear, norm: _BatchNorm) -> None:
    """Scale and shift the outputs of a layer as a batch norm would; computed in double precision."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    with torch.no_grad():
        if part.bias is not None:
            shift = shift + part.bias.double() * scale
        shape = [1] * part.weight.dim()
        shape[output_axis(part)] = -1
        part.weight.copy_(part.weight.double() * scale.view(shape))
        part.bias = nn.Parameter(shift.to(part.weight.dtype))


def apart(model: nn.Module, other: nn.Module, example: Tensor) -> float:
    """The greatest difference of two models' outputs in eval mode, as a share of the greatest output.

    Where single precision is further off than is allowed, double precision decides.
    """
    found = _apart(model, other, example)
    if not found <= TOLERANCE and example.is_floating_point():
        found = _apart(deepcopy(model).double(), deepcopy(other).double(), example.double())
    return found


def _apart(model: nn.Module, other: nn.Module, example: Tensor) -> float:
    with evaluating(model), evaluating(other), torch.no_grad():
        wanted, got = model(example), other(example)
    return float((wanted - got).abs().max()) / (float(wanted.abs().max()) or 1.0)
