"""Messages with the values behind their payloads as bytes, and back.

An `Encoder` and a `Decoder` are one direction of one connection: they share the structures that have been described.
A message is a short header, the descriptions that it needs first, and a body, which is the bytes of its payloads and
nothing else, as many as their metas say. Knows neither frames nor transports.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from fedsim.payload.coding import Value
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import Layout
from fedsim.script import UNSENT, Message, Payload
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire import tensors
from fedsim.wire.fields import Values
from fedsim.wire.refusals import Bounds, WireError
from fedsim.wire.registry import Registry
from fedsim.wire.structures import Known, Told

_STRUCTURES: Final = 256
"""Structures that an encoder keeps under numbers; a receiver's bounds have to allow for as many."""


@dataclass(frozen=True, slots=True)
class Cargo:
    """A message taken apart, for any number of receivers."""

    kind: int
    sender: int
    values: Values
    body: tuple[memoryview, ...]
    nbytes: int
    """Of the body."""
    checksum: int | None
    """CRC-32 of the body; None: it has none."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message for one receiver."""

    header: bytes
    definitions: bytes
    """Structures that the receiver has not had; they travel right behind the header, as part of it."""
    body: tuple[memoryview, ...]
    """Shares memory with the tensors, so these must not be written to until it has been sent."""
    nbytes: int
    """Of the body."""


def load(registry: Registry, message: Message, value_of: Callable[[Payload], Value], *, checksum: bool = True) -> Cargo:
    """Take a message apart; what takes time of encoding is done here, once for all its receivers.

    Args:
        registry: the message classes.
        message: with its sender filled in.
        value_of: what is to be sent behind a payload, as its maker has it: codecs are applied here. It is asked once
            for each payload, also for one that the message has twice.
        checksum: whether the body gets one.

    Raises:
        ScriptError: as `Registry.taken_apart`.
    """
    assert message.sender != UNSENT, f"{type(message).__name__} has no sender"
    values = registry.taken_apart(message)
    made: dict[Payload, list[memoryview]] = {}
    for payload in values.payloads:
        if payload not in made:
            made[payload] = _buffers(payload, value_of(payload))
    body = [buffer for payload in values.payloads for buffer in made[payload]]
    crc = 0
    if checksum:
        for buffer in body:
            crc = zlib.crc32(buffer, crc)
    kind = registry.number(type(message))
    return Cargo(kind, message.sender, values, tuple(body), sum(map(len, body)), crc if checksum else None)


def _buffers(payload: Payload, value: Value) -> list[memoryview]:
    assert isinstance(payload.meta, TensorMeta), f"a payload whose meta is {type(payload.meta).__name__} has no tensors"
    found = tensors.buffers(payload.meta, value)
    nbytes = sum(map(len, found))
    assert nbytes == payload.nbytes, f"{nbytes} bytes, but {payload.nbytes} were announced"
    return found


class Encoder:
    """The sender's side.

    Args:
        registry: the message classes.
        checksum: whether bodies get one.
    """

    def __init__(self, registry: Registry, *, checksum: bool = True) -> None:
        self._registry = registry
        self._checksum = checksum
        self._told = Told(_STRUCTURES)

    def encode(self, message: Message, value_of: Callable[[Payload], Value], number: int) -> Encoded:
        """`load` and `address` in one."""
        return self.address(load(self._registry, message, value_of, checksum=self._checksum), number)

    def address(self, cargo: Cargo, number: int) -> Encoded:
        """A message for this receiver; everything that is encoded has to get there, in this order.

        Args:
            cargo: the message.
            number: of the message in the run.
        """
        references: list[int] = []
        news = pb.Header()
        for payload in cargo.values.payloads:
            reference, description = self._told.refer(payload)
            references += reference
            if description is not None:
                news.definitions.append(description)
        header = pb.Header(
            kind=cargo.kind,
            sender=cargo.sender,
            number=number,
            body=cargo.nbytes,
            payloads=references,
            integers=cargo.values.integers,
            reals=cargo.values.reals,
            texts=cargo.values.texts,
            checksum=cargo.checksum,
        )
        return Encoded(header.SerializeToString(), news.SerializeToString(), cargo.body, cargo.nbytes)


@dataclass(slots=True, eq=False)
class Incoming:
    """A message whose body is yet to come. Everything about it has been checked but that."""

    message: Message
    number: int
    """Of the message in the run."""
    nbytes: int
    """Of the body."""
    payloads: tuple[Payload, ...]
    layouts: tuple[Layout | None, ...]
    checksum: int | None
    _buffer: memoryview | None = field(default=None, repr=False)
    _crc: int = 0
    _looked: int = 0  # bytes that this is the CRC-32 of

    @property
    def buffer(self) -> memoryview:
        """Where the body is to be written; there is no memory for it before this is looked at."""
        if self._buffer is None:
            self._buffer = tensors.room(self.nbytes)
        return self._buffer

    def look(self, end: int) -> None:
        """All bytes of the body before `end` are there: their checksum is made now, if there is one to compare."""
        if self.checksum is not None:
            self._crc = zlib.crc32(self.buffer[self._looked : end], self._crc)
            self._looked = end

    @property
    def sound(self) -> bool:
        """Whether the body, which is complete, is what the checksum says."""
        self.look(self.nbytes)
        return self.checksum is None or self.checksum == self._crc


class Decoder:
    """The receiver's side.

    Args:
        registry: the message classes, the same as the sender's.
        sender: the only node that messages of this connection may come from.
        layout_of: where weights of a meta are to lie: the host's own layout; `KeyError` if the run has no such weights.
        numbers: those of the payloads that are made here.
        bounds: the most that a peer may ask for.
        channels_last: how tensors that are no weights are to lie.
        checksum: whether a body without one is refused.
        admits: whether a payload of such a meta may come at all.
    """

    def __init__(
        self,
        registry: Registry,
        sender: int,
        layout_of: Callable[[TensorMeta], Layout],
        numbers: Iterator[int],
        bounds: Bounds,
        *,
        channels_last: bool = False,
        checksum: bool = True,
        admits: Callable[[TensorMeta], bool] | None = None,
    ) -> None:
        self._registry = registry
        self._sender = sender
        self._numbers = numbers
        self._bounds = bounds
        self._channels_last = channels_last
        self._checksum = checksum
        self._admits = admits
        self._known: Known[Layout] = Known(bounds, layout_of)

    def begin(self, header: bytes) -> Incoming:
        """Look at a header, with the definitions behind it.

        Raises:
            WireError: it is none, or announces what cannot be or is too large.
        """
        if len(header) > self._bounds.header:
            raise WireError(f"a header of {len(header)} bytes; it has at most {self._bounds.header}")
        try:
            told = pb.Header.FromString(header)
        except DecodeError as error:
            raise WireError("a header that is none") from error
        kind = self._registry.kind(told.kind)
        if told.sender != self._sender:
            raise WireError(f"a message of node {told.sender} on the connection of node {self._sender}")
        if told.body > self._bounds.body:
            raise WireError(f"a message of {told.body} bytes; those of this run have at most {self._bounds.body}")
        if self._checksum and not told.HasField("checksum"):
            raise WireError("a message without a checksum")
        if len(told.payloads) > 2 * self._bounds.payloads:
            raise WireError(f"a message of more than {self._bounds.payloads} payloads")
        if len(told.definitions) > self._bounds.structures:
            raise WireError(f"a message with more than {self._bounds.structures} descriptions")
        for definition in told.definitions:
            self._known.learn(definition)
        payloads, layouts = self._payloads(told)
        values = Values(list(told.integers), list(told.reals), list(told.texts), list(payloads))
        return Incoming(
            message=self._registry.put_together(kind, values, told.sender),
            number=told.number,
            nbytes=told.body,
            payloads=payloads,
            layouts=layouts,
            checksum=told.checksum if told.HasField("checksum") else None,
        )

    def _payloads(self, told: pb.Header) -> tuple[tuple[Payload, ...], tuple[Layout | None, ...]]:
        """Handles for the payloads of a message, if they are just as large as its body."""
        payloads: list[Payload] = []
        layouts: list[Layout | None] = []
        nbytes = memory = 0
        for meta, layout in self._known.metas(iter(told.payloads)):
            if self._admits is not None and not self._admits(meta):
                raise WireError(f"a payload of {meta.purpose} {[each.shape for each in meta.shapes]}, which none has")
            nbytes += meta.nbytes
            memory += meta.memory_bytes
            payloads.append(Payload(told.sender, next(self._numbers), meta))
            layouts.append(layout)
        if len(payloads) > self._bounds.payloads:
            raise WireError(f"a message of more than {self._bounds.payloads} payloads")
        if nbytes != told.body:
            raise WireError(f"a body of {told.body} bytes, but its payloads have {nbytes}")
        if memory > self._bounds.memory:
            raise WireError(
                f"a message of {memory} bytes in memory; those of this run have at most {self._bounds.memory}"
            )
        return tuple(payloads), tuple(layouts)

    def finish(self, incoming: Incoming) -> tuple[Message, dict[Payload, Value]]:
        """The message, and the values behind its payloads, once the whole body lies in the buffer.

        Tensors keep the buffer where they can, so it is not to be written to any more.

        Raises:
            WireError: the checksum is wrong, or the bytes are those of no such values.
        """
        data = incoming.buffer
        if not incoming.sound:
            raise WireError(f"a body of {incoming.nbytes} bytes with a wrong checksum")
        found: dict[Payload, Value] = {}
        at = 0
        for payload, layout in zip(incoming.payloads, incoming.layouts, strict=True):
            meta = payload.meta
            assert isinstance(meta, TensorMeta)
            end = at + meta.nbytes
            found[payload] = tensors.value(meta, data[at:end], layout, channels_last=self._channels_last)
            at = end
        return incoming.message, found


def joined(body: Iterable[memoryview]) -> bytes:
    """A body in one piece, as its receiver gets it."""
    return b"".join(body)
