"""Running a model and seeing what its layers give: for comparing a cut model with its parent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.pruning.pruned import PruningError
from fedsim.pruning.references import channel_axis, is_rms

Example = Tensor | Mapping[str, Any]
"""What a model is called with: a tensor, or its keyword arguments."""

WHOLE: Final = "the model's output"


@dataclass
class Watched:
    """What a run of a model shows."""

    entered: str = WHOLE
    """The layer that was called last."""
    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    """Of the layers that are watched, and of the model, in order; of the parent's, only the channels that stay."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def watching(
    module: nn.Module, watched: Watched, wanted: Mapping[str, Tensor | None], plain: frozenset[str]
) -> Iterator[None]:
    """Hooks that note which layer is called, and the outputs of those in `wanted` at the channels listed there."""

    def enter(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            watched.entered = name

        return hook

    def leave(name: str, kept: Tensor | None) -> Any:
        def hook(part: nn.Module, _inputs: Any, output: Any) -> None:
            axis = channel_axis(part, output) if isinstance(output, Tensor) else None
            if axis is not None:
                chosen = output if kept is None else output.index_select(axis, kept)
                watched.outputs.append((name, chosen.detach().clone()))  # an activation in place may follow

        return hook

    handles = []
    try:
        for name, part in module.named_modules():
            if name in plain:
                handles.append(part.register_forward_hook(_affine))
            if name in wanted:
                handles.append(part.register_forward_hook(leave(name, wanted[name])))
            if name and not any(True for _ in part.children()):
                handles.append(part.register_forward_pre_hook(enter(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _affine(module: nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> Tensor:
    """The scale and shift of a norm alone, in place of its output."""
    x = inputs[0]
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    shape = (1, -1, *[1] * (x.dim() - 2)) if isinstance(module, nn.GroupNorm) else None
    if isinstance(weight, Tensor):
        x = x * (weight if shape is None else weight.view(shape))
    if isinstance(bias, Tensor):
        x = x + (bias if shape is None else bias.view(shape))
    return x


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def raised(value: Any, least: torch.dtype) -> Any:
    """Real numbers in a precision of at least `least`, whatever holds them."""
    if isinstance(value, Tensor):
        return value.to(torch.promote_types(value.dtype, least)) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: raised(each, least) for key, each in value.items()}
    return value


def call(module: nn.Module, values: dict[str, Tensor], example: Example, watched: Watched) -> list[Tensor]:
    """The real-valued outputs of a model on an example, with other values in place of its own."""
    arguments = ((), dict(example)) if isinstance(example, Mapping) else ((example,), {})
    try:
        made = functional_call(module, values, *arguments) if values else module(*arguments[0], **arguments[1])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise PruningError(f"{watched.entered}: the model fails there on the example: {error}") from error
    return list(_reals(made))


def _reals(made: Any) -> Iterator[Tensor]:
    match made:
        case Tensor():
            if made.is_floating_point():
                yield made
        case Mapping():
            for each in made.values():
                yield from _reals(each)
        case tuple() | list():
            for each in made:
                yield from _reals(each)
        case _:
            pass  # such as a cache of keys and values


def mixing(parent: nn.Module, smaller: nn.Module) -> Iterator[str]:
    """The names of layers whose statistics are over channels some of which are gone."""
    for name, module in parent.named_modules():
        twin: Any = smaller.get_submodule(name)
        match module:
            case nn.GroupNorm():
                changed = module.num_channels != twin.num_channels
            case nn.LayerNorm():
                changed = module.normalized_shape != twin.normalized_shape
            case _:
                changed = is_rms(module) and module.weight.shape != twin.weight.shape
        if changed:
            yield name
