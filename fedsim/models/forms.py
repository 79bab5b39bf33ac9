"""Closed forms: the class, MACs and bytes of one operator, from the tensors it was given and what it made.

Knows PyTorch's operators and nothing of models. A product is counted whatever kernel computes it; an operator that
multiplies and has no closed form here is refused, since it would count as free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from fedsim.costs import OpClass
from fedsim.errors import UserError


class Counted(NamedTuple):
    """What one operator costs: its class, MACs, bytes read and written; and the parameter that it multiplies by."""

    kind: OpClass
    macs: int
    bytes: int
    weight: str = ""


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


def _baddbmm(args: Sequence[Any], out: Any) -> tuple[OpClass, int]:
    return OpClass.ATTENTION, args[1].shape[2] * out.numel()


_aten = torch.ops.aten
_MATRIX: Final[Mapping[Any, Callable[[Sequence[Any], Any], tuple[OpClass, int]]]] = {
    _aten.convolution.default: _convolution,
    _aten.convolution_backward.default: _convolution_backward,
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _bmm,
    _aten.baddbmm.default: _baddbmm,
}
_UNCOUNTED: Final = re.compile(
    r"(linear|bilinear|matmul|addbmm|dot|vdot|inner|mv|addmv|addr|einsum|_?trilinear|_?cdist|lstm|gru|rnn_\w+"
    r"|mkldnn_rnn\w*|_fft\w*|fft\w*|linalg\w*|_linalg\w*|_scaled_dot_product\w*|_conv\w*|conv\w*"
    r"|_thnn_differentiable\w*|grid_sampler\w*|_weight_int\w*|_sparse\w*)(_backward)?"
)
_FREE: Final = frozenset({"_unsafe_view", "detach", "empty", "empty_like", "alias"})
_LOOKUPS: Final = frozenset({"embedding", "index", "index_select", "gather"})
"""Operators that read of their first tensor only what they write, however large it is."""


def tensors(values: Any) -> list[Tensor]:
    """All tensors in arguments or results, also those in lists."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [t for value in values for t in tensors(value)]
    return []


def _extent(tensor: Tensor) -> int:
    """Bytes that a tensor covers in memory: those of an expanded one count once."""
    return tensor.element_size() * math.prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step)


def count(func: Any, args: Sequence[Any], out: Any) -> Counted | None:
    """What an operator costs; None if it is free: views, bookkeeping, counters and scalars.

    Raises:
        UserError: it multiplies, and there is no closed form for it.
    """
    name = func._schema.name.removeprefix("aten::")
    if func.is_view or name in _FREE:
        return None
    rule = _MATRIX.get(func)
    if rule is None and _UNCOUNTED.fullmatch(name):
        raise UserError(
            f"the model runs {func._schema.name}, whose multiplications fedsim cannot count, so its time would be "
            "too short; write it with convolutions, linear layers or matrix products (nn.GRU rather than nn.LSTM)"
        )
    given, made = tensors(args), tensors(out)
    moved = sum(_extent(t) for t in (*given, *made))
    if rule is not None:
        return Counted(*rule(args, out), moved)
    if name in _LOOKUPS:
        moved += _extent(made[0]) - _extent(given[0])
    return Counted(OpClass.ELEMENTWISE, 0, moved) if any(t.dim() for t in (*given, *made)) else None
