"""Models that are trained side by side and never put together: one a variant, all of them as one block's weights.

The tensors of a bundle are those of its members, under the member's prefix. So whoever holds the bundle holds a global
model for each of them, and whatever is done to it coordinate by coordinate is done to each by itself. Knows neither who
trains them nor where.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from fedsim.payload.meta import Shape, TensorMeta
from fedsim.payload.supports import Support
from fedsim.script import Purpose, Quality

if TYPE_CHECKING:
    from fedsim.learning.plan import BlockPlan

T = TypeVar("T")

VARIANT: Final = "#"
"""Stands between the name of a block and the number of its variant, and before that number in the names of tensors."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """The members, and how many devices hold each."""

    members: tuple[BlockPlan, ...]
    devices: tuple[int, ...]

    def meta(self, part: str) -> TensorMeta:
        """All members' weights, or a part of them: parameters of all, then buffers, as in any block."""
        parameters: list[Shape] = []
        buffers: list[Shape] = []
        for member in self.members:
            trained = {shape.name for shape in member.parameters.shapes}
            for shape in getattr(member, part).shapes:
                found = parameters if shape.name in trained else buffers
                found.append(replace(shape, name=f"{member.prefix}{shape.name}"))
        return TensorMeta(Purpose.WEIGHTS, (*parameters, *buffers), self.members[0].weights.codec)

    @property
    def support(self) -> Support:
        """The masks of all members."""
        return Support(
            masks={f"{each.prefix}{name}": mask for each in self.members for name, mask in each.support.masks.items()}
        )

    @property
    def trainable(self) -> int:
        """Parameters of all members."""
        return sum(member.trainable for member in self.members)

    def share(self, held: Collection[BlockPlan]) -> float:
        """The share of all parameters that some members have."""
        return sum(member.trainable for member in self.members if member in held) / self.trainable

    def quality(self, each: Sequence[Quality]) -> Quality:
        """Of all members, given that of each: what a device has on average, whichever it is."""
        total = sum(self.devices)
        weighted = list(zip(self.devices, each, strict=True))
        return Quality(
            sum(count * quality.accuracy for count, quality in weighted) / total,
            sum(count * quality.loss for count, quality in weighted) / total,
            each[0].samples,
            tuple(each),
        )


def prefix(number: int) -> str:
    """What stands before the names of the tensors of a member."""
    return f"{VARIANT}{number}."


def of_member(number: int, tensors: Mapping[str, T]) -> dict[str, T]:
    """Of a published model's tensors those of one member, by their own names, with those that all share."""
    own = prefix(number)
    return {
        name.removeprefix(own): tensor
        for name, tensor in tensors.items()
        if name.startswith(own) or not name.startswith(VARIANT)
    }


def bare(name: str) -> str:
    """The name of a tensor in its own model, of that in a bundle; of any other, itself."""
    return name.partition(".")[2] if name.startswith(VARIANT) else name
