"""Supports: which coordinates of a parent's tensors a smaller variant has. NumPy only, no torch here.

A structured cut keeps some indices of some axes of a tensor; unstructured pruning keeps some of the values that are
left. Both are said in the parent's coordinates by name of the tensor, so that variants of one parent can be put
together again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Axes = tuple[Indices | None, ...]
"""The kept indices of each axis, ascending; None where an axis is whole."""


@dataclass(frozen=True, eq=False)
class Support:
    """What a variant has of its parent. Two supports are equal if they keep the same coordinates.

    A tensor that neither `axes` nor `masks` names is whole. Names are those of the parent's `state_dict`; the variant's
    tensors have the same.
    """

    axes: Mapping[str, Axes] = field(default_factory=dict)
    """By tensor, a list of kept indices for each of its axes."""
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """By tensor, in the variant's own shape: true where a value may be other than zero."""
    placed: bool = True
    """Whether masks say where; false: only how many values there are, because nobody has looked."""

    @cached_property
    def digest(self) -> str:
        """A hash of what is kept, in hexadecimal digits: the support's name on the wire and in files."""
        made = hashlib.sha256()
        for name, axes in sorted(self.axes.items()):
            for number, kept in enumerate(axes):
                if kept is not None:
                    made.update(f"axis {name} {number} {len(kept)}\n".encode())
                    made.update(np.ascontiguousarray(kept, "<i8").tobytes())
        for name, mask in sorted(self.masks.items()):
            made.update(f"mask {name} {mask.shape}\n".encode())
            made.update(np.packbits(mask, bitorder="little").tobytes())
        return made.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Support) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return not self.masks and all(kept is None for axes in self.axes.values() for kept in axes)

    def shape(self, name: str, parent: tuple[int, ...]) -> tuple[int, ...]:
        """The variant's shape of a tensor that has the shape `parent` in the parent."""
        axes = self.axes.get(name)
        if axes is None:
            return parent
        assert len(axes) == len(parent), f"{name}: {len(axes)} index lists for {len(parent)} axes"
        return tuple(size if kept is None else len(kept) for size, kept in zip(parent, axes, strict=True))

    def part(self, names: Iterable[str]) -> Support:
        """What it says of these tensors."""
        wanted = set(names)
        axes = {name: axes for name, axes in self.axes.items() if name in wanted}
        return Support(axes, {name: mask for name, mask in self.masks.items() if name in wanted})

    def kept(self, name: str) -> int | None:
        """How many values of a tensor may be other than zero; None where no mask says."""
        mask = self.masks.get(name)
        return None if mask is None else int(np.count_nonzero(mask))

    def index(self, name: str, parent: tuple[int, ...]) -> tuple[Any, ...]:
        """What indexes an array of the parent's shape to get the variant's: `array[support.index(name, shape)]`."""
        axes = self.axes.get(name)
        if axes is None or all(kept is None for kept in axes):
            return (slice(None),) * len(parent)
        full = [np.arange(size) if kept is None else kept for size, kept in zip(parent, axes, strict=True)]
        return np.ix_(*full)


def covered(supports: Iterable[Support], shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """The share of a parent's values, of tensors with these shapes, that at least one of some supports has.

    None where the masks of several are not known, so that nobody can say what they have in common.
    """
    chosen = tuple(dict.fromkeys(supports))
    if len(chosen) > 1 and not all(each.placed for each in chosen) and not any(each.whole for each in chosen):
        return None
    have = total = 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        total += size
        if any(name not in each.axes and name not in each.masks for each in chosen):
            have += size
            continue
        there = np.zeros(shape, np.bool_)
        for each in chosen:
            mask = each.masks.get(name)
            there[each.index(name, shape)] |= True if mask is None else mask
        have += int(np.count_nonzero(there))
    return have / total if total else 1.0


WHOLE = Support()
"""The support of the parent itself."""
