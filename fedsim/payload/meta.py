"""What is known of a payload without its values: shapes, dtypes, purpose, codec, exact bytes. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fedsim.payload.codecs import PLAIN, Codec
from fedsim.script import Purpose

ITEM_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
REAL: Final = frozenset({"float32", "float64", "float16", "bfloat16"})
"""The dtypes that codecs act on; the others travel as they are."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A named tensor's shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    kept: int | None = None
    """How many of its elements travel, where a mask says that the others are zero."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def travelling(self) -> int:
        """Number of elements that travel."""
        return self.elements if self.kept is None else self.kept

    @property
    def nbytes(self) -> int:
        """Bytes of the elements in memory."""
        return self.elements * ITEM_BYTES[self.dtype]

    def coded(self, codec: Codec) -> Codec:
        """The codec that applies to it, where `codec` is that of its payload."""
        return codec if self.dtype in REAL else PLAIN

    def coded_bytes(self, codec: Codec) -> int:
        """Bytes on the link, where `codec` is that of its payload."""
        return self.coded(codec).nbytes(self.travelling, ITEM_BYTES[self.dtype])


@dataclass(frozen=True)
class TensorMeta:
    """The shapes of a payload, in order, what they are for, and how they travel."""

    purpose: Purpose
    shapes: tuple[Shape, ...]
    codec: Codec = PLAIN
    support: str = ""
    """Of weights that are a part of their parent's: the digest of that support. Empty for whole tensors."""

    @cached_property
    def _hash(self) -> int:
        return hash((self.purpose, self.shapes, self.codec, self.support))

    def __hash__(self) -> int:  # asked for with every message, of hundreds of shapes
        return self._hash

    def __reduce__(self) -> tuple[type[TensorMeta], tuple[object, ...]]:  # the hash is this process's own
        return TensorMeta, (self.purpose, self.shapes, self.codec, self.support)

    @cached_property
    def nbytes(self) -> int:
        """Exact bytes of all tensors together on a link."""
        return sum(shape.coded_bytes(self.codec) for shape in self.shapes)

    @cached_property
    def memory_bytes(self) -> int:
        """Exact bytes of all tensors together in memory."""
        return sum(shape.nbytes for shape in self.shapes)
