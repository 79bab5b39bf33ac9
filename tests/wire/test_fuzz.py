"""Whatever a peer sends, it is a message or a `WireError`: no other error, no hang, and no more memory than allowed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsim.payload.codecs import PLAIN, Codec, Half, Int8, TopK
from fedsim.payload.coding import Value
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import Layout
from fedsim.script import Message, Payload, Purpose
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.codec import Encoded, Incoming
from fedsim.wire.frames import Assembly, split
from fedsim.wire.refusals import WireError
from tests.wire.links import MEGABYTE, Link, Rich, Sample, flat, handle

CODECS: list[Codec] = [PLAIN, Half(), Int8(), TopK(fraction=0.3)]
WEIGHTS, FLAT = flat({"a": torch.ones(2, 3), "b": torch.tensor([True, False]), "c": torch.tensor(5)})


def link(*, checksum: bool = True) -> Link:
    """A receiver that knows some weights."""
    assert isinstance(WEIGHTS.meta, TensorMeta)
    return Link({WEIGHTS.meta: Layout(WEIGHTS.meta.shapes)}, checksum=checksum)


def rich(codec: Codec = PLAIN) -> tuple[Message, dict[Payload, Value]]:
    """A message with something of everything."""
    x, y = torch.linspace(-1, 1, 12).reshape(3, 4), torch.tensor([1, 0, 2])
    one, labels = handle(x, codec=codec), handle(y, Purpose.LABELS)
    message = Rich(
        -7, 300, 0.25, "word", True, one, labels, (WEIGHTS, one), [labels], {4: one}, {"a": (1, 2, 3)}, ((1, 0.5),),
        ("x", False, WEIGHTS), sender=0,
    )  # fmt: skip
    return message, {one: x, labels: y, WEIGHTS: FLAT}


def encoded(codec: Codec = PLAIN, *, checksum: bool = True) -> Encoded:
    """A first message, with all its descriptions."""
    message, values = rich(codec)
    return link(checksum=checksum).encode(message, values)


def received(header: bytes, body: bytes, *, checksum: bool = True) -> bool:
    """Whether a receiver takes a message in, rather than refusing it."""
    decoder = link(checksum=checksum).decoder
    try:
        incoming = decoder.begin(header)
        assert incoming.nbytes <= MEGABYTE
        if incoming.nbytes != len(body):
            return False
        incoming.buffer[:] = body
        message, values = decoder.finish(incoming)
    except WireError:
        return False
    assert set(values) == set(incoming.payloads)
    assert message.sender == 0
    return True


def flipped(data: bytes, bits: Iterable[int]) -> Iterator[bytes]:
    """The same bytes with one bit changed, of those given."""
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_no_truncated_header_is_taken() -> None:
    """At any length; a message is not something shorter by chance."""
    sent = encoded()
    whole, body = sent.header + sent.definitions, b"".join(sent.body)
    assert received(whole, body)
    assert not any(received(whole[:length], body) for length in range(len(whole)))


@pytest.mark.slow
def test_flipped_bits_in_a_header_are_a_message_or_refused() -> None:
    """Each of them. Few are another message: numbers, texts and names carry no checksum, but the body's size does."""
    sent = encoded()
    whole, body = sent.header + sent.definitions, b"".join(sent.body)
    taken = [received(changed, body) for changed in flipped(whole, range(8 * len(whole)))]
    assert 0 < sum(taken) < len(taken) // 2


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_no_flipped_bit_in_a_body_is_taken(codec: Codec) -> None:
    """Any single one is found by the checksum."""
    sent = encoded(codec)
    whole, body = sent.header + sent.definitions, b"".join(sent.body)
    assert not any(received(whole, changed) for changed in flipped(body, range(0, 8 * len(body), 7)))


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_without_a_checksum_a_body_may_be_anything(codec: Codec) -> None:
    """Values are then others, or refused where there can be no such values."""
    sent = encoded(codec, checksum=False)
    whole, body = sent.header + sent.definitions, b"".join(sent.body)
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        noise: Tensor = torch.randint(0, 256, (len(body),), generator=generator, dtype=torch.uint8)
        received(whole, bytes(noise.tolist()), checksum=False)
    for fill in (0, 1, 127, 128, 255):
        received(whole, bytes([fill]) * len(body), checksum=False)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_noise_is_no_header(data: bytes) -> None:
    """It may be one by chance, but not one of a message with payloads."""
    decoder = link(checksum=False).decoder
    try:
        incoming = decoder.begin(data)
    except WireError:
        return
    assert not incoming.payloads


integers = st.integers(0, 8) | st.integers(0, 2**64 - 1)
signed = st.integers(-3, 9) | st.integers(-(2**63), 2**63 - 1)
told_tensors = st.builds(
    pb.Structure.Tensor,
    name=st.text(max_size=3),
    dtype=st.integers(0, 9),
    shape=st.lists(integers, max_size=5),
)
told_structures = st.builds(
    pb.Structure,
    number=st.integers(0, 5) | st.integers(0, 2**32 - 1),
    purpose=st.integers(0, 6),
    coding=st.integers(0, 4),
    fraction=st.sampled_from([0.0, 0.5, 1e-9]) | st.floats(),
    feedback=st.booleans(),
    batched=st.booleans(),
    tensors=st.lists(told_tensors, max_size=3),
)
told_headers = st.builds(
    pb.Header,
    kind=st.integers(0, 4),
    sender=st.sampled_from([0, 0, 0, 1, -1]),
    number=integers,
    body=st.sampled_from([0, 8, 16, 24]) | integers,
    payloads=st.lists(integers, max_size=12),
    integers=st.lists(signed, max_size=12),
    reals=st.lists(st.floats(), max_size=3),
    texts=st.lists(st.text(max_size=3), max_size=3),
    definitions=st.lists(told_structures, max_size=4),
    checksum=st.none() | st.integers(0, 2**32 - 1),
)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(told_headers, min_size=1, max_size=3))
def test_headers_that_lie_are_refused(headers: list[Any]) -> None:
    """Well-formed ones with any numbers in them: nothing but `WireError`, and never a body above the bounds."""
    decoder = link(checksum=False).decoder
    for header in headers:
        try:
            incoming = decoder.begin(header.SerializeToString())
            assert incoming.nbytes == sum(payload.nbytes for payload in incoming.payloads) <= MEGABYTE
            if incoming.nbytes < 1000:
                decoder.finish(incoming)
        except WireError:
            continue


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_frames_that_are_changed_are_a_message_or_refused(data: st.DataObject) -> None:
    """Dropped, repeated, cut off, exchanged or with bits flipped, in any number."""
    message, values = rich(data.draw(st.sampled_from(CODECS)))
    sender, receiver = link(), link()
    frames: list[bytes] = []
    for number in (1, 2, 3):
        sent = sender.encode(message, values)
        frames += split(number, sent.header + sent.definitions, sent.body, 40)
    for _ in range(data.draw(st.integers(0, 4))):
        at, other = (data.draw(st.integers(0, len(frames) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["drop", "repeat", "cut", "swap", "flip", "noise"])):
            case "drop" if len(frames) > 1:
                del frames[at]
            case "repeat":
                frames.insert(other, frames[at])
            case "cut":
                frames[at] = frames[at][: data.draw(st.integers(0, len(frames[at])))]
            case "swap":
                frames[at], frames[other] = frames[other], frames[at]
            case "flip" if frames[at]:
                (frames[at],) = flipped(frames[at], [data.draw(st.integers(0, 8 * len(frames[at]) - 1))])
            case _:
                frames[at] = data.draw(st.binary(max_size=60))
    assembly: Assembly[Incoming] = Assembly(receiver.decoder.begin)
    try:
        for frame in frames:
            done = assembly.add(frame)
            if done is not None:
                receiver.decoder.finish(done)
    except WireError:
        return


def structure(count: int, *shape: int, purpose: Any = 2) -> pb.Structure:
    """So many tensors."""
    dtype: Any = 1
    return pb.Structure(purpose=purpose, tensors=[pb.Structure.Tensor(dtype=dtype, shape=shape)] * count)


def header(**values: Any) -> bytes:
    """A header with whatever is in it."""
    told: bytes = pb.Header(**values).SerializeToString()
    return told


HUGE = {
    "payloads": header(kind=2, payloads=[0] * (MEGABYTE - 20)),
    "numbers": header(kind=1, integers=[2**62] * 100_000),
    "texts": header(kind=3, texts=["x"] * 300_000),
    "tensors": header(kind=1, definitions=[structure(200_000, purpose=1)]),
    "structures": header(kind=1, definitions=[structure(1)] * 100_000),
    "dimensions": header(kind=1, definitions=[structure(1, *[2**63] * 100_000)]),
    "body": header(kind=1, body=2**64 - 1),
    "too long": bytes(2 * MEGABYTE),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", HUGE)
def test_what_is_refused_took_little_memory(what: str) -> None:
    """A header that fills its bound, with whatever takes most of it, makes at most some fifty times of it."""
    decoder = link(checksum=False).decoder
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decoder.begin(HUGE[what])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50 * MEGABYTE


def test_announcements_take_no_memory() -> None:
    """A body has memory from the moment on at which somebody looks for it."""
    x = torch.zeros(MEGABYTE // 8)
    one = handle(x.reshape(1, -1))
    sent = Link().encode(Sample(one, one, 1, sender=0), {one: x.reshape(1, -1)})
    assert sent.nbytes == MEGABYTE
    decoders = [Link().decoder for _ in range(20)]
    tracemalloc.start()
    try:
        waiting = [decoder.begin(sent.header + sent.definitions) for decoder in decoders]
        before = tracemalloc.get_traced_memory()[0]
        assert len(waiting[0].buffer) == MEGABYTE
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert before < MEGABYTE // 4
    assert after - before >= MEGABYTE
