"""Shrinking a model's skeleton to given shapes, with the attributes that follow from them.

Each type of layer has a rule for its attributes, chosen by `functools.singledispatch`. What no rule knows of can be
named: `plain_attributes` of a smaller model against those of a resized skeleton. Knows nothing of plans and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fedsim.errors import UserError
from fedsim.models.zoo.resnet import ResidualBlock
from fedsim.payload.supports import Support
from fedsim.pruning.references import kept_part, parts

Shapes = Mapping[str, tuple[int, ...]]
Attributes = dict[str, dict[str, Any]]
"""By module, by attribute."""


def resize(module: nn.Module, shapes: Shapes) -> None:
    """Give tensors other shapes, in place; the values of those that change are arbitrary afterwards.

    Tensors that are shared stay so. Names are those of `state_dict`; a tensor that `shapes` leaves out stays.

    Raises:
        UserError: there is no such tensor, or it has another number of axes.
    """
    made: dict[int, Tensor] = {}
    changed: set[str] = set()
    for name, tensor in _named(module).items():
        wanted = shapes.get(name)
        if wanted is None or wanted == tuple(tensor.shape):
            continue
        if len(wanted) != tensor.dim():
            raise UserError(f"{name} has shape {tuple(tensor.shape)} in this model, but {wanted} is asked for")
        if id(tensor) not in made:
            made[id(tensor)] = _like(tensor, torch.empty(wanted, dtype=tensor.dtype, device=tensor.device))
        put(module, name, made[id(tensor)])
        changed.add(parts(name)[0])
    for name in shapes.keys() - _named(module).keys():
        raise UserError(f"there is no tensor {name} in this model; take the model that was pruned")
    outer = {name[: i if i > 0 else 0] for name in changed for i in _ends(name)}
    for name in sorted(outer, key=len, reverse=True):  # layers before what holds them
        follow(module.get_submodule(name))


def sliced(parent: nn.Module, support: Support) -> nn.Module:
    """A copy of the parent that has only what a support keeps; what its masks leave out is zero."""
    state = {name: tensor.detach() for name, tensor in parent.state_dict().items()}
    smaller = deepcopy(parent)
    resize(smaller, {name: support.shape(name, tuple(tensor.shape)) for name, tensor in state.items()})
    fill(smaller, state, support)
    return smaller


def fill(smaller: nn.Module, whole: Mapping[str, Tensor], support: Support) -> None:
    """Overwrite a smaller model's tensors, in place, with what a support keeps of these, masks included."""
    with torch.no_grad():
        for name, tensor in _named(smaller).items():
            if name not in whole:  # a buffer that does not travel
                continue
            tensor.copy_(kept_part(whole[name], support, name))
            if name in support.masks:
                tensor.masked_fill_(torch.from_numpy(~support.masks[name]), 0)


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace one parameter or buffer."""
    owner, own = parts(name)
    setattr(module.get_submodule(owner), own, tensor)


def _like(old: Tensor, values: Tensor) -> Tensor:
    return nn.Parameter(values, old.requires_grad) if isinstance(old, nn.Parameter) else values


def _named(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _ends(name: str) -> list[int]:
    """Where a module's name may be cut off to name one that holds it; the whole name, and none, included."""
    return [0, *(i for i, letter in enumerate(name) if letter == "."), len(name)]


# ------------------------------------------------------------------------------------------ attributes


@singledispatch
def follow(module: nn.Module) -> None:
    """Set the attributes of a module that follow from the shapes of its tensors; `follow.register` adds a rule."""
    attention: Any = module
    if hasattr(module, "num_key_value_groups"):  # attention of transformers, whatever the family
        attention.num_key_value_groups = attention.q_proj.weight.shape[0] // attention.k_proj.weight.shape[0]


@follow.register
def _(module: _ConvNd) -> None:
    shape = module.weight.shape
    if isinstance(module, _ConvTransposeNd):
        module.in_channels, module.out_channels = shape[0], shape[1] * module.groups
        return
    if module.groups == module.in_channels > 1:  # depthwise: as many groups as channels
        module.groups = shape[0] // (module.out_channels // module.in_channels)
    module.out_channels, module.in_channels = shape[0], shape[1] * module.groups


@follow.register
def _(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


@follow.register
def _(module: nn.Embedding) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


@follow.register
def _(module: _NormBase) -> None:
    tensor = module.weight if module.affine else module.running_mean
    assert tensor is not None
    module.num_features = len(tensor)


@follow.register
def _(module: nn.GroupNorm) -> None:
    """Groups of the same size where they divide the channels, else one."""
    size, module.num_channels = module.num_channels // module.num_groups, len(module.weight)
    module.num_groups = module.num_channels // size if module.num_channels % size == 0 else 1


@follow.register
def _(module: nn.LayerNorm) -> None:
    module.normalized_shape = tuple(module.weight.shape)


@follow.register
def _(module: ResidualBlock) -> None:
    module.widen = module.conv2.out_channels - module.conv1.in_channels


def plain_attributes(module: nn.Module) -> Attributes:
    """What modules know of themselves in numbers, words and rows of them, as JSON takes it."""
    found: Attributes = {}
    for name, part in module.named_modules():
        known = {key: value for key, value in vars(part).items() if _plain(value) and not key.startswith("_")}
        known.pop("training", None)
        found[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}
    return found


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)


def other_attributes(skeleton: nn.Module, module: nn.Module) -> Attributes:
    """The attributes of a smaller model that a resized skeleton has other values of."""
    before, after = plain_attributes(skeleton), plain_attributes(module)
    found = {
        name: {key: value for key, value in known.items() if before[name].get(key, value) != value}
        for name, known in after.items()
        if name in before
    }
    return {name: known for name, known in found.items() if known}


def set_attributes(module: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Give modules the values that `other_attributes` has found.

    Raises:
        UserError: there is no such module or attribute, or it is of another type.
    """
    known = plain_attributes(module)
    for name, wanted in attributes.items():
        for key, value in wanted.items():
            if name not in known or key not in known[name]:
                raise UserError(f"there is no {name}.{key} in this model; take the model that was pruned")
            owner, old = module.get_submodule(name), getattr(module.get_submodule(name), key)
            new = tuple(value) if isinstance(old, tuple) and isinstance(value, list) else value
            if type(new) is not type(old) or not _plain(new):
                raise UserError(f"{name}.{key} is {old!r} in this model, but {value!r} is asked for")
            setattr(owner, key, new)
