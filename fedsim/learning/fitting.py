"""Between a model and its pruned variants: what a variant has of the whole, and the whole with a variant put into it.

All of it goes by the supports of the variants' plans. Knows nothing of who holds which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.payload.supports import Support
from fedsim.payload.tensors import FlatTensors, Layout


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the values of one of a variant's tensors are in the whole one."""

    axes: tuple[Tensor | None, ...]
    mask: Tensor | None

    def take(self, whole: Tensor) -> Tensor:
        """What the variant has of it, zeros where its mask leaves values out; maybe the very same memory."""
        for axis, kept in enumerate(self.axes):
            if kept is not None:
                whole = whole.index_select(axis, kept)
        return whole if self.mask is None else whole.masked_fill(self.mask.logical_not(), 0)

    def change(self, whole: Tensor, given: Tensor, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Overwrite what the variant has of `whole` by a function of that and of what is `given`."""
        mine = whole
        for axis, kept in enumerate(self.axes):
            if kept is not None:
                mine = mine.index_select(axis, kept)
        made = how(mine, given)
        if self.mask is not None:
            made = torch.where(self.mask, made, mine)
        cut = [axis for axis, kept in enumerate(self.axes) if kept is not None]
        if not cut:
            whole.copy_(made)
            return
        index = [
            torch.arange(size) if kept is None else kept for size, kept in zip(whole.shape, self.axes, strict=True)
        ]
        whole[torch.meshgrid(*index, indexing="ij")] = made


class Fitting:
    """How the tensors of a variant's layout lie in those of the whole one's.

    Args:
        variant: the variant's layout.
        support: what the variant has of the whole.
        prefix: of the names that its tensors have there.
    """

    def __init__(self, variant: Layout, support: Support, prefix: str = "") -> None:
        self.variant = variant
        self._prefix = prefix
        self._places: dict[str, _Place] = {}
        for slot in variant.slots:
            axes = support.axes.get(slot.name, (None,) * len(slot.shape))
            kept = tuple(None if each is None else torch.from_numpy(np.ascontiguousarray(each)) for each in axes)
            self._places[slot.name] = _Place(kept, variant.masks.get(slot.name))

    def fitted(self, whole: FlatTensors) -> FlatTensors:
        """What the variant has of the whole, in memory of its own."""
        made, named = self.variant.zeros(), whole.named()
        made.fill_({name: place.take(named[f"{self._prefix}{name}"]) for name, place in self._places.items()})
        return made

    def change_(self, whole: FlatTensors, given: FlatTensors, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Overwrite what the variant has of the whole, tensor by tensor, by a function of that and of what is given."""
        named = whole.named()
        for slot, view in zip(self.variant.slots, given.views(), strict=True):
            self._places[slot.name].change(named[f"{self._prefix}{slot.name}"], view, how)
