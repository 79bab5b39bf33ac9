"""The reference of a cut: the parent with what was removed held at zero where the next layer reads it.

Generic over supports: a layer reads along one axis of its weight, and the parts of that axis that the support leaves
out become zero. Knows nothing of how a cut is chosen or done.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from fedsim import seeds
from fedsim.payload.supports import Support
from fedsim.pruning.pruned import Pruned

_LOWEST: Final = 0.5
"""Of the values of a probe, which lie between it and three times it: no channel vanishes, all differ."""


def parts(name: str) -> tuple[str, str]:
    """The module and the tensor of a name of a `state_dict`."""
    module, _, tensor = name.rpartition(".")
    return module, tensor


def reading_axis(module: nn.Module, tensor: Tensor) -> int | None:
    """The axis of a weight along which its layer reads its input; None where it reads none of it along an axis."""
    if tensor.dim() < 2 or isinstance(module, nn.Embedding):
        return None
    # Conv1D is transformers' linear layer with its weight the other way round.
    return 0 if isinstance(module, _ConvTransposeNd) or type(module).__name__ == "Conv1D" else 1


def writing_axis(module: nn.Module, tensor: Tensor) -> int:
    """The axis of a weight along which its layer writes its output."""
    if tensor.dim() < 2:
        return 0
    reads = reading_axis(module, tensor)
    return 1 if reads is None else 1 - reads


def channel_axis(module: nn.Module, output: Tensor) -> int | None:
    """The axis of a layer's output that holds its channels; None for layers that are no known kind."""
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() | _ConvTransposeNd():
            return output.dim() - module.weight.dim() + 1
        case _NormBase() | nn.GroupNorm():
            return 1
        case nn.Linear() | nn.Embedding() | nn.LayerNorm():
            return output.dim() - 1
        case _ if is_rms(module) or type(module).__name__ == "Conv1D":
            return output.dim() - 1
        case _:
            return None


def is_rms(module: nn.Module) -> bool:
    """Whether a layer divides by the root mean square of the last axis: PyTorch's, or a family's of transformers."""
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("RMSNorm") and isinstance(weight, Tensor) and weight.dim() == 1


def removed(support: Support, name: str, axis: int, size: int) -> list[int]:
    """What a support leaves out of one axis of a tensor."""
    axes = support.axes.get(name)
    kept = None if axes is None else axes[axis]
    return [] if kept is None else sorted(set(range(size)) - set(kept.tolist()))


def kept_part(tensor: Tensor, support: Support, name: str) -> Tensor:
    """The values of a parent's tensor at the coordinates that a support keeps; a copy, where it leaves any out."""
    for axis, kept in enumerate(support.axes.get(name, ())):
        if kept is not None:
            tensor = tensor.index_select(axis, torch.from_numpy(kept).to(tensor.device))
    return tensor


def reference(parent: nn.Module, pruned: Pruned) -> dict[str, Tensor]:
    """The parent's tensors that a reference has other values of; all others are the parent's own."""
    made: dict[str, Tensor] = {}
    state = parent.state_dict()
    smaller = pruned.module.state_dict()
    with torch.no_grad():
        for name in sorted({*pruned.support.axes, *pruned.updated}):
            owner = parent.get_submodule(parts(name)[0])
            tensor = state[name]
            axis = reading_axis(owner, tensor)
            unread = [] if axis is None else removed(pruned.support, name, axis, tensor.shape[axis])
            if not unread and name not in pruned.updated:
                continue
            made[name] = tensor.detach().clone()
            if name in pruned.updated:
                index = pruned.support.index(name, tuple(tensor.shape))
                made[name][index] = smaller[name].detach().to(tensor.dtype)
            if axis is not None and unread:
                made[name].index_fill_(axis, torch.tensor(unread, device=tensor.device), 0)
    return made


def probes(parent: nn.Module, pruned: Pruned) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values that tell channels apart, for the parent and for the smaller model, where the tensors' own may not.

    A fresh batch norm has the same scale for all channels, so a wrong index there changes no output yet. These are for
    cut tensors of one axis: scales, shifts, biases and running statistics.
    """
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(sorted(parent.state_dict().items())):
        axes = pruned.support.axes.get(name)
        if (
            name in pruned.updated
            or tensor.dim() != 1
            or not tensor.is_floating_point()
            or axes is None
            or axes[0] is None
        ):
            continue
        generator = torch.Generator().manual_seed(seeds.derive(0, -1, "probe", number))
        drawn = _LOWEST + 2 * _LOWEST * torch.rand(tensor.shape, generator=generator)
        ours[name] = drawn.to(tensor)
        theirs[name] = ours[name][torch.from_numpy(axes[0])]
    return ours, theirs
