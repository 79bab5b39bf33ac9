"""Counting a model's operators by running it once, forward and backward, under autograd.

What is counted is what PyTorch would execute: grouped convolutions, shared inputs, and no input gradient where
nobody needs one. MACs come from our own closed forms (`torch.utils.flop_counter` ignores groups in the weight
gradient). Everything is linear in the batch, so two batch sizes give the coefficients. Up to `REAL` parameters the
model runs on the CPU, which takes milliseconds; beyond, on the `meta` device, without memory, after a second of
imports that PyTorch's shape functions need. Which one depends on the model alone, so costs never depend on how a
scenario is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from fedsim.costs import OpClass, Phase
from fedsim.models.measure import LinearOperator, ModelMeasure, UnitMeasure
from fedsim.models.units import UnitList
from fedsim.payload.meta import Shape

REAL: Final = 50_000_000
"""Largest number of parameters of a model that is counted on the CPU."""

_BATCHES: Final = (2, 4)  # two points of a line; 1 would not do, batch norm refuses it on 1x1 maps

_Counted = tuple[OpClass, int, int]  # class, MACs, bytes


def _convolution_class(weight: Tensor, groups: int) -> OpClass:
    if groups > 1 and weight.shape[1] == 1:
        return OpClass.DEPTHWISE
    return OpClass.POINTWISE if math.prod(weight.shape[2:]) == 1 else OpClass.CONV


def _convolution(args: Sequence[Any], out: Any) -> tuple[OpClass, int]:
    weight, groups = args[1], args[8]
    return _convolution_class(weight, groups), out.numel() * math.prod(weight.shape[1:])


def _convolution_backward(args: Sequence[Any], _out: Any) -> tuple[OpClass, int]:
    grad, weight, groups, wanted = args[0], args[2], args[9], args[10]
    return _convolution_class(weight, groups), (wanted[0] + wanted[1]) * grad.numel() * math.prod(weight.shape[1:])


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
_UNCOUNTED: Final = {_aten.linear, _aten.baddbmm, _aten.addbmm, _aten.matmul, _aten.dot, _aten.mv, _aten.addmv}
_FREE: Final = {"_unsafe_view", "detach", "empty", "empty_like", "alias"}


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [t for value in values for t in _tensors(value)]
    return []


class _Counter(TorchDispatchMode):  # type: ignore[misc]  # torch ships no types for it
    """Records every operator that moves or computes data; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[_Counted] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports the compiler: 0.7 s for nothing

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or func._schema.name.removeprefix("aten::") in _FREE:
            return out
        if func.overloadpacket in _UNCOUNTED:
            raise AssertionError(f"no closed form for the MACs of {func}")
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
    return LinearOperator(
        kind, phase, macs_small // _BATCHES[0], bytes_small - bytes_each * _BATCHES[0], bytes_each
    )


def _with_forward(backward: list[LinearOperator], forward: Sequence[LinearOperator]) -> tuple[LinearOperator, ...]:
    """Give the first backward operator the forward MACs that a scalar cost model goes by."""
    if backward:
        op = backward[0]
        macs = sum(f.macs_each for f in forward)
        backward[0] = LinearOperator(op.kind, op.phase, op.macs_each, op.bytes_fixed, op.bytes_each, macs)
    return tuple(backward)


def _run(function: Callable[..., Tensor], inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Any:
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
    return out, forward.counted, backward.counted


def _measure(
    function: Callable[..., Tensor], inputs: Callable[[int], Sequence[Tensor]], wanted: Sequence[Tensor]
) -> tuple[Tensor, tuple[LinearOperator, ...], tuple[LinearOperator, ...]]:
    results = []
    for batch in _BATCHES:
        made = inputs(batch)
        results.append(_run(function, made, [t for t in (*made, *wanted) if t.requires_grad]))
    (out, forward_small, backward_small), (_, forward_large, backward_large) = results
    forward = [_line(s, g, Phase.FORWARD) for s, g in zip(forward_small, forward_large, strict=True)]
    backward = [_line(s, g, Phase.BACKWARD) for s, g in zip(backward_small, backward_large, strict=True)]
    return out, tuple(forward), _with_forward(backward, forward)


def _shape(name: str, tensor: Tensor) -> Shape:
    return Shape(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _unit(
    name: str, module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, raw: bool
) -> UnitMeasure:
    def inputs(requires_grad: bool) -> Callable[[int], Sequence[Tensor]]:
        def make(batch: int) -> Sequence[Tensor]:
            x = torch.zeros((batch, *shape), device=device, dtype=dtype)
            return [x.requires_grad_(requires_grad and dtype.is_floating_point)]

        return make

    wanted = list(module.parameters())
    out, forward, first = _measure(module, inputs(requires_grad=False), wanted)
    backward = first if raw else _measure(module, inputs(requires_grad=True), wanted)[2]
    return UnitMeasure(
        name,
        tuple(out.shape[1:]),
        tuple(_shape(f"{name}.{n}", p) for n, p in module.named_parameters()),
        tuple(_shape(f"{name}.{n}", b) for n, b in module.named_buffers()),
        forward,
        backward,
        first,
    )


def measure(model: UnitList) -> ModelMeasure:
    """Count every unit of a model, on the device it was built on; its weights and buffers stay as they are.

    Raises:
        AssertionError: an operator with multiplications for which no closed form is known.
    """
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}  # batch norm counts what it sees
    device = next(model.parameters()).device
    dtype = getattr(torch, model.dtype)
    shape, kind = model.input, torch.int64 if model.tokens else dtype
    units: list[UnitMeasure] = []
    model.train()
    for index, (name, module) in enumerate(model.named_children()):
        unit = _unit(name, module, shape, kind, device, raw=index == 0)
        units.append(unit)
        shape, kind = unit.output, dtype

    def logits(batch: int) -> Sequence[Tensor]:
        made = torch.zeros((batch, *shape), device=device, dtype=dtype, requires_grad=True)
        return [made, torch.zeros((batch, *shape[:-1]), device=device, dtype=torch.int64)]

    _, loss_forward, loss_backward = _measure(model.sample_loss, logits, ())
    for name, buffer in model.named_buffers():
        buffer.copy_(state[name])
    return ModelMeasure(
        model.name, model.input, model.classes, model.dtype, tuple(units), loss_forward, loss_backward
    )
