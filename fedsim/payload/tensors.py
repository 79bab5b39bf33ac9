"""A block's tensors as views of one flat buffer a dtype: loading, summing and shipping a model are single operations.

Every tensor starts on a 64-byte boundary, as PyTorch's own allocations do, so that kernels take the same paths and
give the same bits as on separately allocated tensors. The padding is never counted in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fedsim.payload.memory import Recycler
from fedsim.payload.meta import Shape

_ALIGNMENT: Final = 64
DTYPES: Final = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
}


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies: buffer, offset in elements, shape and strides."""

    name: str
    buffer: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _strides(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """Strides of a dense tensor; the same for every tensor of a shape, also where an axis of size 1 leaves a choice."""
    order = [0, 2, 3, 1] if channels_last and len(shape) == 4 else list(range(len(shape)))
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


class Layout:
    """The slots of a block's tensors in its flat buffers.

    Args:
        shapes: names, shapes and dtypes, in the order of the block's parameters, then buffers.
        channels_last: lay four-dimensional tensors out with the channels innermost.
        masks: by name, true where a tensor may be other than zero; tensors that are not named are whole.
    """

    def __init__(
        self, shapes: Iterable[Shape], *, channels_last: bool = False, masks: Mapping[str, Tensor] | None = None
    ) -> None:
        shapes = tuple(shapes)
        self.channels_last = channels_last
        self.nbytes = sum(shape.nbytes for shape in shapes)
        sizes: dict[str, int] = {}
        slots: list[Slot] = []
        for shape in shapes:
            index = list(sizes).index(shape.dtype) if shape.dtype in sizes else len(sizes)
            offset = sizes.get(shape.dtype, 0)
            slots.append(Slot(shape.name, index, offset, shape.shape, _strides(shape.shape, channels_last)))
            unit = max(1, _ALIGNMENT // DTYPES[shape.dtype].itemsize)
            sizes[shape.dtype] = offset + -(-shape.elements // unit) * unit
        self.slots = tuple(slots)
        self.masks: dict[str, Tensor] = {}
        """Of those of its tensors that have one."""
        self.gaps: dict[str, Tensor] = {}
        """Their opposites: true where a tensor is zero."""
        for shape in shapes:
            mask = None if masks is None else masks.get(shape.name)
            assert (mask is None) is (shape.kept is None), f"{shape.name}: a mask, or a number of values kept, alone"
            if mask is not None:
                assert tuple(mask.shape) == shape.shape and int(mask.sum()) == shape.kept, f"the mask of {shape.name}"
                self.masks[shape.name] = self.arranged(mask)
                self.gaps[shape.name] = self.masks[shape.name].logical_not()
        self.dtypes = tuple(DTYPES[name] for name in sizes)
        self.sizes = tuple(sizes.values())
        self._memory = Recycler()

    def arranged(self, tensor: Tensor) -> Tensor:
        """The same values as these layouts have them in memory; no copy where they lie that way already.

        So a tensor's strides, by which kernels are chosen, follow from its shape alone, on every host.
        """
        wanted = _strides(tuple(tensor.shape), self.channels_last)
        if tensor.stride() == wanted:
            return tensor
        last = self.channels_last and tensor.dim() == 4
        dense = tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        return dense.as_strided(dense.shape, wanted)  # axes of size 1 may still have other strides

    def zeros(self) -> FlatTensors:
        """Buffers of their own in host memory, zero in the padding and everywhere else."""
        made = self.empty()
        for buffer in made.buffers:
            buffer.zero_()
        return made

    def empty(self) -> FlatTensors:
        """Buffers of their own in host memory with arbitrary contents, for those who overwrite them whole."""
        sizes = zip(self.sizes, self.dtypes, strict=True)
        return FlatTensors(self, tuple(self._memory.empty(elements, dtype) for elements, dtype in sizes))


class FlatTensors:
    """The tensors of one block. Shared by reference wherever nobody writes."""

    __slots__ = ("buffers", "layout")

    def __init__(self, layout: Layout, buffers: tuple[Tensor, ...]) -> None:
        self.layout = layout
        self.buffers = buffers

    def views(self) -> list[Tensor]:
        """One tensor a slot, in order, sharing memory with the flat buffers."""
        return [self.buffers[s.buffer].as_strided(s.shape, s.strides, s.offset) for s in self.layout.slots]

    def named(self) -> dict[str, Tensor]:
        """The views by name."""
        return {slot.name: view for slot, view in zip(self.layout.slots, self.views(), strict=True)}

    @property
    def away(self) -> bool:
        """Whether they lie elsewhere than in host memory."""
        return any(buffer.device.type != "cpu" for buffer in self.buffers)

    def on(self, processor: torch.device) -> FlatTensors:
        """The same values in a processor's memory; the very same where they lie there."""
        if all(buffer.device == processor for buffer in self.buffers):
            return self
        return FlatTensors(self.layout, tuple(buffer.to(processor) for buffer in self.buffers))

    def clone(self) -> FlatTensors:
        """A copy with buffers of its own, in host memory."""
        other = self.layout.empty()
        other.copy_(self)
        return other

    def copy_(self, other: FlatTensors) -> None:
        """Overwrite the buffers with those of `other`."""
        for mine, theirs in zip(self.buffers, other.buffers, strict=True):
            mine.copy_(theirs)

    def fill_(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite every tensor with the one of the same name."""
        for name, view in self.named().items():
            view.copy_(values[name])

    def mask_(self) -> None:
        """Set to zero what the layout's masks leave out."""
        if self.layout.gaps:
            named = self.named()
            for name, gaps in self.layout.gaps.items():
                named[name].masked_fill_(gaps, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, without padding."""
        return self.layout.nbytes
