"""Messages of every kind of field, and one direction of a connection without anything in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim.payload.codecs import PLAIN, Codec
from fedsim.payload.coding import Value
from fedsim.payload.meta import Shape, TensorMeta
from fedsim.payload.tensors import FlatTensors, Layout
from fedsim.script import Message, Payload, Purpose, Role
from fedsim.wire.codec import Decoder, Encoded, Encoder, Incoming
from fedsim.wire.frames import Assembly, split
from fedsim.wire.refusals import Bounds
from fedsim.wire.registry import Registry

MEGABYTE = 1 << 20
BOUNDS = Bounds(body=MEGABYTE, memory=4 * MEGABYTE)


@dataclass(frozen=True, slots=True)
class Sample(Message):
    """A batch, as most schedulers send it."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload
    labels: Payload
    round: int


@dataclass(frozen=True, slots=True)
class Plain(Message):
    """Nothing but a number."""

    role: ClassVar[Role] = Role.CONTROL
    number: int


@dataclass(frozen=True, slots=True)
class Rich(Message):
    """A field of every kind that can travel."""

    role: ClassVar[Role] = Role.CONTROL
    number: int
    maybe: int | None
    share: float
    word: str
    open: bool
    one: Payload
    other: Payload | None
    many: tuple[Payload, ...]
    several: list[Payload]
    by_node: Mapping[int, Payload]
    by_name: dict[str, tuple[int, ...]]
    pairs: tuple[tuple[int, float], ...]
    corner: tuple[str, bool, Payload | None]


REGISTRY = Registry((Plain, Sample, Rich))


def shape_of(x: Tensor, name: str = "x") -> Shape:
    """A tensor's shape."""
    return Shape(name, tuple(x.shape), str(x.dtype).removeprefix("torch."))


def handle(x: Tensor, purpose: Purpose = Purpose.ACTIVATIONS, codec: Codec = PLAIN, node: int = 0) -> Payload:
    """A payload for one tensor."""
    return Payload(node, 1, TensorMeta(purpose, (shape_of(x),), codec))


def flat(tensors: Mapping[str, Tensor], codec: Codec = PLAIN, *, channels_last: bool = False) -> tuple[Payload, Value]:
    """A payload for weights, and these."""
    shapes = tuple(shape_of(x, name) for name, x in tensors.items())
    made = Layout(shapes, channels_last=channels_last).empty()
    made.fill_(tensors)
    return Payload(0, 1, TensorMeta(Purpose.WEIGHTS, shapes, codec)), made


def bits(x: Tensor) -> bytes:
    """A tensor's bytes, row by row."""
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""


def same(one: Value, other: Value) -> bool:
    """Whether values are equal bit by bit, and lie alike in memory."""
    if isinstance(one, FlatTensors) or isinstance(other, FlatTensors):
        assert isinstance(one, FlatTensors)
        assert isinstance(other, FlatTensors)
        return all(same(a, b) for a, b in zip(one.views(), other.views(), strict=True))
    return (one.dtype, one.shape, one.stride(), bits(one)) == (other.dtype, other.shape, other.stride(), bits(other))


@dataclass
class Link:
    """From node 0 to somewhere."""

    layouts: Mapping[TensorMeta, Layout] = field(default_factory=dict)
    registry: Registry = REGISTRY
    bounds: Bounds = BOUNDS
    channels_last: bool = False
    checksum: bool = True
    frame_size: int = 1000

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.registry, checksum=self.checksum)
        self.decoder = Decoder(
            self.registry,
            0,
            self.layouts.__getitem__,
            count(100),
            self.bounds,
            channels_last=self.channels_last,
            checksum=self.checksum,
        )
        self.assembly: Assembly[Incoming] = Assembly(self.decoder.begin)
        self.sent = 0

    def encode(self, message: Message, values: Mapping[Payload, Value]) -> Encoded:
        """What is to be sent."""
        return self.encoder.encode(message, values.__getitem__, self.sent + 1000)

    def carry(self, message: Message, values: Mapping[Payload, Value]) -> tuple[Any, dict[Payload, Value]]:
        """What arrives."""
        return self.deliver(self.encode(message, values))

    def deliver(self, encoded: Encoded) -> tuple[Any, dict[Payload, Value]]:
        """What arrives of what is sent."""
        self.sent += 1
        frames = split(self.sent, encoded.header + encoded.definitions, encoded.body, self.frame_size)
        *early, last = [self.assembly.add(frame) for frame in frames]
        assert not any(early)
        assert last is not None
        return self.decoder.finish(last)


def values_of(payloads: Sequence[Payload], tensors: Sequence[Value]) -> dict[Payload, Value]:
    """Values behind payloads."""
    return dict(zip(payloads, tensors, strict=True))
