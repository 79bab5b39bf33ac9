"""Data sets from arrays: checked, read-only, shared."""

from typing import Any

import numpy as np
import pytest

from fedsim.data import from_arrays
from fedsim.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
Y = np.arange(20) % 5


def test_arrays_are_shared_and_read_only() -> None:
    """Inputs in our layout are not copied, cannot be written to through the data set, and stay the user's own."""
    data = from_arrays(X, Y, X[:5], Y[:5], name="mine")
    assert np.shares_memory(data.train.inputs, X)
    for split in (data.train, data.test):
        for array in (split.inputs, split.labels):
            assert array.flags.c_contiguous
            assert not array.flags.writeable
    assert X.flags.writeable
    assert (data.info.train, data.info.test, data.info.shape, data.info.classes) == (20, 5, (3, 4, 4), 5)
    assert len(data.train) == 20


def test_moments_are_those_of_the_training_inputs() -> None:
    """Mean and standard deviation per channel agree with NumPy's; a constant channel is divided by 1."""
    x = X.copy()
    x[:, 1] = 7
    data = from_arrays(x, Y, X[:5], Y[:5])
    assert data.mean is not None
    assert data.std is not None
    np.testing.assert_allclose(data.mean, x.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.std[[0, 2]], x.std(axis=(0, 2, 3))[[0, 2]], rtol=1e-6)
    assert data.std[1] == 1
    flat = from_arrays(X.reshape(20, -1), Y, X[:5].reshape(5, -1), Y[:5])
    assert flat.mean is not None
    np.testing.assert_allclose(flat.mean, [X.mean()], rtol=1e-6)


def test_floats_are_already_scaled() -> None:
    """Float inputs have no mean and become float32."""
    data = from_arrays(X / 255, Y, X[:5] / 255, Y[:5])
    assert data.mean is None
    assert data.std is None
    assert data.train.inputs.dtype == np.float32


def test_layouts_of_keras() -> None:
    """Channels last, no channel axis, and labels in a column are understood."""
    last = from_arrays(X.transpose(0, 2, 3, 1), Y[:, None], X[:5].transpose(0, 2, 3, 1), Y[:5, None])
    np.testing.assert_array_equal(last.train.inputs, X)
    np.testing.assert_array_equal(last.train.labels, Y)
    assert from_arrays(X[:, 0], Y, X[:5, 0], Y[:5]).info.shape == (1, 4, 4)


def test_kinds() -> None:
    """Two axes are vectors; whole numbers with a label each are text, whose classes count tokens too."""
    assert from_arrays(X.reshape(20, -1), Y, X[:5].reshape(5, -1), Y[:5]).info.kind == "vector"
    tokens = np.arange(12).reshape(3, 4)
    text = from_arrays(tokens, tokens - (tokens > 5), tokens, tokens - (tokens > 5))
    assert (text.info.kind, text.info.classes) == ("text", 12)


def test_owners_may_be_names() -> None:
    """Names of people become numbers from 0."""
    data = from_arrays(X, Y, X[:5], Y[:5], np.array(["b", "a"] * 10))
    assert data.train.owners is not None
    assert data.train.owners.tolist() == [1, 0] * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": Y[:3]}, r"training set of mine: inputs are uint8\[20, 3, 4, 4\] and labels int64\[3\]"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "one label for each input, and at least one"),
        ({"y_train": Y / 2}, "labels are float64.20.; they must be whole numbers"),
        ({"y_train": Y - 1}, "training set of mine: a label is -1"),
        ({"x_test": X[:5, :, :2]}, "they must have the same type"),
        ({"x_train": X.astype(np.int32)}, "inputs are int32; give uint8"),
        ({"x_train": np.full(X.shape, np.nan)}, "some inputs are not finite"),
        ({"x_train": X[..., None]}, "images have 3 or 4 axes and vectors 2"),
        ({"owners": Y[:3]}, r"owners are int64\[3\]; there must be one for each of the 20"),
        ({"classes": 3}, "label 4, but there are 3 classes"),
        ({"x_train": -np.ones((2, 4), int), "y_train": np.ones((2, 4), int)}, "a token is -1"),
    ],
)
def test_arrays_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    """What is wrong with arrays is said."""
    arguments: dict[str, Any] = {"x_train": X, "y_train": Y, "x_test": X[:5], "y_test": Y[:5], "name": "mine"}
    with pytest.raises(UserError, match=message):
        from_arrays(**(arguments | change))
