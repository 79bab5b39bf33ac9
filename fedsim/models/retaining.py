"""What autograd keeps of a unit between its forward and its backward, found by running the forward.

Autograd is asked, tensor by tensor, through `torch.autograd.graph.saved_tensors_hooks`: every block of memory counts
once, however many operators or views refer to it, so operators that work in place are not counted twice. Weights and
buffers do not count, they are there anyway. The input's and the output's memory are told apart from what lies between,
since a chain of units shares them. Works on `meta` as on the CPU.

Attention is taken to run as one fused kernel, as it does on the CPU without dropout: it keeps its three inputs, its
output and one number a row, and no matrix of positions by positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes kept of one forward.

    `between` are those of tensors that are neither its input nor its output; `output` are those of the memory that
    its output lies in, 0 where that is the input's.
    """

    between: int
    keeps_input: bool
    keeps_output: bool
    output: int


def kept(function: Callable[..., Tensor], inputs: Sequence[Tensor], beside: Iterable[Tensor]) -> Kept:
    """Run `function` and say what autograd keeps of it.

    Args:
        inputs: its arguments. The first is the one that counts as input; the others count for nothing.
        beside: tensors that are in memory anyway.
    """
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def save(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage

    with torch.autograd.graph.saved_tensors_hooks(save, _never), _Fused():
        out = function(*inputs)
    entry, exit = inputs[0].untyped_storage()._cdata, out.untyped_storage()._cdata
    resident = {t.untyped_storage()._cdata for t in (*inputs[1:], *beside)}
    return Kept(
        between=sum(s.nbytes() for key, s in saved.items() if key not in resident and key not in (entry, exit)),
        keeps_input=entry in saved,
        keeps_output=exit in saved,
        output=0 if exit == entry else out.untyped_storage().nbytes(),
    )


def _never(_: None) -> Tensor:
    raise AssertionError("no backward is run")


class _Fused(TorchFunctionMode):
    """Attention that keeps what the fused kernel keeps, on any device, where that kernel would be chosen."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            func = _attention
        elif func is multi_head_attention_forward:
            func = _multi_head  # inside, PyTorch's own would not come back here
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *more: Any,
    **named: Any,
) -> Tensor:
    """PyTorch's attention, or its stand-in under the conditions of `use_flash_attention_cpp` in `sdp_utils_cpp.cpp`."""
    fits = all(t.dim() == 4 and t.stride(-1) == 1 and t.shape[-1] == query.shape[-1] for t in (query, key, value))
    plain = attn_mask is None or (attn_mask.dim() in (2, 4) and not attn_mask.requires_grad)
    if fits and plain and not dropout_p:
        out: Tensor = _Attention.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]
        return out
    return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, *more, **named)


_multi_head: Final = FunctionType(
    multi_head_attention_forward.__code__,
    {**multi_head_attention_forward.__globals__, "scaled_dot_product_attention": _attention},
    argdefs=multi_head_attention_forward.__defaults__,
)
"""`multi_head_attention_forward` with the stand-in for attention."""


class _Attention(torch.autograd.Function):
    """Shapes and saved tensors of fused attention, without its values."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:  # batch heads …
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype)
        out = torch.zeros_like(query)
        rows = torch.zeros(query.shape[:-1], dtype=torch.promote_types(query.dtype, torch.float32), device=query.device)
        ctx.save_for_backward(query, key, value, mask, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise AssertionError("no backward is run")
