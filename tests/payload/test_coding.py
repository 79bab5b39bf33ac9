"""Codecs on values: bounds of their errors, the bytes in between, and who sees what."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from fedsim.payload.codecs import PLAIN, Codec, Half, Int8, TopK
from fedsim.payload.coding import Arrivals, decode, encode, through
from fedsim.payload.meta import ITEM_BYTES, Shape, TensorMeta
from fedsim.payload.tensors import FlatTensors, Layout
from fedsim.script import SERVER, Payload, Purpose

CODECS = [PLAIN, Half(), Int8(), TopK(fraction=0.1), TopK(fraction=0.5)]


def numbers(limit: float) -> st.SearchStrategy[Tensor]:
    """Tensors of up to four dimensions, float32 or float64, many of whose entries are equal."""

    def made(dtype: Any) -> st.SearchStrategy[np.ndarray[Any, Any]]:
        width = 8 * np.dtype(dtype).itemsize
        values = st.floats(-limit, limit, width=width) | st.sampled_from([0.0, 1.0, -1.0])
        shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
        return arrays.arrays(dtype, shapes, elements=values)

    return st.sampled_from([np.float32, np.float64]).flatmap(made).map(torch.tensor)


def shape_of(x: Tensor) -> Shape:
    """A tensor's shape."""
    return Shape("x", tuple(x.shape), str(x.dtype).removeprefix("torch."))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(numbers(2.0**100), st.sampled_from(CODECS), st.booleans())
def test_what_arrives_is_what_the_bytes_say(x: Tensor, codec: Codec, last: bool) -> None:
    """As many bytes as announced, in any layout in memory; decoded, they are what `through` gives at once."""
    if last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    data = encode(codec, x)
    assert len(data) == shape_of(x).coded_bytes(codec)
    arrived = through(codec, x)
    assert decode(codec, shape_of(x), data).equal(arrived)
    assert (arrived.dtype, arrived.shape) == (x.dtype, x.shape)
    assert encode(codec, x.contiguous()) == data


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(numbers(2.0**100))
def test_int8_is_half_a_step_off_at_most(x: Tensor) -> None:
    """Between the least and the greatest value of the tensor, whatever their signs; rounding aside."""
    arrived = through(Int8(), x)
    if not x.numel():
        return
    step = float(x.max() / 255 - x.min() / 255)
    rounding = 4 * torch.finfo(x.dtype).eps * float(x.abs().max()) + 256 * torch.finfo(x.dtype).tiny
    assert float((arrived - x).abs().max()) <= step / 2 + rounding
    assert float(arrived.min()) == float(x.min())
    assert float(arrived.max()) == pytest.approx(float(x.max()), rel=0, abs=rounding)


@settings(max_examples=50, deadline=None)
@given(numbers(60_000.0))
def test_half_precision_keeps_eleven_bits(x: Tensor) -> None:
    """A relative error of at most 2^-11, or half of its smallest number."""
    assert bool(((through(Half(), x) - x).abs() <= x.abs() * 2.0**-11 + 2.0**-25).all())


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(numbers(2.0**100), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_topk_keeps_the_largest(x: Tensor, fraction: float) -> None:
    """Exactly as many as said, unchanged; of equal ones the first; all others are zero."""
    flat = x.reshape(-1)
    order = torch.sort(flat.abs(), descending=True, stable=True).indices[: TopK(fraction=fraction).kept(flat.numel())]
    expected = torch.zeros_like(flat)
    expected[order] = flat[order]
    assert through(TopK(fraction=fraction), x).equal(expected.reshape(x.shape))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (2, 1, 4, 4), (2, 3, 1, 1), (1, 1, 1, 1), (4, 3), (5,), ()])
def test_bits_do_not_depend_on_the_layout_and_strides_stay(codec: Codec, last: bool, shape: tuple[int, ...]) -> None:
    """Equal entries, of which there are many here, go by their position in the tensor, not in memory."""
    x = torch.relu(torch.randn(shape, generator=torch.Generator().manual_seed(0)).round())
    given = Layout((), channels_last=last).arranged(x)
    assert through(codec, given).equal(through(codec, x))
    assert through(codec, given).stride() == given.stride()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [0.0, -3.7, 1e-3, 123.456])
def test_a_constant_survives(codec: Codec, value: float) -> None:
    """Exactly, but for what half precision cannot hold and top-k does not send."""
    x = torch.full((4, 5), value)
    arrived = through(codec, x)
    if isinstance(codec, TopK):
        assert int((arrived == x).sum()) >= codec.kept(20)
    else:
        assert arrived.equal(x.half().float() if isinstance(codec, Half) else x)


def test_int8_of_both_signs() -> None:
    """The scale is that of the whole range; one that came from the greatest value alone would cut off the negatives."""
    x = torch.tensor([-10.0, -5.0, 0.0, 1.0])
    assert float((through(Int8(), x) - x).abs().max()) <= 11 / 255 / 2 + 1e-6


@pytest.mark.parametrize("codec", [PLAIN, Half(), Int8()])
def test_what_was_not_negative_stays_so(codec: Codec) -> None:
    """A running variance, however small beside others of its tensor, and the zeros behind a ReLU exactly."""
    variance = torch.tensor([1e-12, 1e-7, 3e-2, 4.0e3])
    assert bool((through(codec, variance) >= 0).all())
    x = torch.relu(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    assert bool((through(codec, x)[x == 0] == 0).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_not_finite_is_not_hidden(codec: Codec, bad: float) -> None:
    """Whoever has diverged is seen to have, on either way."""
    x = torch.tensor([1.0, 2.0, bad, -4.0])
    for arrived in (through(codec, x), decode(codec, shape_of(x), encode(codec, x))):
        assert not bool(arrived.isfinite().all())


def test_half_precision_overflows() -> None:
    """As it does where it is real."""
    assert through(Half(), torch.tensor([70_000.0, -1e-9])).tolist() == [float("inf"), 0.0]


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("codec", CODECS)
def test_whole_numbers_travel_as_they_are(codec: Codec, dtype: str) -> None:
    """Batch counters of batch normalisation, and labels."""
    shape = Shape("n", (3,), dtype)
    x = torch.tensor([0, 1, 1]).to(getattr(torch, dtype))
    data = encode(shape.coded(codec), x)
    assert len(data) == 3 * ITEM_BYTES[dtype]
    assert decode(shape.coded(codec), shape, data).equal(x)


# ---------------------------------------------------------------------------------------------- payloads


def payload(codec: Codec, x: Tensor, purpose: Purpose = Purpose.ACTIVATIONS, node: int = 0) -> Payload:
    """A handle on one tensor."""
    return Payload(node, 1, TensorMeta(purpose, (shape_of(x),), codec))


def some(seed: int = 0) -> Tensor:
    """Random values."""
    return torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(seed))


def test_its_own_node_sees_a_payload_as_it_is() -> None:
    """And the others what has come; every one the same."""
    arrivals, x = Arrivals(), some()
    z = payload(Int8(), x, node=3)
    assert arrivals.seen(z, x, 3) is x
    arrived = arrivals.seen(z, x, SERVER)
    assert isinstance(arrived, Tensor)
    assert arrived.equal(through(Int8(), x))
    assert not arrived.equal(x)
    assert arrivals.seen(z, x, 4) is arrived


def test_without_a_codec_nothing_is_copied() -> None:
    """The receiver's tensor is the sender's."""
    x = some()
    assert Arrivals().seen(payload(PLAIN, x), x, SERVER) is x


def test_weights_are_coded_tensor_by_tensor() -> None:
    """A large one does not spoil a small one's scale; whole numbers stay; what the sender has, too."""
    shapes = (Shape("big", (3, 2, 2, 2)), Shape("small", (7,)), Shape("count", (), "int64"))
    flat = Layout(shapes, channels_last=True).zeros()
    big, small, count = flat.views()
    big.copy_(1000 * some()[:3, :2, :, :2])
    small.copy_(some().reshape(-1)[:7])
    count.fill_(12)
    before = flat.clone()
    arrived = Arrivals().seen(Payload(0, 1, TensorMeta(Purpose.WEIGHTS, shapes, Int8())), flat, SERVER)
    assert isinstance(arrived, FlatTensors)
    assert arrived.layout is flat.layout
    for mine, theirs in zip(arrived.views(), (through(Int8(), big), through(Int8(), small), count), strict=True):
        assert mine.equal(theirs)
    assert all(one.equal(other) for one, other in zip(flat.buffers, before.buffers, strict=True))


def test_nothing_is_kept_of_a_payload_that_is_gone() -> None:
    """What has arrived lives as long as its handle."""
    arrivals, x = Arrivals(), some()
    z = payload(Half(), x)
    arrivals.seen(z, x, SERVER)
    assert len(arrivals._arrived) == 1
    del z
    gc.collect()
    assert len(arrivals._arrived) == 0


def test_feedback_adds_what_was_not_sent() -> None:
    """Sent and owed together are all that was ever given, for each sender and receiver by itself."""
    arrivals, codec = Arrivals(), TopK(fraction=0.2, feedback=True)
    given = [some(seed).double() for seed in range(6)]
    total = torch.zeros_like(given[0])
    owed = torch.zeros_like(total)
    for x in given:
        arrived = arrivals.seen(payload(codec, x, Purpose.GRADIENTS, SERVER), x, 2)
        assert isinstance(arrived, Tensor)
        assert arrived.equal(through(codec, x + owed))
        owed = x + owed - arrived
        total += arrived
        other = arrivals.seen(payload(codec, x, Purpose.GRADIENTS, SERVER), x, 5)
        if x is given[0]:
            assert isinstance(other, Tensor)
            assert other.equal(arrived)
    assert float((total + owed - sum(given)).abs().max()) < 1e-12


def test_feedback_waits_for_the_same_shape_and_ends_with_a_node() -> None:
    """A last batch of fewer samples neither takes nor gives; who has left owes nothing."""
    arrivals, codec = Arrivals(), TopK(fraction=0.2, feedback=True)
    x = some()
    first = arrivals.seen(payload(codec, x), x, SERVER)
    rest = x[:2].contiguous()
    smaller = arrivals.seen(payload(codec, rest), rest, SERVER)
    assert isinstance(smaller, Tensor)
    assert smaller.equal(through(codec, rest))
    second = arrivals.seen(payload(codec, x), x, SERVER)
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    assert second.equal(through(codec, 2 * x - first))
    arrivals.forget(0)
    again = arrivals.seen(payload(codec, x), x, SERVER)
    assert isinstance(again, Tensor)
    assert again.equal(first)


def test_without_feedback_nothing_is_owed() -> None:
    """The same tensor arrives the same way twice."""
    arrivals, x = Arrivals(), some()
    one, two = (arrivals.seen(payload(TopK(), x), x, SERVER) for _ in range(2))
    assert isinstance(one, Tensor)
    assert isinstance(two, Tensor)
    assert one.equal(two)
