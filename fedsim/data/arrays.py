"""A data set of one NumPy file: an `.npz` with `x_train`, `y_train`, `x_test`, `y_test` and maybe `owners_train`.

The parts are loaded once (NumPy cannot map the members of an `.npz`); describing reads the labels and headers only.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim.data.catalogue import DataInfo
from fedsim.data.dataset import AnyArray, DataSet, Split, assembled, from_arrays, rows_of
from fedsim.data.images import fitted
from fedsim.errors import UserError

KEYS: Final = ("x_train", "y_train", "x_test", "y_test")
OWNERS: Final = "owners_train"


@dataclass(frozen=True)
class NumpyFile:
    """Reads one `.npz`; pickled objects in it are refused."""

    name: str
    file: Path

    def info(self) -> DataInfo:
        """From the labels and the headers of the inputs; inputs are read for text only."""
        with _opened(self.file) as archive:
            labels = [_member(archive, self.file, key) for key in ("y_train", "y_test")]
            if any(array.ndim == 2 and array.shape[1] > 1 for array in labels):  # text: tokens tell the vocabulary
                x_train, x_test = (_member(archive, self.file, key) for key in ("x_train", "x_test"))
                return from_arrays(x_train, labels[0], x_test, labels[1], name=self.name).info
        first = []  # the first row stands in for each array of inputs: type and shape are checked, values are not
        for key, array in zip(("x_train", "x_test"), labels, strict=True):
            shape, dtype = _header(self.file, key)
            if not shape or shape[0] != len(array):
                raise UserError(f"{self.file}: {key} has shape {shape}, but there are {len(array):,} labels for it")
            first += [np.zeros((min(1, shape[0]), *shape[1:]), dtype), array[:1]]
        info = from_arrays(first[0], first[1], first[2], first[3], name=self.name).info
        classes = 1 + max(int(array.max()) for array in labels)
        return replace(info, train=len(labels[0]), test=len(labels[1]), classes=classes)

    def read(self, info: DataInfo, rows: NDArray[np.int64] | None) -> DataSet:
        """The stored arrays, in our layout."""
        with _opened(self.file) as archive:
            x_train, y_train, x_test, y_test = (_member(archive, self.file, key) for key in KEYS)
            owners = _member(archive, self.file, OWNERS) if OWNERS in archive.files else None
        whole = from_arrays(x_train, y_train, x_test, y_test, owners, name=self.name, classes=info.classes)
        return chosen(whole, info, rows)


def chosen(data: DataSet, info: DataInfo, rows: NDArray[np.int64] | None) -> DataSet:
    """A finished data set cut to the rows and fitted to the image size that `info` wants; as is where it fits."""
    if info == data.info:
        return data
    train, test = rows_of(data.train, rows), data.test
    if info.shape != data.info.shape:
        size = info.shape[1]
        train = Split(fitted(train.inputs, size), train.labels, train.owners)
        test = Split(fitted(test.inputs, size), test.labels, test.owners)
    return assembled(info, train, test)


def _opened(file: Path) -> Any:  # Any: NumPy does not export the type of its archives
    try:
        archive = np.load(file, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is no .npz file ({error}); write one with numpy.savez") from error
    if not hasattr(archive, "files"):
        raise UserError(f"{file} holds one array; write an .npz with {', '.join(KEYS)} with numpy.savez")
    for key in KEYS:
        if key not in archive.files:
            raise UserError(f"{file}: no {key!r}; it needs {', '.join(KEYS)} and has {', '.join(archive.files)}")
    return archive


def _member(archive: Any, file: Path, key: str) -> AnyArray:
    try:
        array: AnyArray = archive[key]
    except ValueError as error:
        raise UserError(f"{file}: {key!r} cannot be read ({error}); store plain arrays of numbers") from error
    return array


def _header(file: Path, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with zipfile.ZipFile(file) as archive, archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(member)
    return shape, dtype
