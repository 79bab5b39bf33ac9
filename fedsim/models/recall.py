"""Shape functions of the `meta` device, remembered: the same operator on the same shapes is worked out once.

PyTorch's shape functions are Python and take a millisecond or so; a deep network asks for the same ones over and
over. With them remembered, counting a transformer of twelve equal blocks takes about as long as counting two. Batch
norm by stored statistics gets the shapes that it has on the CPU, which keeps nothing beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]

_BATCH_NORM: Final = torch.ops.aten.native_batch_norm.default


class Recall(TorchDispatchMode):
    """A mode in which operators on `meta` answer from memory where they can; those on other devices run as ever."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self._known: dict[Any, _Answer | None] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports the compiler: 0.7 s for nothing

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view:  # quick, and its output lies in its input
            return func(*args, **kwargs)
        try:
            key = (func, _key(args), _key(kwargs))
            known = self._known.get(key)
        except TypeError:  # tensors elsewhere, or an argument that cannot be looked up
            return func(*args, **kwargs)
        if known is not None:
            return known.repeat(args)
        before = _layout(args[0]) if args and isinstance(args[0], Tensor) else None
        out = func(*args, **kwargs)
        if func is _BATCH_NORM and not args[5]:  # not in training: `meta` would keep a mean and a deviation of a batch
            out = (out[0], *(kept.new_empty(0) for kept in out[1:]))
        if key not in self._known:
            self._known[key] = _answer(out, args, before)
        return out


class _Answer:
    """How to make what an operator gave once more: fresh tensors, or the first argument that it wrote into."""

    __slots__ = ("_kind", "_layouts")

    def __init__(self, kind: type | None, layouts: Sequence[_Layout]) -> None:
        self._kind = kind  # of a sequence of outputs; Tensor for a single one, None for the first argument
        self._layouts = layouts

    def repeat(self, args: Sequence[Any]) -> Any:
        if self._kind is None:
            return args[0]
        made = [
            torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in self._layouts
        ]
        return made[0] if self._kind is Tensor else self._kind(made)


def _answer(out: Any, args: Sequence[Any], before: _Layout | None) -> _Answer | None:
    """What can be said again; nothing where outputs share memory with what was given, as hidden views do."""
    if isinstance(out, Tensor) and args and out is args[0]:
        return _Answer(None, ()) if _layout(out) == before else None
    outputs = [out] if isinstance(out, Tensor) else out
    if not isinstance(outputs, list | tuple) or not all(isinstance(t, Tensor) and t.is_meta for t in outputs):
        return None
    memory = [t.untyped_storage()._cdata for t in outputs]
    if len(set(memory)) < len(memory) or not {t.untyped_storage()._cdata for t in _given(args)}.isdisjoint(memory):
        return None
    return _Answer(Tensor if isinstance(out, Tensor) else type(out), [_layout(t) for t in outputs])


def _given(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [t for value in values for t in _given(value)] if isinstance(values, list | tuple) else []


def _layout(tensor: Tensor) -> _Layout:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def _key(value: Any) -> Any:
    """Everything that an answer may depend on; numbers with their type, since 1, 1.0 and True promote differently.

    Raises:
        TypeError: a tensor that is not on `meta`, whose answer may depend on its values.
    """
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise TypeError("not on meta")
        return _layout(value)
    if isinstance(value, list | tuple):
        return tuple([_key(v) for v in value])
    if isinstance(value, Mapping):
        return tuple([(k, _key(v)) for k, v in value.items()])
    hash(value)
    return type(value), value
