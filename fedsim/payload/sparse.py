"""The encoding of tensors most of whose values are zero: one codec for files and for the wire. No torch here.

The shortest of three forms is taken, which follows from the numbers of values alone, so lengths are known before
anything is encoded:

* bitmask: a bit a value, row by row, the least significant bit of each byte first; then the kept values;
* indices: the place of every kept value in 32 bits, ascending; then the kept values;
* dense: all values. Those that the mask leaves out are written as minus zero, which a reader that knows nothing of
  masks takes for the zero that it is.

Everything is little-endian. `bfloat16`, which NumPy lacks, goes as `uint16`.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.payload.meta import ITEM_BYTES

Form = Literal["dense", "bitmask", "indices"]

INDEX_BYTES: Final = 4
"""Bytes of the place of a kept value."""

Mask = NDArray[np.bool_]


def form(elements: int, kept: int, item: int) -> Form:
    """The shortest form of a tensor of which `kept` values of `item` bytes may be other than zero."""
    lengths: dict[Form, int] = {
        "dense": elements * item,
        "bitmask": -(-elements // 8) + kept * item,
        "indices": kept * (INDEX_BYTES + item),
    }
    if elements > 2 ** (8 * INDEX_BYTES):
        del lengths["indices"]
    return min(lengths, key=lengths.__getitem__)  # of equal ones the first


def nbytes(elements: int, kept: int, item: int) -> int:
    """The exact length of what `encode` gives."""
    match form(elements, kept, item):
        case "dense":
            return elements * item
        case "bitmask":
            return -(-elements // 8) + kept * item
        case "indices":
            return kept * (INDEX_BYTES + item)


def encode(values: NDArray[Any], mask: Mask) -> bytes:
    """A tensor with its mask; both of the same shape.

    Raises:
        ValueError: a value that the mask leaves out is not zero; or the dense form is the shortest and whole numbers
            contain the one that stands for what is left out.
    """
    words, flags = _words(values), mask.reshape(-1)
    if values.shape != mask.shape:
        raise ValueError(f"values of shape {values.shape} and a mask of shape {mask.shape}")
    item, kept = words.itemsize, int(np.count_nonzero(flags))
    left_out = _left_out(words.dtype)
    real = values.dtype.kind == "f" or values.dtype == np.uint16
    outside = words[~flags]
    if np.any((outside != 0) & (outside != left_out) if real else outside != 0):
        raise ValueError("the mask leaves out a value that is not zero")
    match form(len(words), kept, item):
        case "dense":
            if kept == len(words):
                return words.tobytes()
            if real:
                words = np.where(words == left_out, words.dtype.type(0), words)  # minus zero is zero
            elif np.any(words[flags] == left_out):
                raise ValueError("a kept value is the whole number that stands for what the mask leaves out")
            return np.where(flags, words, left_out).astype(words.dtype).tobytes()
        case "bitmask":
            return np.packbits(flags, bitorder="little").tobytes() + words[flags].tobytes()
        case "indices":
            return np.flatnonzero(flags).astype("<u4").tobytes() + words[flags].tobytes()


def decode(
    data: bytes | memoryview, shape: tuple[int, ...], dtype: str, kept: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values and the mask that `encode` was given; what is left out is plus zero.

    Args:
        dtype: a name of `payload.meta.ITEM_BYTES`.
        kept: how many values the mask keeps.

    Raises:
        ValueError: the data are not such a tensor's.
    """
    elements, item = math.prod(shape), ITEM_BYTES[dtype]
    if not 0 <= kept <= elements:
        raise ValueError(f"{kept} kept values of {elements}")
    if len(data) != nbytes(elements, kept, item):
        raise ValueError(f"{len(data)} bytes, but {nbytes(elements, kept, item)} are needed")
    word = np.dtype(f"<u{item}")
    match form(elements, kept, item):
        case "dense":
            words = np.frombuffer(data, word).copy()
            flags = np.ones(elements, np.bool_)
            if kept < elements:
                flags = words != _left_out(word)
                words[~flags] = 0
        case "bitmask":
            split = -(-elements // 8)
            bits = np.unpackbits(np.frombuffer(data[:split], np.uint8), bitorder="little").astype(np.bool_)
            if bits[elements:].any():
                raise ValueError("the mask has bits behind its end")
            flags = bits[:elements]
            words = _spread(flags, data[split:], word)
        case "indices":
            places = np.frombuffer(data[: kept * INDEX_BYTES], "<u4").astype(np.int64)
            if kept and (np.any(np.diff(places) <= 0) or places[-1] >= elements):
                raise ValueError("the places of the kept values do not ascend within the tensor")
            flags = np.zeros(elements, np.bool_)
            flags[places] = True
            words = _spread(flags, data[kept * INDEX_BYTES :], word)
    if np.count_nonzero(flags) != kept:
        raise ValueError(f"the mask keeps {np.count_nonzero(flags)} values, but {kept} are said")
    return words.view(_numpy(dtype)).reshape(shape), flags.reshape(shape)


def pack(values: NDArray[Any], mask: Mask) -> bytes:
    """The kept values alone, row by row, for a receiver that has the mask."""
    return _words(values)[mask.reshape(-1)].tobytes()


def unpack(data: bytes | memoryview, mask: Mask, dtype: str) -> NDArray[Any]:
    """The values that `pack` was given, zero where the mask is false.

    Raises:
        ValueError: there are more or fewer than the mask keeps.
    """
    return _spread(mask.reshape(-1), data, np.dtype(f"<u{ITEM_BYTES[dtype]}")).view(_numpy(dtype)).reshape(mask.shape)


def _spread(flags: Mask, data: bytes | memoryview, word: np.dtype[Any]) -> NDArray[Any]:
    """Packed words at the places of the kept values, zeros elsewhere."""
    kept = int(np.count_nonzero(flags))
    if len(data) != kept * word.itemsize:
        raise ValueError(f"{len(data)} bytes of values, but the mask keeps {kept} of {word.itemsize} bytes")
    words = np.zeros(len(flags), word)
    words[flags] = np.frombuffer(data, word)
    return words


def _words(values: NDArray[Any]) -> NDArray[Any]:
    """The values' bits, flat, row by row."""
    little = values.dtype.newbyteorder("<")
    return np.ascontiguousarray(values, little).reshape(-1).view(f"<u{values.itemsize}")


def _left_out(word: np.dtype[Any]) -> Any:
    """The highest bit alone: minus zero of every real type."""
    return word.type(1 << (8 * word.itemsize - 1))


def _numpy(dtype: str) -> np.dtype[Any]:
    """The NumPy type of a name of `ITEM_BYTES`."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
