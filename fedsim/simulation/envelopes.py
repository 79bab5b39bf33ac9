"""What a message weighs on the network: its payloads, byte for byte, and an envelope."""

from __future__ import annotations

from typing import Final, NamedTuple

from fedsim.script import Message, Purpose, payloads

ENVELOPE_BYTES: Final = 64
"""Charged for the header of every message, as `control`: the bound that the wire format keeps."""

_PURPOSES: Final = (Purpose.WEIGHTS, Purpose.ACTIVATIONS, Purpose.GRADIENTS, Purpose.LABELS)


class Parcel(NamedTuple):
    """A message as the network and the trace see it; `payload` holds bytes by purpose, `nbytes` all of them."""

    kind: str
    role: str
    payload: tuple[int, int, int, int]
    nbytes: int


def pack(message: Message) -> Parcel:
    """Weigh a message."""
    sizes = [0, 0, 0, 0]
    for payload in payloads(message):
        sizes[_PURPOSES.index(payload.meta.purpose)] += payload.nbytes
    kind = type(message)
    weights, activations, gradients, labels = sizes
    return Parcel(
        kind.__name__, kind.role.value, (weights, activations, gradients, labels), sum(sizes) + ENVELOPE_BYTES
    )
