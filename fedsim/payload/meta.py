"""What is known of a payload without its values: shapes, dtypes, purpose, exact bytes. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from fedsim.script import Purpose

ITEM_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}


@dataclass(frozen=True, slots=True)
class Shape:
    """A named tensor's shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without any header."""
        return self.elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class TensorMeta:
    """The shapes of a payload, in order, and what they are for."""

    purpose: Purpose
    shapes: tuple[Shape, ...]

    @cached_property
    def nbytes(self) -> int:
        """Exact bytes of all tensors together."""
        return sum(shape.nbytes for shape in self.shapes)
