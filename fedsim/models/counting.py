"""Measuring a model: every unit is run forward and backward under autograd, and what happens is counted.

What is counted is what PyTorch would execute: grouped convolutions, shared inputs, and no input gradient where
nobody needs one; MACs come from the closed forms of `forms` (`torch.utils.flop_counter` ignores groups in the weight
gradient), memory from `retaining`. Everything is linear in the batch, so two batch sizes give the coefficients. A model
is counted on the device it was built on: the CPU takes milliseconds for small ones; `meta` takes no memory and hardly
any time, but a second of imports that PyTorch's shape functions need. Both give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from fedsim.costs import Phase
from fedsim.errors import UserError
from fedsim.models import forms
from fedsim.models.building import seeded
from fedsim.models.forms import Counted
from fedsim.models.measure import Line, LinearOperator, ModelMeasure, Retained, UnitMeasure
from fedsim.models.recall import Recall
from fedsim.models.retaining import Kept, kept
from fedsim.models.units import UnitList
from fedsim.payload.meta import ITEM_BYTES, Shape

BATCHES: Final = (2, 4)  # two points of a line; 1 would not do, batch norm refuses it on 1x1 maps

Function = Callable[..., Tensor]


class _Counter(TorchDispatchMode):
    """Records every operator that moves or computes data.

    Args:
        weights: names of parameters by their memory, for those that multiply by one.
    """

    def __init__(self, weights: Mapping[int, str] = MappingProxyType({})) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self._weights = weights
        self.counted: list[Counted] = []
        self.draws = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports the compiler: 0.7 s for nothing

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.draws = self.draws or torch.Tag.nondeterministic_seeded in func.tags
        counted = forms.count(func, args, out)
        if counted is not None:
            self.counted.append(counted._replace(weight=self._weight(args)) if counted.macs else counted)
        return out

    def _weight(self, args: Any) -> str:
        """The parameter of several axes among arguments, or views of it; empty where there is none."""
        if not self._weights:
            return ""
        found = (self._weights.get(_memory(tensor), "") for tensor in forms.tensors(args) if tensor.dim() > 1)
        return next((name for name in found if name), "")


def _memory(tensor: Tensor) -> int:
    """The same for tensors that share memory, on `meta`, too."""
    storage: int = tensor.untyped_storage()._cdata
    return storage


def _line(small: int, large: int, what: str) -> Line:
    """The line through the values at the two batch sizes."""
    each, odd = divmod(large - small, BATCHES[1] - BATCHES[0])
    line = Line(small - each * BATCHES[0], each)
    if odd or line.fixed < 0 or line.each < 0:
        raise UserError(
            f"{what}: {small} for a batch of {BATCHES[0]}, but {large} for a batch of {BATCHES[1]}, which is not a "
            "fixed amount and as much again for every sample; let samples not see one another, batch norm aside"
        )
    return line


def operators(what: str, unit: str, phase: Phase, passes: Sequence[list[Counted]]) -> list[LinearOperator]:
    """The operators of passes at both batch sizes, as lines in the batch size."""
    small, large = passes
    if [c.kind for c in small] != [c.kind for c in large]:
        raise UserError(f"{what} runs other operators for another batch size; let what it does not depend on that")
    lines = []
    for s, g in zip(small, large, strict=True):
        macs, moved = _line(s.macs, g.macs, f"MACs of {what}"), _line(s.bytes, g.bytes, f"bytes moved by {what}")
        line = LinearOperator(s.kind, phase, macs.each, moved.fixed, moved.each, unit=unit, macs_fixed=macs.fixed)
        line = replace(line, weight=s.weight)
        lines.append(line)
    return lines


def _with_forward(backward: list[LinearOperator], forward: Sequence[LinearOperator]) -> tuple[LinearOperator, ...]:
    """Give the first backward operator the forward MACs that a scalar cost model goes by."""
    if backward:
        backward[0] = replace(backward[0], forward_macs_each=sum(f.macs_each for f in forward))
    return tuple(backward)


def _of_all(some: tuple[LinearOperator, ...], backward: tuple[LinearOperator, ...]) -> tuple[LinearOperator, ...]:
    """A part of a backward with its share, by MACs, of the forward MACs that a scalar cost model goes by."""
    if not some:
        return ()
    whole, part = (sum(op.macs_each for op in ops) for ops in (backward, some))
    forward = backward[0].forward_macs_each * part // whole if whole else 0
    return (replace(some[0], forward_macs_each=forward), *some[1:])


def _retained(what: str, small: Kept, large: Kept) -> Retained:
    return Retained(
        _line(small.between, large.between, f"bytes kept by {what}"),
        small.keeps_input,
        small.keeps_output,
        _line(small.output, large.output, f"output of {what}") if small.output else None,
    )


@dataclass(frozen=True, slots=True)
class Passes:
    """One forward, and the backward that gives the gradients of what was wanted."""

    out: Tensor
    forward: list[Counted]
    backward: list[Counted]
    draws: bool


def run(
    function: Function,
    inputs: Sequence[Tensor],
    wanted: Sequence[Tensor],
    weights: Mapping[int, str] = MappingProxyType({}),
) -> Passes:
    """Run a function, and the backward to the tensors that are wanted, and record the operators of both.

    Forward ones with the names of the `weights` that they multiply by, by the memory of these.
    """
    with _Counter(weights) as forward, sdpa_kernel(SDPBackend.MATH):  # attention as its two products, on any device
        out = function(*inputs)
    backward = _Counter()
    if wanted and out.requires_grad:
        # A scalar to start from, since explicit output gradients make autograd import sympy (0.3 s). What it does
        # before the gradient reaches `out` is forgotten there.
        scalar = (out * torch.ones_like(out)).sum()
        out.register_hook(lambda _: backward.counted.clear())
        with backward:
            torch.autograd.grad(scalar, wanted, allow_unused=True)
    return Passes(out, forward.counted, backward.counted, forward.draws)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Two passes at two batch sizes, as lines in the batch size."""

    out: Tensor
    forward: tuple[LinearOperator, ...]
    backward: tuple[LinearOperator, ...]
    draws: bool
    retained: Retained


def _measure(
    what: str,
    unit: str,
    function: Function,
    inputs: Callable[[int], Sequence[Tensor]],
    wanted: Sequence[Tensor],
    resident: Sequence[Tensor],
    weights: Mapping[int, str] = MappingProxyType({}),
) -> _Lines:
    passes, held = [], []
    for batch in BATCHES:
        made = inputs(batch)
        passes.append(run(function, made, [t for t in (*made, *wanted) if t.requires_grad], weights))
        held.append(kept(function, inputs(batch), resident))
    forward = operators(what, unit, Phase.FORWARD, [p.forward for p in passes])
    backward = operators(what, unit, Phase.BACKWARD, [p.backward for p in passes])
    return _Lines(
        passes[0].out, tuple(forward), _with_forward(backward, forward), passes[0].draws, _retained(what, *held)
    )


def shape_of(name: str, tensor: Tensor) -> Shape:
    """Its shape, with its name and type.

    Raises:
        UserError: weights are not stored in its type.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        raise UserError(f"{name} is a tensor of {dtype}; weights may be {', '.join(ITEM_BYTES)}")
    return Shape(name, tuple(tensor.shape), dtype)


def _unit(
    model: str,
    name: str,
    module: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    *,
    raw: bool,
    frozen: bool,
) -> UnitMeasure:
    def inputs(requires_grad: bool) -> Callable[[int], Sequence[Tensor]]:
        def make(batch: int) -> Sequence[Tensor]:
            x = torch.zeros((batch, *shape), device=device, dtype=dtype)
            return [x.requires_grad_(requires_grad and dtype.is_floating_point)]

        return make

    what = f"unit {name} of model {model}"
    wanted = list(module.parameters())
    resident = residents(module)
    weights = {_memory(parameter): f"{name}.{own}" for own, parameter in module.named_parameters()}
    first = _measure(what, name, module, inputs(requires_grad=False), wanted, resident, weights)
    full = first if raw else _measure(what, name, module, inputs(requires_grad=True), wanted, resident)
    through = _measure(what, name, module, inputs(requires_grad=True), (), resident).backward if frozen else ()
    return UnitMeasure(
        name,
        tuple(first.out.shape[1:]),
        tuple(shape_of(f"{name}.{n}", p) for n, p in module.named_parameters()),
        tuple(shape_of(f"{name}.{n}", b) for n, b in module.named_buffers()),
        first.forward,
        full.backward,
        first.backward,
        _of_all(through, full.backward),
        first.draws,
        full.retained,
        first.retained,
    )


def residents(module: nn.Module) -> list[Tensor]:
    """All tensors that a module has anyway: parameters, buffers, and constants among its attributes."""
    constants = [tensor for part in module.modules() for tensor in forms.tensors(list(vars(part).values()))]
    return [*module.parameters(), *module.buffers(), *constants]


def forward_macs(model: nn.Module, *inputs: Any, **named: Any) -> int:
    """MACs of one forward of any module on these inputs, as `measure` counts them; in eval mode, left as it was.

    Raises:
        UserError: an operator with multiplications for which no closed form is known.
    """
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), _Counter() as counter, sdpa_kernel(SDPBackend.MATH):
            model(*inputs, **named)
    finally:
        for part, training in modes:
            part.training = training
    return sum(counted.macs for counted in counter.counted)


def _check(model: UnitList) -> None:
    """Refuse what could not be cut or trained as a list of units."""
    owners: dict[int, tuple[str, str]] = {}
    for unit, module in model.named_children():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            other, twin = owners.setdefault(id(tensor), (unit, name))
            if other != unit:
                raise UserError(
                    f"model {model.name}: units {other} and {unit} share a tensor ({twin}, {name}); "
                    "units share nothing, since the model may be cut between any two"
                )
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                raise UserError(
                    f"model {model.name}: parameter {unit}.{name} does not require a gradient; "
                    "register what is not trained as a buffer"
                )


def _try(model: UnitList, name: str, module: nn.Module, x: Tensor) -> Tensor:
    """What a unit gives for `x`, or an error in the words of whoever wrote the unit."""
    before = x._version
    try:
        out = module(x)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"model {model.name}: unit {name} cannot take inputs of {_said(x)}: {error}") from error
    if not isinstance(out, Tensor):
        raise UserError(f"model {model.name}: unit {name} gives a {type(out).__name__}; units give one tensor")
    if x._version != before:
        raise UserError(f"model {model.name}: unit {name} changes its input in place; others may still hold it")
    return out


def _said(x: Tensor) -> str:
    return f"shape {tuple(x.shape)} (the batch first), {str(x.dtype).removeprefix('torch.')}"


def measure(
    model: UnitList, *, raw_input: bool = True, loss: Function | None = None, beside: Sequence[Tensor] = ()
) -> ModelMeasure:
    """Count every unit of a model, on the device it was built on; its weights and buffers stay as they are.

    Args:
        raw_input: whether its input is data, for which nobody wants a gradient, rather than activations; for those
            the gradient at the input alone is counted, too.
        loss: from the last unit's output and the labels, a scalar; without it, the model's own on logits.
        beside: tensors of others that the loss uses, and that are in memory anyway.

    Raises:
        UserError: units that do not fit together, or break a rule of units; an operator with multiplications for
            which no closed form is known; costs that are not linear in the batch size.
    """
    _check(model)
    with prepared(model) as device:
        return _measured(model, device, raw_input, loss, beside)


@contextmanager
def prepared(model: UnitList) -> Iterator[torch.device]:
    """Training mode and a seed inside; afterwards mode and buffers as they were. Gives the device that it was built on.

    On `meta`, shape functions are remembered meanwhile.
    """
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}  # batch norm counts what it sees
    training = model.training
    device = next(model.parameters()).device
    remembered: AbstractContextManager[Any] = Recall() if device.type == "meta" else nullcontext()
    model.train()
    try:
        with seeded(0), remembered:
            yield device
    finally:
        model.train(training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(state[name])


def _measured(
    model: UnitList, device: torch.device, raw_input: bool, loss: Function | None, beside: Sequence[Tensor]
) -> ModelMeasure:
    dtype = getattr(torch, model.dtype)
    shape, kind = model.input, torch.int64 if model.tokens else dtype
    units: list[UnitMeasure] = []
    for index, (name, module) in enumerate(model.named_children()):
        _try(model, name, module, torch.zeros((BATCHES[0], *shape), device=device, dtype=kind))
        first = raw_input and index == 0
        unit = _unit(model.name, name, module, shape, kind, device, raw=first, frozen=not raw_input)
        units.append(unit)
        shape, kind = unit.output, dtype
    wanted = (*model.input, model.classes) if model.tokens else (model.classes,)
    if loss is None and shape != wanted:
        raise UserError(
            f"model {model.name} gives {shape} a sample, but {wanted} is needed for {model.classes} classes"
        )

    def outputs(batch: int) -> Sequence[Tensor]:
        made = torch.zeros((batch, *shape), device=device, dtype=dtype, requires_grad=True)
        return [made, torch.zeros((batch, *shape[:-1]), device=device, dtype=torch.int64)]

    end = _measure(f"the loss of model {model.name}", "loss", loss or model.loss, outputs, (), beside)
    return ModelMeasure(
        model.name,
        model.input,
        model.classes,
        model.dtype,
        tuple(units),
        end.forward,
        end.backward,
        end.retained,
        "int64" if model.tokens else model.dtype,
    )
