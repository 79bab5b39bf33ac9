"""Batches of a data set as tensors: scaled, in their layout, of the right part."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data import DataSet, Shards, from_arrays
from fedsim.learning.samples import TensorSamples

ROWS = torch.tensor([3, 1, 4])


def pixels(*shape: int) -> NDArray[np.uint8]:
    """Made-up pixels."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def samples(data: DataSet, **options: Any) -> TensorSamples:
    """The data set on one device."""
    return TensorSamples(data, Shards.of(np.zeros(len(data.train), np.int64), 1), **options)


def images(count: int = 20) -> DataSet:
    """Three channels, labels that name the sample."""
    x = pixels(count + 5, 3, 4, 6)
    x[:, 1] //= 4  # channels of different mean and width
    return from_arrays(x[:count], np.arange(count), x[count:], np.arange(5))


def test_pixels_are_scaled_by_channel() -> None:
    """(x - mean) / std of the training inputs, the held-out parts alike."""
    data = images()
    found = samples(data, dtype="float64")
    assert data.mean is not None
    assert data.std is not None
    mean, std = (moment.astype(np.float64)[:, None, None] for moment in (data.mean, data.std))
    x, y = found.train(ROWS)
    np.testing.assert_allclose(x.numpy(), (data.train.inputs[[3, 1, 4]] - mean) / std, rtol=1e-12)
    assert y.tolist() == found.labels(ROWS).tolist() == [3, 1, 4]
    x, y = found.held_out("test", 2, 4)
    np.testing.assert_allclose(x.numpy(), (data.test.inputs[2:4] - mean) / std, rtol=1e-12)
    assert y.tolist() == [2, 3]


def test_vectors_are_scaled_by_one_number() -> None:
    """Of all features together."""
    x = pixels(20, 7)
    data = from_arrays(x, np.arange(20), x[:5], np.arange(5))
    batch, _ = samples(data).train(ROWS)
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch.numpy(), (x[[3, 1, 4]] - x.mean()) / x.std(), rtol=1e-5, atol=1e-6)


def test_floats_and_tokens_are_taken_as_they_are() -> None:
    """Floats in the run's dtype; tokens stay whole numbers, whatever the dtype."""
    x = pixels(20, 7) / np.float32(255)
    batch, _ = samples(from_arrays(x, np.arange(20), x[:5], np.arange(5)), dtype="float64").train(ROWS)
    assert batch.dtype == torch.float64
    assert batch.tolist() == x[[3, 1, 4]].astype(np.float64).tolist()
    tokens = np.arange(40).reshape(10, 4)
    batch, y = samples(from_arrays(tokens, tokens, tokens, tokens), dtype="float64", channels_last=True).train(ROWS)
    assert batch.dtype == torch.int64
    assert batch.tolist() == y.tolist() == tokens[[3, 1, 4]].tolist()


def test_images_lie_in_memory_as_asked() -> None:
    """And what is no image has no channels to put last."""
    for last in (False, True):
        x, _ = samples(images(), channels_last=last).train(ROWS)
        assert x.is_contiguous(memory_format=torch.channels_last) is last
        assert x.is_contiguous() is not last
    vectors = pixels(20, 7)
    flat, _ = samples(from_arrays(vectors, np.arange(20), vectors[:5], np.arange(5)), channels_last=True).train(ROWS)
    assert flat.is_contiguous()


def test_validation_samples_are_training_samples() -> None:
    """Held out by their numbers; the test part may be a subset too."""
    found = samples(images(), validation=np.array([2, 17, 19]), test=np.array([1, 4]))
    assert [found.held_out_size(split) for split in ("validation", "test")] == [3, 2]
    x, y = found.held_out("validation", 0, 3)
    assert y.tolist() == [2, 17, 19]
    assert x.equal(found.train(torch.tensor([2, 17, 19]))[0])
    assert found.held_out("test", 0, 2)[1].tolist() == [1, 4]
