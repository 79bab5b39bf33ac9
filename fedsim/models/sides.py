"""One side of what a model costs: its forward, or the memory of its training.

Both are what `counting.measure` finds, in a small part of its time: for planners, who ask of many widths of a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.costs import Phase
from fedsim.models.counting import BATCHES, operators, prepared, residents, run, shape_of
from fedsim.models.measure import Line, LinearOperator, Retained, UnitMeasure
from fedsim.models.retaining import Kept, kept
from fedsim.models.units import UnitList

Known = dict[Any, UnitMeasure]
"""Units that were counted before: of the same network in other widths, and of the same side and batch."""

_Inputs = Callable[[int], Tensor]
"""From a batch size to a unit's input."""


def forward_side(model: UnitList, known: Known | None = None) -> tuple[UnitMeasure, ...]:
    """The units with their forward, and no backward and nothing kept for one.

    Args:
        known: what to look up first; units that it lacks are added.
    """

    def one(name: str, module: nn.Module, inputs: _Inputs) -> UnitMeasure:
        passes = [run(module, [inputs(batch)], ()) for batch in BATCHES]
        what = f"unit {name} of model {model.name}"
        forward = operators(what, name, Phase.FORWARD, [each.forward for each in passes])
        return _outline(name, module, tuple(passes[0].out.shape[1:]), forward=tuple(forward))

    with prepared(model) as device:
        return tuple(_chain(model, device, one, {} if known is None else known))


def memory_side(model: UnitList, batch: int, known: Known | None = None) -> tuple[tuple[UnitMeasure, ...], Retained]:
    """The units with what a training step on raw data keeps of each, and no operators; and what the loss keeps.

    Args:
        batch: samples of the step; the only batch size for which the bytes hold.
        known: as in `forward_side`.
    """

    def one(name: str, module: nn.Module, inputs: _Inputs) -> UnitMeasure:
        shapes = []

        def noted(x: Tensor) -> Tensor:
            out: Tensor = module(x)
            shapes.append(tuple(out.shape[1:]))
            return out

        found = kept(noted, [inputs(batch)], residents(module))
        return _outline(name, module, shapes[0], keeps=_retained(found))

    with prepared(model) as device:
        units = tuple(_chain(model, device, one, {} if known is None else known))
        outputs = torch.zeros((batch, *units[-1].output), device=device, dtype=getattr(torch, model.dtype))
        labels = torch.zeros((batch, *units[-1].output[:-1]), device=device, dtype=torch.int64)
        return units, _retained(kept(model.loss, [outputs.requires_grad_(), labels], ()))


def _chain(
    model: UnitList, device: torch.device, one: Callable[[str, nn.Module, _Inputs], UnitMeasure], known: Known
) -> Iterator[UnitMeasure]:
    """Each unit on inputs of the shape that the one before it gives; gradients go back to the first parameters."""
    shape, dtype = model.input, torch.int64 if model.tokens else getattr(torch, model.dtype)
    trained = False
    for name, module in model.named_children():
        key = (name, shape, trained, *[tuple(tensor.shape) for tensor in module.state_dict().values()])
        if key not in known:
            zeros = partial(torch.zeros, device=device, dtype=dtype, requires_grad=trained)
            known[key] = one(name, module, partial(_batch, zeros, shape))
        yield known[key]
        shape, dtype = known[key].output, getattr(torch, model.dtype)
        trained = trained or bool(known[key].parameters)


def _batch(zeros: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...], batch: int) -> Tensor:
    return zeros((batch, *shape))


def _retained(found: Kept) -> Retained:
    output = Line(found.output) if found.output else None
    return Retained(Line(found.between), found.keeps_input, found.keeps_output, output)


def _outline(
    name: str,
    module: nn.Module,
    output: tuple[int, ...],
    *,
    forward: tuple[LinearOperator, ...] = (),
    keeps: Retained | None = None,
) -> UnitMeasure:
    keeps = keeps or Retained()
    return UnitMeasure(
        name,
        output,
        tuple(shape_of(f"{name}.{n}", p) for n, p in module.named_parameters()),
        tuple(shape_of(f"{name}.{n}", b) for n, b in module.named_buffers()),
        forward,
        (),
        (),
        retained=keeps,
        retained_first=keeps,
    )
