"""The one transfer of activations: a device hands over what its block makes of each of its samples, then ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedsim.learning.context import Device
from fedsim.script import SERVER, Message, Payload, Role, compute, send

Transfer = Literal["background", "sequential", "stream"]


@dataclass(frozen=True, slots=True)
class Export(Message):
    """Server to device: send the activations that this device block, or your own one, makes of your data."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, and its labels."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y


@dataclass(frozen=True, slots=True)
class Exported(Message):
    """Device to server: those were all."""

    role: ClassVar[Role] = Role.CONTROL


async def export(me: Device, mode: Literal["eval", "train"], augment_copies: int, transfer: Transfer) -> None:
    """Send each sample's activations exactly once, or those of so many augmented copies of it, without a gradient."""
    made: list[Activations] = []
    for copy in range(max(1, augment_copies)):
        for batch in me.all_batches():
            z = await compute(me.block.infer(batch, mode, copy if augment_copies else None))
            activations = Activations(z, me.block.labels(batch))
            if transfer == "sequential":
                me.hold(z.nbytes)
                made.append(activations)
            else:
                await send(SERVER, activations)
    for activations in made:
        me.hold(-activations.values.nbytes)
        await send(SERVER, activations)
    me.block.close()
    await send(SERVER, Exported())
