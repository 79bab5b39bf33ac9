"""Data sets in one NumPy file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.data import describe, load
from fedsim.errors import UserError

X = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
Y = np.arange(30) % 3


def write(file: Path, **change: Any) -> Path:
    """An .npz of X and Y with changes; a change to None leaves the key out."""
    arrays: dict[str, Any] = {"x_train": X, "y_train": Y, "x_test": X[:6], "y_test": Y[:6]} | change
    kept: dict[str, Any] = {key: value for key, value in arrays.items() if value is not None}
    np.savez(file, **kept)
    return file


def test_images_owners_and_subset(tmp_path: Path) -> None:
    """Images, owners and a fitted subset come through, as described."""
    file = write(tmp_path / "a.npz", owners_train=np.arange(30) // 10)
    data = load("numpy", path=file, samples=10, resize=16, seed=2)
    assert data.info == describe("numpy", path=file, samples=10, resize=16)
    assert data.train.inputs.shape == (10, 1, 16, 16)
    assert data.train.owners is not None
    assert len(data.train.owners) == 10
    assert not data.train.owners.flags.writeable
    whole = load("numpy", path=file)
    np.testing.assert_array_equal(whole.train.inputs[:, 0], X)


def test_vectors_and_text(tmp_path: Path) -> None:
    """Vectors and tokens are told apart, and described as they load."""
    vectors = write(tmp_path / "v.npz", x_train=X.reshape(30, 64) / 255, x_test=X[:6].reshape(6, 64) / 255)
    assert describe("mine", path=vectors) == load("mine", path=vectors).info
    assert describe("mine", path=vectors).kind == "vector"
    tokens = np.arange(12).reshape(3, 4)
    text = write(tmp_path / "t.npz", x_train=tokens, y_train=tokens, x_test=tokens, y_test=tokens)
    assert describe("numpy", path=text) == load("numpy", path=text).info
    assert (describe("numpy", path=text).kind, describe("numpy", path=text).classes) == ("text", 12)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    """A missing key, pickled objects, a plain array, a missing file and missing labels are told apart."""
    with pytest.raises(UserError, match="no 'y_test'; it needs x_train, y_train, x_test, y_test and has x_train"):
        load("numpy", path=write(tmp_path / "a.npz", y_test=None))
    with pytest.raises(UserError, match=r"'y_train' cannot be read .*; store plain arrays"):
        load("numpy", path=write(tmp_path / "b.npz", y_train=np.array([{}] * 30)))
    np.save(tmp_path / "c.npy", X)
    with pytest.raises(UserError, match="holds one array"):
        load("numpy", path=tmp_path / "c.npy")
    (tmp_path / "d.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"is no .npz file"):
        load("numpy", path=tmp_path / "d.npz")
    with pytest.raises(UserError, match=r"set `path` to an .npz file"):
        load("numpy")
    with pytest.raises(UserError, match=r"x_train has shape \(30, 8, 8\), but there are 7 labels"):
        load("numpy", path=write(tmp_path / "e.npz", y_train=Y[:7]))
