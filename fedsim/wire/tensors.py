"""Values as buffers and back; the only part of `wire` that looks into tensors.

Tensors lie in a body one after the other, row by row, little-endian and without gaps, in the codec of their payload.
What is laid out like that in memory is not copied on its way out. On its way in a tensor stays where its bytes have
been written if it begins there as PyTorch's own tensors do, since other kernels, and other bits, may follow from that.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from fedsim.payload import coding
from fedsim.payload.codecs import Codec, Plain, TopK
from fedsim.payload.coding import Value
from fedsim.payload.meta import Shape, TensorMeta
from fedsim.payload.tensors import DTYPES, FlatTensors, Layout
from fedsim.wire.refusals import WireError

_ALIGNMENT: Final = 64


def room(nbytes: int) -> memoryview:
    """Writable memory with arbitrary contents, from a boundary on at which PyTorch's own tensors begin."""
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + nbytes].data


def buffers(meta: TensorMeta, value: Value) -> list[memoryview]:
    """The bytes of a payload, a buffer a tensor; they share memory with its tensors where these lie as they travel."""
    tensors = value.views() if isinstance(value, FlatTensors) else [value]
    masks = value.layout.masks if isinstance(value, FlatTensors) else {}
    assert len(tensors) == len(meta.shapes), f"{len(tensors)} tensors, but {len(meta.shapes)} were announced"
    found = []
    for shape, tensor in zip(meta.shapes, tensors, strict=True):
        assert tuple(tensor.shape) == shape.shape and tensor.dtype is DTYPES[shape.dtype], (
            f"a tensor {tuple(tensor.shape)} of {tensor.dtype}, but {shape} was announced"
        )
        codec = shape.coded(meta.codec)
        travelling = tensor if shape.kept is None else tensor[masks[shape.name]]
        if isinstance(codec, Plain):
            found.append(_raw(travelling))
        else:
            found.append(memoryview(coding.encode(codec, travelling.detach())))
    return found


def _raw(x: Tensor) -> memoryview:
    if not x.numel():
        return memoryview(b"")
    flat = x.detach().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]  # an array is a buffer, which its types do not say


def value(meta: TensorMeta, data: memoryview, layout: Layout | None, *, channels_last: bool) -> Value:
    """The value of a payload from its bytes.

    Args:
        meta: what it is.
        data: its bytes, writable; a tensor may keep them.
        layout: where weights are to lie; None for one tensor.
        channels_last: how one tensor is to lie.

    Raises:
        WireError: the bytes are those of no such value.
    """
    if layout is None:
        (shape,) = meta.shapes
        return _arranged(_tensor(shape.coded(meta.codec), shape, data, keep=True), channels_last)
    made = layout.empty()
    at = 0
    for shape, view in zip(meta.shapes, made.views(), strict=True):
        codec = shape.coded(meta.codec)
        end = at + shape.coded_bytes(meta.codec)
        if shape.kept is None:
            view.copy_(_tensor(codec, shape, data[at:end], keep=False))
        else:
            packed = Shape(shape.name, (shape.kept,), shape.dtype)
            view.zero_()
            view[layout.masks[shape.name]] = _tensor(codec, packed, data[at:end], keep=False)
        at = end
    return made


def _arranged(x: Tensor, channels_last: bool) -> Tensor:
    return Layout((), channels_last=channels_last).arranged(x)


def _tensor(codec: Codec, shape: Shape, data: memoryview, *, keep: bool) -> Tensor:
    """A tensor from its bytes; where it is to be kept, one that begins on a boundary, on these bytes if they do."""
    if not isinstance(codec, Plain):
        if isinstance(codec, TopK):
            _check_positions(codec, shape, data)
        return coding.decode(codec, shape, data)
    if not len(data):
        return torch.zeros(shape.shape, dtype=DTYPES[shape.dtype])
    if shape.dtype == "bool" and int(torch.frombuffer(data, dtype=torch.uint8).max()) > 1:
        raise WireError("a truth value that is neither 0 nor 1")
    x = torch.frombuffer(data, dtype=DTYPES[shape.dtype]).reshape(shape.shape)
    return x.clone() if keep and x.data_ptr() % _ALIGNMENT else x


def _check_positions(codec: TopK, shape: Shape, data: memoryview) -> None:
    """That the entries that were sent lie inside the tensor."""
    if not len(data):
        return
    item = DTYPES[shape.dtype].itemsize
    positions = torch.frombuffer(data[codec.kept(shape.elements) * item :], dtype=torch.int32)
    low, high = (int(bound) for bound in torch.aminmax(positions))
    if low < 0 or high >= shape.elements:
        raise WireError(f"entries {low} to {high} of a tensor of {shape.elements}")
