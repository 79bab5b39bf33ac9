"""Frames: cutting messages, putting them together, and going on where a stream has broken off."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.wire.frames import OVERHEAD, Assembly, Frame, FrameKind, Position, count, parsed, resume, split
from fedsim.wire.refusals import WireError


@dataclass
class Parcel:
    """Room for a body whose length the header is."""

    header: bytes
    data: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.data = bytearray(int(self.header))

    @property
    def buffer(self) -> memoryview:
        """All of it."""
        return memoryview(self.data)


def cut(body: bytes, pieces: Sequence[int]) -> list[memoryview]:
    """A body in pieces of about these lengths."""
    found, at = [], 0
    for size in pieces:
        found.append(memoryview(body[at : at + size]))
        at += size
    return [*found, memoryview(body[at:])]


def head_of(body: bytes) -> bytes:
    """A header that says how long a body is."""
    return str(len(body)).encode()


bodies = st.binary(max_size=200)
lengths = st.lists(st.integers(0, 60), max_size=8)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(st.tuples(bodies, lengths), max_size=4), st.integers(1, 80))
def test_messages_come_back(messages: list[tuple[bytes, list[int]]], frame_size: int) -> None:
    """However bodies lie in memory, and however they are cut; frames are full but for the last one of a message."""
    assembly = Assembly(Parcel)
    got: list[bytes] = []
    for number, (body, pieces) in enumerate(messages, start=1):
        frames = list(split(number, head_of(body), cut(body, pieces), frame_size))
        assert len(frames) == count(len(body), frame_size)
        assert [len(frame) - OVERHEAD for frame in frames[1:-1]] == [frame_size] * (len(frames) - 2)
        assert sum(map(len, frames)) == len(frames) * OVERHEAD + len(head_of(body)) + len(body)
        done = [assembly.add(frame) for frame in frames]
        assert not any(done[:-1])
        assert done[-1] is not None
        got.append(bytes(done[-1].data))
        assert assembly.position == Position(number + 1, 0)
    assert got == [body for body, _ in messages]


@pytest.mark.slow
@settings(max_examples=100)
@given(bodies, lengths, st.integers(1, 50), st.integers(1, 50), st.data())
def test_a_stream_goes_on_where_another_has_broken_off(
    body: bytes, pieces: list[int], before: int, after: int, data: st.DataObject
) -> None:
    """After any frame, with frames of another size: no byte is lost or sent again, and there is one message."""
    assembly = Assembly(Parcel)
    buffers = cut(body, pieces)
    frames = list(split(1, head_of(body), buffers, before))
    arrived = data.draw(st.integers(0, len(frames) - 1))
    for frame in frames[:arrived]:
        assert assembly.add(frame) is None
    message, offset = assembly.broken()
    assert parsed(resume(Position(message, offset)))[:3] == (FrameKind.RESUME, message, offset)
    assert (message, offset) == (1, min(len(body), before * max(0, arrived - 1)))
    rest = list(split(message, head_of(body), buffers, after, start=offset))
    assert b"".join(frame[OVERHEAD:] for frame in rest[1:]) == body[offset:]
    *early, last = [assembly.add(frame) for frame in rest]
    assert not any(early)
    assert last is not None
    assert last.data == body


def test_a_frame_is_as_it_is_described() -> None:
    """1, 8 and 8 bytes, little-endian, then what it carries."""
    first, second, third = split(258, b"5", [memoryview(b"abc"), memoryview(b"de")], 4)
    assert first == bytes([1]) + struct.pack("<QQ", 258, 0) + b"5"
    assert second == bytes([2]) + struct.pack("<QQ", 258, 0) + b"abcd"
    assert third == bytes([2]) + struct.pack("<QQ", 258, 4) + b"e"
    assert OVERHEAD == 17
    frame = parsed(third)
    assert frame == Frame(FrameKind.BODY, 258, 4, frame.data)
    assert frame.data.tobytes() == b"e"


def test_frames_are_made_when_they_are_asked_for() -> None:
    """A large message never lies there twice."""
    body = bytearray(b"x" * 10)
    frames = split(1, b"10", [memoryview(body)], 5)
    next(frames)
    body[:] = b"y" * 10
    assert next(frames)[OVERHEAD:] == b"yyyyy"


def header(message: int, text: bytes = b"4") -> bytes:
    """A header frame."""
    return next(split(message, text, [], 9))


def part(message: int, offset: int, data: bytes) -> bytes:
    """A body frame."""
    return struct.pack("<BQQ", 2, message, offset) + data


WRONG: list[tuple[str, list[bytes], str]] = [
    ("empty", [b""], "a frame of 0 bytes"),
    ("short", [header(1)[:16]], "a frame of 16 bytes; the shortest has 17"),
    ("kind", [b"\x00" + header(1)[1:]], "of kind 0"),
    ("another kind", [b"\x09" + header(1)[1:]], "of kind 9"),
    ("gap between messages", [header(2)], "message 2 where message 1 is due"),
    ("message 0", [header(0)], "message 0 where message 1 is due"),
    ("repeated message", [header(1, b"0"), header(1, b"0")], "message 1 where message 2 is due"),
    ("next before the end", [header(1), header(2)], "message 2 where message 1 is due"),
    ("second header", [header(1), header(1)], "a second header of message 1"),
    ("header in the middle", [struct.pack("<BQQ", 1, 1, 5) + b"4"], "a header at offset 5"),
    ("no header", [part(1, 0, b"ab")], "before its header"),
    ("gap", [header(1), part(1, 1, b"ab")], "from 1 on where those from 0 on are due"),
    ("overlap", [header(1), part(1, 0, b"ab"), part(1, 1, b"bc")], "from 1 on where those from 2 on are due"),
    ("repeat", [header(1), part(1, 0, b"ab"), part(1, 0, b"ab")], "from 0 on where those from 2 on are due"),
    ("too much", [header(1), part(1, 0, b"abcde")], "5 more bytes of message 1; 4 are due"),
    ("too much later", [header(1), part(1, 0, b"abc"), part(1, 3, b"de")], "2 more bytes of message 1; 1 are due"),
    ("nothing", [header(1), part(1, 0, b"")], "0 more bytes"),
    ("resumed", [resume(Position(1, 0))], "resumed in its middle"),
    ("behind the end", [header(1), part(1, 0, b"abcd"), part(1, 4, b"e")], "message 1 where message 2 is due"),
]


@pytest.mark.parametrize(("frames", "text"), [pytest.param(*rest, id=name) for name, *rest in WRONG])
def test_what_is_not_due_is_refused(frames: list[bytes], text: str) -> None:
    """Overlaps, gaps, repeats and too much, and nothing before them."""
    assembly = Assembly(Parcel)
    for frame in frames[:-1]:
        assembly.add(frame)
    with pytest.raises(WireError, match=text):
        assembly.add(frames[-1])


def test_after_a_break_the_header_comes_first_and_is_the_same() -> None:
    """It is not looked at a second time, so what it describes is not counted twice."""
    seen: list[bytes] = []

    def begin(head: bytes) -> Parcel:
        seen.append(head)
        return Parcel(head)

    def interrupted() -> Assembly[Parcel]:
        assembly = Assembly(begin)
        assembly.add(header(1))
        assembly.add(part(1, 0, b"ab"))
        assert assembly.broken() == Position(1, 2)
        return assembly

    with pytest.raises(WireError, match="before its header"):
        interrupted().add(part(1, 2, b"cd"))
    with pytest.raises(WireError, match="a second header"):
        interrupted().add(header(1, b"5"))
    assembly = interrupted()
    seen.clear()
    assert assembly.add(header(1)) is None
    done = assembly.add(part(1, 2, b"cd"))
    assert done is not None
    assert bytes(done.data) == b"abcd"
    assert not seen


def test_a_break_between_messages_changes_nothing() -> None:
    """The next message is due, and its header is looked at."""
    assembly = Assembly(Parcel)
    assert assembly.broken() == Position(1, 0)
    assert assembly.add(header(1, b"0")) is not None
    assert assembly.broken() == Position(2, 0)
    assert assembly.add(header(2, b"0")) is not None


def test_what_begin_refuses_is_refused() -> None:
    """There is no room, and none is asked for."""

    def refuse(_: bytes) -> Parcel:
        raise WireError("too large")

    refusing: Callable[[bytes], Parcel] = refuse
    assembly = Assembly(refusing)
    with pytest.raises(WireError, match="too large"):
        assembly.add(header(1))
