"""Counting a model's operators by running it once, forward and backward, under autograd.

What is counted is what PyTorch would execute: grouped convolutions, shared inputs, and no input gradient where
nobody needs one. MACs come from our own closed forms (`torch.utils.flop_counter` ignores groups in the weight
gradient). Everything is linear in the batch, so two batch sizes give the coefficients. A model is counted on the
device it was built on: the CPU takes milliseconds; `meta` takes no memory, but a second of imports that PyTorch's
shape functions need. Both give the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from fedsim.costs import OpClass, Phase
from fedsim.errors import UserError
from fedsim.models.building import seeded
from fedsim.models.measure import LinearOperator, ModelMeasure, UnitMeasure
from fedsim.models.units import UnitList
from fedsim.payload.meta import ITEM_BYTES, Shape

_BATCHES: Final = (2, 4)  # two points of a line; 1 would not do, batch norm refuses it on 1x1 maps

_Counted = tuple[OpClass, int, int]  # class, MACs, bytes


def _convolution_class(weight: Tensor, groups: int) -> OpClass:
    if groups > 1 and weight.shape[1] == 1:
        return OpClass.DEPTHWISE
    return OpClass.POINTWISE if math.prod(weight.shape[2:]) == 1 else OpClass.CONV


def _convolution(args: Sequence[Any], out: Any) -> tuple[OpClass, int]:
    weight, transposed, groups = args[1], args[6], args[8]
    return _convolution_class(weight, groups), _touched(args[0], out, transposed) * math.prod(weight.shape[1:])


def _touched(source: Tensor, target: Tensor, transposed: bool) -> int:
    """Elements that meet the kernel: the outputs, or the inputs of a transposed convolution."""
    return source.numel() if transposed else target.numel()


def _convolution_backward(args: Sequence[Any], _out: Any) -> tuple[OpClass, int]:
    grad, source, weight, transposed, groups, wanted = args[0], args[1], args[2], args[7], args[9], args[10]
    each = _touched(source, grad, transposed) * math.prod(weight.shape[1:])
    return _convolution_class(weight, groups), (wanted[0] + wanted[1]) * each


def _mm(args: Sequence[Any], out: Any) -> tuple[OpClass, int]:
    return OpClass.LINEAR, args[0].shape[1] * out.numel()


def _addmm(args: Sequence[Any], out: Any) -> tuple[OpClass, int]:
    return OpClass.LINEAR, args[1].shape[1] * out.numel()


def _bmm(args: Sequence[Any], out: Any) -> tuple[OpClass, int]:
    return OpClass.ATTENTION, args[0].shape[2] * out.numel()


_aten = torch.ops.aten
_MATRIX: Final[dict[Any, Callable[[Sequence[Any], Any], tuple[OpClass, int]]]] = {
    _aten.convolution.default: _convolution,
    _aten.convolution_backward.default: _convolution_backward,
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _bmm,
}
_UNCOUNTED: Final = re.compile(
    r"(linear|bilinear|matmul|baddbmm|addbmm|dot|vdot|inner|mv|addmv|addr|einsum|_?trilinear|_?cdist|lstm|gru|rnn_\w+"
    r"|mkldnn_rnn\w*|_fft\w*|fft\w*|linalg\w*|_linalg\w*|_scaled_dot_product\w*|_conv\w*|conv\w*"
    r"|_thnn_differentiable\w*|grid_sampler\w*|_weight_int\w*|_sparse\w*)(_backward)?"
)
"""Operators that multiply, but have no closed form here: refused, since they would count as free."""
_FREE: Final = {"_unsafe_view", "detach", "empty", "empty_like", "alias"}


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [t for value in values for t in _tensors(value)]
    return []


class _Counter(TorchDispatchMode):
    """Records every operator that moves or computes data; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self.counted: list[_Counted] = []
        self.draws = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports the compiler: 0.7 s for nothing

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.draws = self.draws or torch.Tag.nondeterministic_seeded in func.tags
        if func.is_view or func._schema.name.removeprefix("aten::") in _FREE:
            return out
        if func not in _MATRIX and _UNCOUNTED.fullmatch(func._schema.name.removeprefix("aten::")):
            raise UserError(
                f"the model runs {func._schema.name}, whose multiplications fedsim cannot count, so its time would be "
                "too short; write it with convolutions, linear layers or matrix products (nn.GRU rather than nn.LSTM)"
            )
        moved = sum(t.nbytes for t in (*_tensors(args), *_tensors(out)))
        rule = _MATRIX.get(func)
        if rule is not None:
            kind, macs = rule(args, out)
            self.counted.append((kind, macs, moved))
        elif any(t.dim() for t in (*_tensors(args), *_tensors(out))):  # counters and scalars are free
            self.counted.append((OpClass.ELEMENTWISE, 0, moved))
        return out


def _line(small: _Counted, large: _Counted, phase: Phase) -> LinearOperator:
    (kind, macs_small, bytes_small), (_, macs_large, bytes_large) = small, large
    step = _BATCHES[1] - _BATCHES[0]
    bytes_each, odd = divmod(bytes_large - bytes_small, step)
    assert not odd and macs_small * _BATCHES[1] == macs_large * _BATCHES[0], "costs are not linear in the batch"
    return LinearOperator(kind, phase, macs_small // _BATCHES[0], bytes_small - bytes_each * _BATCHES[0], bytes_each)


def _with_forward(backward: list[LinearOperator], forward: Sequence[LinearOperator]) -> tuple[LinearOperator, ...]:
    """Give the first backward operator the forward MACs that a scalar cost model goes by."""
    if backward:
        op = backward[0]
        macs = sum(f.macs_each for f in forward)
        backward[0] = LinearOperator(op.kind, op.phase, op.macs_each, op.bytes_fixed, op.bytes_each, macs)
    return tuple(backward)


@dataclass(frozen=True, slots=True)
class _Passes:
    """One forward, and the backward that gives the gradients of what was wanted."""

    out: Tensor
    forward: list[_Counted]
    backward: list[_Counted]
    draws: bool


def _run(function: Callable[..., Tensor], inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> _Passes:
    with _Counter() as forward, sdpa_kernel(SDPBackend.MATH):  # attention as its two products, on any device
        out = function(*inputs)
    backward = _Counter()
    if wanted and out.requires_grad:
        # A scalar to start from, since explicit output gradients make autograd import sympy (0.3 s). What it does
        # before the gradient reaches `out` is forgotten there.
        scalar = (out * torch.ones_like(out)).sum()
        out.register_hook(lambda _: backward.counted.clear())
        with backward:
            torch.autograd.grad(scalar, wanted, allow_unused=True)
    return _Passes(out, forward.counted, backward.counted, forward.draws)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Two passes at two batch sizes, as lines in the batch size."""

    out: Tensor
    forward: tuple[LinearOperator, ...]
    backward: tuple[LinearOperator, ...]
    draws: bool


def _measure(
    function: Callable[..., Tensor], inputs: Callable[[int], Sequence[Tensor]], wanted: Sequence[Tensor]
) -> _Lines:
    passes = []
    for batch in _BATCHES:
        made = inputs(batch)
        passes.append(_run(function, made, [t for t in (*made, *wanted) if t.requires_grad]))
    small, large = passes
    forward = [_line(s, g, Phase.FORWARD) for s, g in zip(small.forward, large.forward, strict=True)]
    backward = [_line(s, g, Phase.BACKWARD) for s, g in zip(small.backward, large.backward, strict=True)]
    return _Lines(small.out, tuple(forward), _with_forward(backward, forward), small.draws)


def _shape(name: str, tensor: Tensor) -> Shape:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        raise UserError(f"{name} is a tensor of {dtype}; weights may be {', '.join(ITEM_BYTES)}")
    return Shape(name, tuple(tensor.shape), dtype)


def _unit(
    name: str, module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, raw: bool
) -> UnitMeasure:
    def inputs(requires_grad: bool) -> Callable[[int], Sequence[Tensor]]:
        def make(batch: int) -> Sequence[Tensor]:
            x = torch.zeros((batch, *shape), device=device, dtype=dtype)
            return [x.requires_grad_(requires_grad and dtype.is_floating_point)]

        return make

    wanted = list(module.parameters())
    first = _measure(module, inputs(requires_grad=False), wanted)
    backward = first if raw else _measure(module, inputs(requires_grad=True), wanted)
    return UnitMeasure(
        name,
        tuple(first.out.shape[1:]),
        tuple(_shape(f"{name}.{n}", p) for n, p in module.named_parameters()),
        tuple(_shape(f"{name}.{n}", b) for n, b in module.named_buffers()),
        first.forward,
        backward.backward,
        first.backward,
        first.draws,
    )


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


def measure(model: UnitList) -> ModelMeasure:
    """Count every unit of a model, on the device it was built on; its weights and buffers stay as they are.

    Raises:
        UserError: units that do not fit together, or break a rule of units.
        AssertionError: an operator with multiplications for which no closed form is known.
    """
    _check(model)
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}  # batch norm counts what it sees
    training = model.training
    model.train()
    try:
        with seeded(0):
            return _measured(model)
    finally:
        model.train(training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(state[name])


def _measured(model: UnitList) -> ModelMeasure:
    device = next(model.parameters()).device
    dtype = getattr(torch, model.dtype)
    shape, kind = model.input, torch.int64 if model.tokens else dtype
    units: list[UnitMeasure] = []
    for index, (name, module) in enumerate(model.named_children()):
        _try(model, name, module, torch.zeros((_BATCHES[0], *shape), device=device, dtype=kind))
        unit = _unit(name, module, shape, kind, device, raw=index == 0)
        units.append(unit)
        shape, kind = unit.output, dtype
    wanted = (*model.input, model.classes) if model.tokens else (model.classes,)
    if shape != wanted:
        raise UserError(
            f"model {model.name} gives {shape} a sample, but {wanted} is needed for {model.classes} classes"
        )

    def logits(batch: int) -> Sequence[Tensor]:
        made = torch.zeros((batch, *shape), device=device, dtype=dtype, requires_grad=True)
        return [made, torch.zeros((batch, *shape[:-1]), device=device, dtype=torch.int64)]

    loss = _measure(model.loss, logits, ())
    return ModelMeasure(model.name, model.input, model.classes, model.dtype, tuple(units), loss.forward, loss.backward)
