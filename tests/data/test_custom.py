"""Data sets of the user's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.data import DataSet, TokenOptions, describe, from_arrays, load, resolve
from fedsim.errors import UserError

CALLS: list[dict[str, Any]] = []


def readings(*, features: int = 4, path: Path | None = None) -> DataSet:
    """A user's data set of vectors."""
    CALLS.append({"features": features, "path": path})
    x = np.ones((12, features), np.float32)
    return from_arrays(x, np.arange(12) % 2, x[:4], np.arange(4) % 2, np.arange(12) // 4, name="readings")


def coloured() -> DataSet:
    """A user's images with a mean of the user's choice."""
    x = np.zeros((6, 3, 4, 4), np.uint8)
    data = from_arrays(x, np.arange(6) % 2, x[:2], np.arange(2))
    half = np.full(3, 127.5, np.float32)
    return DataSet(data.info, data.train, data.test, half, half)


def nothing() -> int:
    """Returns no data set."""
    return 3


def broken() -> DataSet:
    """Fails inside."""
    raise TypeError("inside")


HERE = __name__


def test_by_name_and_as_callable(tmp_path: Path) -> None:
    """Both ways give the same; path and options become arguments, samples and resize apply; made once."""
    CALLS.clear()
    data = load(f"{HERE}:readings", samples=5, path=tmp_path, options={"features": 7})
    (call,) = CALLS
    assert call == {"features": 7, "path": tmp_path}
    assert data.info == describe(readings, samples=5, options={"features": 7})
    assert data.train.inputs.shape == (5, 7)
    assert data.train.owners is not None
    assert len(data.train.owners) == 5


def test_mean_of_the_user_is_kept() -> None:
    """A data set's own mean and deviation stay, also in a subset and at another size."""
    for data in (load(coloured), load(coloured, samples=3, resize=8)):
        assert data.mean is not None
        assert data.mean.tolist() == [127.5] * 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:X", "there is no module 'no_such_module'; install it or put its folder on PYTHONPATH"),
        ("fedsim.no_such:X", "there is no module 'fedsim.no_such'"),
        (f"{HERE}:reading", "has no 'reading'; did you mean readings"),
        (f"{HERE}:CALLS", "is a list; it must be a class or a function"),
        (f"{HERE}:nothing", "returned a int; it must return a fedsim.data.DataSet"),
        (f"{HERE}:", "write it as module:Class"),
    ],
)
def test_references_that_lead_nowhere(name: str, message: str) -> None:
    """What is missing is said, with the way out."""
    with pytest.raises(UserError, match=message):
        load(name)


def test_arguments_and_inner_errors() -> None:
    """Wrong options are the user's error; an error inside the user's code passes through."""
    with pytest.raises(UserError, match=r"cannot be called with {'size': 3}: .*'size'; mend `options`"):
        load(readings, options={"size": 3})
    with pytest.raises(TypeError, match="inside"):
        load(broken)
    with pytest.raises(UserError, match="readings is not read as text; leave out `tokens`"):
        load(readings, tokens=TokenOptions())


def test_import_errors_inside_the_users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that exists but imports something absent is not called missing."""
    (tmp_path / "own_data_set.py").write_text("import absent_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="absent_dependency"):
        resolve("own_data_set:X", "data set")
