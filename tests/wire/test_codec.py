"""Messages with values as bytes and back: the bits that a simulation's receiver sees, in the bytes that it charges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsim.errors import ScriptError
from fedsim.payload.codecs import PLAIN, Codec, Half, Int8, TopK
from fedsim.payload.coding import Arrivals, Value
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import FlatTensors, Layout
from fedsim.script import SERVER, Message, Payload, Purpose, payloads
from fedsim.wire import tensors
from fedsim.wire.codec import Cargo, Encoder, load
from fedsim.wire.refusals import WireError
from tests.wire.links import BOUNDS, MEGABYTE, REGISTRY, Link, Plain, Rich, Sample, bits, flat, handle, same

CODECS: list[Codec] = [PLAIN, Half(), Int8(), TopK(fraction=0.3), TopK(fraction=1.0)]
REAL = ["float32", "float64", "float16", "bfloat16"]
WHOLE = ["int64", "int32", "uint8", "bool"]
NONE: dict[Payload, Value] = {}


def random(*shape: int, dtype: str = "float32", seed: int = 0) -> Tensor:
    """Numbers, some of them equal."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    return x.round(decimals=1).to(getattr(torch, dtype))


def alone(
    x: Tensor, codec: Codec = PLAIN, purpose: Purpose = Purpose.ACTIVATIONS
) -> tuple[Sample, dict[Payload, Value]]:
    """A message with a tensor and its labels."""
    y = torch.arange(3)
    one, labels = handle(x, purpose, codec), handle(y, Purpose.LABELS)
    return Sample(one, labels, 7, sender=0), {one: x, labels: y}


def seen(payload: Payload, value: Value, *, channels_last: bool = False) -> Value:
    """What a receiver sees in a simulation, laid out as it is on every host."""
    arrived = Arrivals().seen(payload, value, SERVER)
    return arrived if isinstance(arrived, FlatTensors) else Layout((), channels_last=channels_last).arranged(arrived)


SHAPES: list[tuple[str, Callable[[str], Tensor]]] = [
    ("a matrix", lambda dtype: random(4, 6, dtype=dtype)),
    ("images", lambda dtype: random(3, 4, 5, 2, dtype=dtype)),
    (
        "images, channels last",
        lambda dtype: random(3, 4, 5, 2, dtype=dtype).contiguous(memory_format=torch.channels_last),
    ),
    ("one image of one channel", lambda dtype: random(1, 1, 4, 4, dtype=dtype)),
    ("every other row", lambda dtype: random(8, 5, dtype=dtype)[::2]),
    ("turned", lambda dtype: random(4, 6, dtype=dtype).t()),
    ("spread", lambda dtype: random(1, 6, dtype=dtype).expand(4, 6)),
    ("a part of something larger", lambda dtype: random(50, dtype=dtype)[7:19].reshape(3, 4)),
    ("a number", lambda dtype: random(dtype=dtype)),
    ("nothing", lambda dtype: random(0, dtype=dtype)),
    ("no rows", lambda dtype: random(0, 4, dtype=dtype)),
    ("empty rows", lambda dtype: random(4, 0, dtype=dtype)),
    ("a constant", lambda dtype: torch.full((3, 3), 2.5).to(getattr(torch, dtype))),
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("dtype", REAL + WHOLE)
def test_a_receiver_sees_the_same_bits_as_in_a_simulation(dtype: str, codec: Codec, channels_last: bool) -> None:
    """For every dtype, codec and way to lie in memory, with the strides that every host gives to such a tensor."""
    link = Link(channels_last=channels_last)
    for name, make in SHAPES:
        x = make(dtype)
        message, values = alone(x, codec)
        encoded = link.encode(message, values)
        assert sum(map(len, encoded.body)) == encoded.nbytes == message.values.nbytes + message.labels.nbytes, name
        arrived, got = link.deliver(encoded)
        assert same(got[arrived.values], seen(message.values, x, channels_last=channels_last)), name
        assert same(got[arrived.labels], values[message.labels]), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -0.0])
@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("dtype", REAL)
def test_what_is_not_finite_arrives(dtype: str, codec: Codec, bad: float) -> None:
    """Bit by bit, but for which of the many NaNs it is behind a quantisation."""
    x = torch.tensor([[1.0, 2.0, bad], [-4.0, 0.0, 5.0]]).to(getattr(torch, dtype))
    message, values = alone(x, codec)
    arrived, got = Link().carry(message, values)
    found, expected = got[arrived.values], seen(message.values, x)
    assert isinstance(found, Tensor)
    assert isinstance(expected, Tensor)
    if isinstance(codec, Int8):
        assert found.isnan().equal(expected.isnan())
        found, expected = found.nan_to_num(), expected.nan_to_num()
    assert same(found, expected)


WEIGHTS = {
    "conv.weight": random(4, 3, 2, 2),
    "conv.bias": random(4, seed=1),
    "norm.count": torch.tensor(12345678901),
    "norm.mask": torch.tensor([True, False, True]),
    "half": random(3, 3, dtype="bfloat16"),
    "double": random(5, dtype="float64"),
    "nothing": random(0, 3),
    "levels": torch.tensor([1, 255], dtype=torch.uint8),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("codec", [PLAIN, Half(), Int8()], ids=str)
def test_weights_arrive_in_the_receiver_s_own_layout(codec: Codec, channels_last: bool) -> None:
    """Tensor by tensor; operations compare layouts by identity. Padding does not travel."""
    payload, value = flat(WEIGHTS, codec, channels_last=channels_last)
    assert isinstance(payload.meta, TensorMeta)
    mine = Layout(payload.meta.shapes, channels_last=channels_last)
    link = Link({payload.meta: mine})
    message = Sample(payload, payload, 1, sender=0)
    encoded = link.encode(message, {payload: value})
    assert encoded.nbytes == 2 * payload.nbytes == len(b"".join(encoded.body))
    arrived, got = link.deliver(encoded)
    first, second = got[arrived.values], got[arrived.labels]
    assert isinstance(first, FlatTensors)
    assert isinstance(second, FlatTensors)
    assert first.layout is second.layout is mine
    assert same(first, seen(payload, value))
    first.buffers[0].zero_()
    assert same(second, seen(payload, value))


def test_weights_of_another_layout_of_the_receiver() -> None:
    """What lies row by row here may lie with its channels innermost there."""
    payload, value = flat(WEIGHTS)
    assert isinstance(payload.meta, TensorMeta)
    other = Layout(payload.meta.shapes, channels_last=True)
    arrived, got = Link({payload.meta: other}).carry(Sample(payload, payload, 1, sender=0), {payload: value})
    found = got[arrived.values]
    assert isinstance(found, FlatTensors)
    assert all(found.named()[name].equal(tensor) for name, tensor in WEIGHTS.items())
    assert found.named()["conv.weight"].is_contiguous(memory_format=torch.channels_last)


def test_feedback_is_owed_across_hosts() -> None:
    """`due` on the sender's host and `put` on the receiver's give what one host sees, message after message."""
    codec = TopK(fraction=0.3, feedback=True)
    here, mine, theirs = Arrivals(), Arrivals(), Arrivals()
    link = Link()
    for step in range(5):
        x = random(4, 5, seed=step)
        message, values = alone(x, codec, Purpose.GRADIENTS)
        expected = here.seen(message.values, x, SERVER)
        due = {payload: mine.due(payload, value, SERVER) for payload, value in values.items()}
        arrived, got = link.carry(message, due)
        theirs.put(arrived.values, got[arrived.values])
        assert same(theirs.seen(arrived.values, got[arrived.values], SERVER), expected)


# ------------------------------------------------------------------------------------- handles and headers


def test_handles_are_fresh() -> None:
    """Of the sender, with numbers of the receiver and equal metas; a payload that is there twice arrives twice."""
    link = Link()
    x = random(2, 3)
    one = handle(x)
    asked: list[Payload] = []

    def value_of(payload: Payload) -> Value:
        asked.append(payload)
        return x

    arrived, got = link.deliver(link.encoder.encode(Sample(one, one, 5, sender=0), value_of, 1))
    assert asked == [one]
    assert [(p.node, p.number, p.meta) for p in payloads(arrived)] == [(0, 100, one.meta), (0, 101, one.meta)]
    assert set(got) == {arrived.values, arrived.labels}
    assert arrived == Sample(arrived.values, arrived.labels, 5, sender=0)


def test_every_kind_of_field_arrives_with_its_payloads_in_place() -> None:
    """In tuples, lists and mappings, and where there are none."""
    xs = [random(2, 3, seed=seed) for seed in range(7)]
    a, b, c, d, e, f, g = (handle(x) for x in xs)
    message = Rich(
        -5, None, 0.1, "wörd", True, a, None, (b, c), [d], {3: e, -1: f}, {"x": (1, 2), "": ()}, ((1, 2.5),),
        ("corner", False, g), sender=0,
    )  # fmt: skip
    arrived, got = Link().carry(message, dict(zip((a, b, c, d, e, f, g), xs, strict=True)))
    places = [arrived.one, *arrived.many, *arrived.several, *arrived.by_node.values(), arrived.corner[2]]
    assert [bits(got[p]) for p in places] == [bits(x) for x in xs]  # type: ignore[arg-type]
    back = replace(arrived, one=a, many=(b, c), several=[d], by_node={3: e, -1: f}, corner=("corner", False, g))
    assert back == message


def test_what_was_described_is_not_described_again() -> None:
    """The header of a later message is short, with another batch too, and says all that the first one's did."""
    link = Link()
    message, values = alone(random(8, 3))
    first = link.encode(message, values)
    link.deliver(first)
    message, values = alone(random(5, 3))
    second = link.encode(message, values)
    assert first.definitions
    assert not second.definitions
    assert len(second.header) <= 30
    arrived, _ = link.deliver(second)
    assert arrived.values.meta == message.values.meta


def test_numbers_of_the_run_are_kept() -> None:
    """The number that a message has in the trace is not that of the connection."""
    link = Link()
    for number in (0, 5, 2**63):
        encoded = link.encoder.encode(Plain(3, sender=0), NONE.__getitem__, number)
        assert link.decoder.begin(encoded.header).number == number


def test_one_cargo_for_many() -> None:
    """A broadcast is encoded once; each receiver gets the descriptions that it lacks."""
    links = [Link(), Link()]
    message, values = alone(random(4, 5), Int8())
    links[0].carry(message, values)
    asked: list[Payload] = []

    def value_of(payload: Payload) -> Value:
        asked.append(payload)
        return values[payload]

    cargo = load(REGISTRY, message, value_of)
    encoded = [link.encoder.address(cargo, 9) for link in links]
    assert asked == payloads(message)
    assert [bool(each.definitions) for each in encoded] == [False, True]
    assert encoded[0].body is encoded[1].body is cargo.body
    results = [link.deliver(each) for link, each in zip(links, encoded, strict=True)]
    assert len({bits(got[arrived.values]) for arrived, got in results}) == 1  # type: ignore[arg-type]


def test_without_a_checksum() -> None:
    """Nothing is computed, and a receiver that wants one does not go without."""
    message, values = alone(random(4, 5))
    cargo = load(REGISTRY, message, values.__getitem__, checksum=False)
    assert isinstance(cargo, Cargo)
    assert cargo.checksum is None
    arrived, got = Link(checksum=False).carry(message, values)
    assert same(got[arrived.values], values[message.values])
    header = Encoder(REGISTRY, checksum=False).address(cargo, 1)
    with pytest.raises(WireError, match="without a checksum"):
        Link().decoder.begin(header.header + header.definitions)


def test_a_checksum_that_comes_is_looked_at() -> None:
    """Even where none is asked for."""
    link = Link(checksum=False)
    message, values = alone(random(4, 5))
    encoded = Encoder(REGISTRY).encode(message, values.__getitem__, 1)
    incoming = link.decoder.begin(encoded.header + encoded.definitions)
    incoming.buffer[:] = bytes(encoded.nbytes)
    with pytest.raises(WireError, match="a body of 104 bytes with a wrong checksum"):
        link.decoder.finish(incoming)


def test_a_message_has_to_be_sent_by_somebody() -> None:
    """The runtime fills that in; and only declared classes travel."""
    with pytest.raises(AssertionError, match="Plain has no sender"):
        load(REGISTRY, Plain(1), NONE.__getitem__)

    class Other(Plain):
        __slots__ = ()

    with pytest.raises(ScriptError, match="Other is sent, but not among the messages"):
        load(REGISTRY, Other(1, sender=0), NONE.__getitem__)


@pytest.mark.parametrize(
    "value", [random(3, 4), random(2, 3, dtype="float64"), flat({"a": random(2, 3), "b": random(1)})[1]]
)
def test_a_value_is_what_was_announced(value: Value) -> None:
    """Otherwise it is our own mistake."""
    payload = handle(random(2, 3))
    with pytest.raises(AssertionError, match="announced"):
        load(REGISTRY, Sample(payload, payload, 1, sender=0), lambda _: value)


# ---------------------------------------------------------------------------------------- copies


def address(buffer: memoryview) -> int:
    """Where it begins in memory."""
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


@pytest.mark.parametrize("dtype", REAL + WHOLE)
def test_a_tensor_that_lies_as_it_travels_is_not_copied(dtype: str) -> None:
    """Its memory is what is sent, and what is received is its memory; it can be written to."""
    x = random(16, 8, dtype=dtype)
    message, values = alone(x)
    link = Link()
    encoded = link.encode(message, values)
    assert address(encoded.body[0]) == x.data_ptr()
    incoming = link.decoder.begin(encoded.header + encoded.definitions)
    assert incoming.buffer is incoming.buffer
    incoming.buffer[:] = b"".join(encoded.body)
    arrived, got = link.decoder.finish(incoming)
    assert isinstance(arrived, Sample)
    found = got[arrived.values]
    assert isinstance(found, Tensor)
    assert found.data_ptr() == address(incoming.buffer)
    found.zero_()
    assert bytes(incoming.buffer[: found.nbytes]) == bytes(found.nbytes)


def test_tensors_begin_where_pytorch_s_begin() -> None:
    """On boundaries of 64 bytes, whatever lies before them, since kernels, and bits, may depend on it."""
    link = Link()
    for size in range(1, 40, 3):
        message, values = alone(random(size, 3, dtype="float16"))
        arrived, got = link.carry(message, values)
        for payload in payloads(arrived):
            value = got[payload]
            assert isinstance(value, Tensor)
            assert value.data_ptr() % 64 == 0


def test_a_layout_of_many_tensors_is_sent_without_its_gaps() -> None:
    """As many bytes as the tensors have, in their order, from their own memory."""
    payload, value = flat(WEIGHTS)
    assert isinstance(value, FlatTensors)
    assert isinstance(payload.meta, TensorMeta)
    body = tensors.buffers(payload.meta, value)
    assert [bytes(each) for each in body] == [bits(tensor) for tensor in WEIGHTS.values()]
    assert [address(each) for each in body if len(each)] == [view.data_ptr() for view in value.views() if view.numel()]


def test_a_tensor_that_is_trained_can_be_sent() -> None:
    """Without its graph."""
    x = random(3, 3).requires_grad_()
    for codec in CODECS:
        message, values = alone(x, codec)
        arrived, got = Link().carry(message, values)
        found = got[arrived.values]
        assert isinstance(found, Tensor)
        assert not found.requires_grad


# ------------------------------------------------------------------------------------------ properties


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Codec]:
    """A tensor of any size and layout, and a codec."""
    shape = draw(st.lists(st.integers(0, 6), max_size=5))
    x = random(*shape, dtype=draw(st.sampled_from(REAL + WHOLE)), seed=draw(st.integers(0, 99)))
    if draw(st.booleans()):
        x = x.permute(tuple(draw(st.permutations(range(len(shape))))))
    codec: Codec = draw(st.sampled_from(CODECS))
    return x, codec


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(batches(), max_size=4), st.integers(1, 100), st.booleans())
def test_whatever_is_sent_arrives(sent: list[tuple[Tensor, Codec]], frame_size: int, channels_last: bool) -> None:
    """One message after the other, with as many payloads as one likes, cut anywhere."""
    link = Link(frame_size=frame_size, channels_last=channels_last)
    for some in (sent, sent[:1], sent[::-1]):
        handles = tuple(handle(x, codec=codec) for x, codec in some)
        first = handle(random(1, 1))
        values: dict[Payload, Value] = {first: random(1, 1)}
        values |= {payload: x for payload, (x, _) in zip(handles, some, strict=True)}
        message: Message = Rich(1, 2, 0.5, "w", True, first, None, handles, [], {}, {}, (), ("", True, None), sender=0)
        arrived, got = link.carry(message, values)
        assert len(arrived.many) == len(handles)
        for one, other in zip(handles, arrived.many, strict=True):
            assert other.meta == one.meta
            assert same(got[other], seen(one, values[one], channels_last=channels_last))


# -------------------------------------------------------------------------------------------- refusals


def test_a_body_is_refused_before_there_is_memory_for_it() -> None:
    """By its size on the wire, and by what it would be in memory."""
    x = torch.zeros(MEGABYTE // 4 + 1, 1)
    message, values = alone(x)
    encoded = Link().encode(message, values)
    with pytest.raises(
        WireError, match=f"a message of {encoded.nbytes} bytes; those of this run have at most {MEGABYTE}"
    ):
        Link().decoder.begin(encoded.header + encoded.definitions)
    message, values = alone(torch.zeros(1100, 1000), TopK(fraction=1e-6))
    encoded = Link().encode(message, values)
    assert encoded.nbytes < 100
    with pytest.raises(WireError, match="a payload of 8 bytes, 4400000 in memory"):
        Link().decoder.begin(encoded.header + encoded.definitions)


def test_many_payloads_are_too_many_together() -> None:
    """In number, and in memory."""
    x = torch.zeros(1000, 1000)
    one = handle(x, codec=TopK(fraction=1e-6))
    message = Rich(1, 2, 0.5, "w", True, one, None, (one,), [], {}, {}, (), ("", True, None), sender=0)
    encoded = Link().encode(message, {one: x})
    with pytest.raises(WireError, match="a message of 8000000 bytes in memory"):
        Link().decoder.begin(encoded.header + encoded.definitions)
    few = Link(bounds=replace(BOUNDS, payloads=2))
    small = handle(torch.zeros(2))
    message = Rich(1, 2, 0.5, "w", True, small, None, (small, small), [], {}, {}, (), ("", True, None), sender=0)
    encoded = few.encode(message, {small: torch.zeros(2)})
    with pytest.raises(WireError, match="a message of more than 2 payloads"):
        few.decoder.begin(encoded.header + encoded.definitions)


def test_a_peer_is_who_it_is() -> None:
    """It sends no message of somebody else."""
    encoded = Link().encode(Plain(1, sender=3), {})
    with pytest.raises(WireError, match="a message of node 3 on the connection of node 0"):
        Link().decoder.begin(encoded.header)


def test_only_what_is_admitted_comes() -> None:
    """A runtime knows which activations there are in its run."""
    link = Link()
    link.decoder._admits = lambda meta: meta.shapes[0].shape[1:] in ((), (3,))
    link.carry(*alone(random(4, 3)))
    with pytest.raises(WireError, match=r"a payload of activations \[\(4, 5\)\], which none has"):
        link.carry(*alone(random(4, 5)))


def test_headers_are_bounded() -> None:
    """Before they are looked into."""
    with pytest.raises(WireError, match=r"a header of 1048577 bytes; it has at most 1048576"):
        Link().decoder.begin(bytes((1 << 20) + 1))


def test_entries_outside_a_tensor_are_refused() -> None:
    """Those of top-k name their places themselves."""
    for position in (-1, 20, 2**31 - 1, -(2**31)):
        link = Link(checksum=False)
        encoded = link.encode(*alone(random(4, 5), TopK(fraction=0.1)))
        incoming = link.decoder.begin(encoded.header + encoded.definitions)
        incoming.buffer[:] = b"".join(encoded.body)
        incoming.buffer[8:12] = position.to_bytes(4, "little", signed=True)
        with pytest.raises(WireError, match="of a tensor of 20"):
            link.decoder.finish(incoming)


def test_truth_values_are_true_or_false() -> None:
    """Anything else in their place is undefined in PyTorch."""
    link = Link(checksum=False)
    encoded = link.encode(*alone(torch.tensor([[True, False, True]])))
    incoming = link.decoder.begin(encoded.header + encoded.definitions)
    incoming.buffer[:] = b"".join(encoded.body)
    incoming.buffer[1] = 2
    with pytest.raises(WireError, match="a truth value that is neither 0 nor 1"):
        link.decoder.finish(incoming)
