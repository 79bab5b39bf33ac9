"""The sparse encoding: lengths are exact, the shortest form is taken, and values and masks come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.payload.meta import ITEM_BYTES
from fedsim.payload.sparse import decode, encode, form, nbytes, pack, unpack

REAL = ("float16", "bfloat16", "float32", "float64")


def as_numpy(dtype: str) -> np.dtype[Any]:
    """The type that holds a tensor's values in NumPy."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


@st.composite
def sparse(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.bool_]], str]:
    """Any bits whatever, NaN and minus zero included, with masks of every density."""
    dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 0.98, 1.0]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.asarray(generator.random(shape) < density)
    if dtype == "bool":
        values = np.asarray(generator.random(shape) < 0.5)
    else:
        kind = as_numpy(dtype)
        raw = generator.integers(0, 256, (*shape, kind.itemsize), dtype=np.uint8)
        raw[generator.random(shape) < 0.2] = 0
        values = raw.view(kind).reshape(shape)
    return np.where(mask, values, np.zeros((), values.dtype)).astype(values.dtype), mask, dtype


@pytest.mark.slow
@settings(max_examples=300)
@given(sparse())
def test_values_and_masks_come_back(drawn: tuple[Any, Any, str]) -> None:
    """Of every type, bit for bit, in exactly the announced bytes; a kept minus zero may come back as zero."""
    values, mask, dtype = drawn
    item, kept = ITEM_BYTES[dtype], int(mask.sum())
    top = np.dtype(f"<u{item}").type(1 << (8 * item - 1))
    words = values.view(f"<u{item}") if values.ndim else values.reshape(1).view(f"<u{item}").reshape(())
    try:
        data = encode(values, mask)
    except ValueError:
        assert dtype in {"int64", "int32", "uint8"}
        assert form(values.size, kept, item) == "dense"
        assert np.any(words[mask] == top)
        return
    assert len(data) == nbytes(values.size, kept, item)
    back, flags = decode(data, values.shape, dtype, kept)
    assert back.shape == values.shape
    assert back.dtype == values.dtype
    assert np.array_equal(flags, mask)
    got = back.reshape(-1).view(f"<u{item}")
    wanted = words.reshape(-1).copy()
    if dtype in REAL and form(values.size, kept, item) == "dense" and kept < values.size:
        wanted[wanted == top] = 0
    assert np.array_equal(got, wanted)


@given(st.integers(0, 5_000), st.data(), st.sampled_from([1, 2, 4, 8]))
def test_no_form_is_shorter(elements: int, data: st.DataObject, item: int) -> None:
    """What is taken is the least of the three lengths, each by its own formula."""
    kept = data.draw(st.integers(0, elements))
    lengths = {
        "dense": elements * item,
        "bitmask": (elements + 7) // 8 + kept * item,
        "indices": 4 * kept + kept * item,
    }
    assert nbytes(elements, kept, item) == min(lengths.values()) == lengths[form(elements, kept, item)]


def test_where_the_forms_begin() -> None:
    """In float32 the bitmask pays from 1/32 of zeros on, indices from 31/32; in 16 bits the bitmask from 1/16."""
    count = 32 * 3200
    assert form(count, count - 3200, 4) == "dense"
    assert form(count, count - 3201, 4) == "bitmask"
    assert form(count, 3200, 4) == "bitmask"
    assert form(count, 3199, 4) == "indices"
    assert form(count, count - 6400, 2) == "dense"
    assert form(count, count - 6401, 2) == "bitmask"


def test_bits_go_row_by_row_the_least_significant_first() -> None:
    """A mask of ten values by hand: 0 and 9 kept of two rows of five."""
    mask = np.zeros((2, 5), np.bool_)
    mask[0, 0] = mask[1, 4] = True
    values = np.where(mask, np.float64(2.0), 0.0)
    assert form(10, 2, 8) == "bitmask"
    assert encode(values, mask) == bytes([0b00000001, 0b00000010]) + np.array([2.0, 2.0], "<f8").tobytes()


def test_ninety_per_cent_of_zeros() -> None:
    """10 % of dense without the mask, 13 % with it, as section 4.4 computes for float32."""
    assert nbytes(1_000_000, 100_000, 4) / 4_000_000 == pytest.approx(0.13125)
    mask = np.arange(1000) % 10 == 0
    assert len(pack(np.ones(1000, np.float32) * mask, mask)) / 4000 == 0.1


@given(sparse())
def test_values_alone_for_who_has_the_mask(drawn: tuple[Any, Any, str]) -> None:
    """Exactly the kept ones, of every type."""
    values, mask, dtype = drawn
    data = pack(values, mask)
    assert len(data) == int(mask.sum()) * ITEM_BYTES[dtype]
    assert unpack(data, mask, dtype).tobytes() == values.tobytes()


def test_a_value_outside_the_mask_is_refused() -> None:
    """Minus zero, as a product with a mask leaves it, is none."""
    mask = np.array([True, False, True])
    with pytest.raises(ValueError, match="leaves out a value that is not zero"):
        encode(np.array([1.0, 0.5, 1.0], np.float32), mask)
    data = encode(np.array([1.0, -0.0, 1.0], np.float32), mask)
    assert not np.signbit(decode(data, (3,), "float32", 2)[0]).any()


def test_data_that_are_not_a_tensors_are_refused() -> None:
    """Cut short, with a wrong number of bits, with bits behind the end, with places that go down or too far."""
    mask = np.arange(20) % 3 == 0
    data = encode(np.where(mask, np.float32(1), 0).astype(np.float32), mask)
    assert form(20, 7, 4) == "bitmask"
    with pytest.raises(ValueError, match="30 bytes, but 31 are needed"):
        decode(data[:-1], (20,), "float32", 7)
    with pytest.raises(ValueError, match="8 kept values of 7"):
        decode(data, (7,), "float32", 8)
    with pytest.raises(ValueError, match="bits behind its end"):
        decode(data[:2] + b"\xff" + data[3:], (20,), "float32", 7)
    with pytest.raises(ValueError, match="keeps 8 of 4 bytes"):
        decode(bytes([data[0] | 2]) + data[1:], (20,), "float32", 7)
    few = np.isin(np.arange(1000), (3, 900))
    data = encode(np.where(few, np.float32(1), 0).astype(np.float32), few)
    assert form(1000, 2, 4) == "indices"
    for places in ([900, 3], [3, 3], [3, 1000]):
        with pytest.raises(ValueError, match="do not ascend within the tensor"):
            decode(np.array(places, "<u4").tobytes() + data[8:], (1000,), "float32", 2)
    with pytest.raises(ValueError, match="6 bytes of values"):
        unpack(b"123456", np.ones(2, np.bool_), "float32")
