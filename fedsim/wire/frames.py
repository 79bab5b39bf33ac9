"""Frames: a message cut into pieces that a stream carries, and put together again where they arrive.

A frame is its kind (1 byte), the number of its message on the connection (8), an offset (8), little-endian, and bytes.
A message is one frame with the header and, where it has a body, frames with the body, in order and without gaps.
Numbers rise by one, from 1. A stream that goes on where another has broken off begins with a frame that says what is
there.
Knows neither what is in headers and bodies nor what carries frames.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Final, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from fedsim.wire.refusals import WireError

_HEAD: Final = struct.Struct("<BQQ")

OVERHEAD: Final = _HEAD.size
"""Bytes of a frame beside what it carries."""


class FrameKind(IntEnum):
    """What a frame carries."""

    HEADER = 1
    """A header with its definitions; its offset is 0."""
    BODY = 2
    """Bytes of a body from its offset on."""
    RESUME = 3
    """Nothing: the sender of this frame lacks this message, but for so many bytes of its body."""


class Position(NamedTuple):
    """What a receiver has: all messages before `message`, and `offset` bytes of the body of that one."""

    message: int = 1
    offset: int = 0


class Frame(NamedTuple):
    """A frame taken apart; `data` shares memory with it."""

    kind: FrameKind
    message: int
    offset: int
    data: memoryview


def parsed(frame: bytes) -> Frame:
    """Take a frame apart.

    Raises:
        WireError: it is none.
    """
    if len(frame) < OVERHEAD:
        raise WireError(f"a frame of {len(frame)} bytes; the shortest has {OVERHEAD}")
    kind, message, offset = _HEAD.unpack_from(frame)
    if kind not in tuple(FrameKind):
        raise WireError(f"a frame of kind {kind}, which is none")
    return Frame(FrameKind(kind), message, offset, memoryview(frame)[OVERHEAD:])


def resume(position: Position) -> bytes:
    """The frame by which a stream that goes on begins: what its sender has of the other side's messages."""
    return _HEAD.pack(FrameKind.RESUME, *position)


def split(message: int, header: bytes, body: Sequence[memoryview], frame_size: int, start: int = 0) -> Iterator[bytes]:
    """The frames of a message, each made when it is asked for, by one copy.

    Args:
        message: its number on the connection.
        header: with its definitions.
        body: in pieces; they are looked at until the last frame is there.
        frame_size: bytes of the body in a frame.
        start: bytes of the body that the receiver has already.
    """
    assert frame_size > 0
    yield _HEAD.pack(FrameKind.HEADER, message, 0) + header
    offset = start
    pieces: list[memoryview] = []
    held = 0
    for buffer in body:
        at = min(start, len(buffer))
        start -= at
        while at < len(buffer):
            piece = buffer[at : at + frame_size - held]
            pieces.append(piece)
            held += len(piece)
            at += len(piece)
            if held == frame_size:
                yield b"".join((_HEAD.pack(FrameKind.BODY, message, offset), *pieces))
                offset += held
                pieces, held = [], 0
    if held:
        yield b"".join((_HEAD.pack(FrameKind.BODY, message, offset), *pieces))


def count(nbytes: int, frame_size: int) -> int:
    """How many frames a message with a body of so many bytes has."""
    return 1 + -(-nbytes // frame_size)


class Room(Protocol):
    """What becomes of a header: it has room for the body."""

    @property
    def buffer(self) -> memoryview:
        """As large as the body."""
        ...


@runtime_checkable
class Looking(Room, Protocol):
    """Room that looks at its bytes as they come, while the processor's caches have them."""

    def look(self, end: int) -> None:
        """All bytes before `end` are there."""
        ...


R = TypeVar("R", bound=Room)


class Assembly(Generic[R]):
    """Messages in the making on the receiver's side of a connection.

    Args:
        begin: makes room for the body from a header; raises `WireError` where it refuses that.
    """

    def __init__(self, begin: Callable[[bytes], R]) -> None:
        self._begin = begin
        self._position = Position()
        self._room: R | None = None
        self._look: Callable[[int], None] | None = None
        self._buffer = memoryview(b"")
        self._header = b""
        self._again = False

    @property
    def position(self) -> Position:
        """What is there."""
        return self._position

    def broken(self) -> Position:
        """The stream is gone; another one goes on from the position that this answers with."""
        self._again = self._room is not None
        return self._position

    def add(self, frame: bytes) -> R | None:
        """Take the next frame in; answers with what `begin` has made once the body is complete.

        Raises:
            WireError: it is not what has to come next. The connection is of no more use.
        """
        kind, message, offset, data = parsed(frame)
        if message != self._position.message:
            raise WireError(f"a frame of message {message} where message {self._position.message} is due")
        match kind:
            case FrameKind.HEADER:
                return self._take_header(offset, bytes(data))
            case FrameKind.BODY:
                return self._take_body(offset, data)
            case FrameKind.RESUME:
                raise WireError("a stream that is resumed in its middle")

    def _take_header(self, offset: int, header: bytes) -> R | None:
        if offset:
            raise WireError(f"a header at offset {offset}")
        if self._room is not None:
            if not self._again or header != self._header:
                raise WireError(f"a second header of message {self._position.message}")
            self._again = False
            return None
        room = self._begin(header)
        self._room, self._buffer, self._header = room, room.buffer, header
        self._look = room.look if isinstance(room, Looking) else None
        return self._complete() if not len(self._buffer) else None

    def _take_body(self, offset: int, data: memoryview) -> R | None:
        message, there = self._position
        if self._room is None or self._again:
            raise WireError(f"bytes of message {message} before its header")
        if offset != there:
            raise WireError(f"bytes of message {message} from {offset} on where those from {there} on are due")
        end = there + len(data)
        if not len(data) or end > len(self._buffer):
            raise WireError(f"{len(data)} more bytes of message {message}; {len(self._buffer) - there} are due")
        self._buffer[there:end] = data
        self._position = Position(message, end)
        if self._look is not None:
            self._look(end)
        return self._complete() if end == len(self._buffer) else None

    def _complete(self) -> R:
        room = self._room
        assert room is not None
        self._room, self._look, self._buffer, self._header, self._again = None, None, memoryview(b""), b"", False
        self._position = Position(self._position.message + 1)
        return room
