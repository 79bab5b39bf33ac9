"""What every reader returns: a training and a test part, in arrays that nobody can write to.

The arrays are made once and shared by all devices; a device's shard is a list of row numbers. Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.catalogue import DataInfo, Kind
from fedsim.errors import UserError

AnyArray = NDArray[Any]  # inputs are uint8, float32 or int64, depending on the data


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set; row i of every array belongs to sample i."""

    inputs: AnyArray
    """uint8 or float32, (samples, channels, height, width) or (samples, features); text: int64, (samples, tokens)."""
    labels: NDArray[np.int64]
    """(samples,); text: (samples, tokens), the next token of each."""
    owners: NDArray[np.int64] | None = None
    """The person or place that each sample comes from, where the data say so."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set in memory. Arrays are C-contiguous and read-only."""

    info: DataInfo
    train: Split
    test: Split
    mean: NDArray[np.float32] | None
    """Per channel over the training inputs, in their own unit (0-255); vectors: one number. None: already scaled."""
    std: NDArray[np.float32] | None
    """As `mean`; a constant channel has 1. Models are fed `(inputs - mean) / std`."""


def from_arrays(
    x_train: AnyArray,
    y_train: AnyArray,
    x_test: AnyArray,
    y_test: AnyArray,
    owners: AnyArray | None = None,
    *,
    name: str = "arrays",
    classes: int | None = None,
) -> DataSet:
    """A data set of arrays in memory.

    Images may come without a channel axis or with the channels last. Whole-number inputs with a label for each are
    text. Inputs that already have the right type and layout are shared, not copied.

    Args:
        x_train: uint8 (0-255) or any float (already scaled), (samples, ...).
        y_train: whole numbers from 0, (samples,), or (samples, tokens) for text.
        x_test: as `x_train`.
        y_test: as `y_train`.
        owners: natural id of each training sample.
        name: what reports call the data set.
        classes: number of classes; by default the largest label + 1.

    Raises:
        UserError: the arrays do not fit together, or have a type or shape that no model takes.
    """
    train, kind = _split(x_train, y_train, f"training set of {name}", owners)
    test, _ = _split(x_test, y_test, f"test set of {name}")
    if train.inputs.shape[1:] != test.inputs.shape[1:] or train.inputs.dtype != test.inputs.dtype:
        raise UserError(
            f"{name}: training inputs are {_said(train.inputs)} and test inputs {_said(test.inputs)}; "
            "they must have the same type and, but for the number of samples, the same shape"
        )
    largest = max(int(array.max()) for array in (train.labels, test.labels, *_tokens(kind, train, test)))
    if classes is not None and largest >= classes:
        raise UserError(f"{name}: label {largest}, but there are {classes} classes; labels go from 0 to {classes - 1}")
    info = DataInfo(
        name=name,
        kind=kind,
        train=len(train),
        test=len(test),
        shape=train.inputs.shape[1:],
        classes=largest + 1 if classes is None else classes,
    )
    return assembled(info, train, test)


def assembled(info: DataInfo, train: Split, test: Split) -> DataSet:
    """The data set of two finished parts: arrays made read-only, mean and standard deviation taken."""
    train, test = _frozen(train), _frozen(test)
    assert (len(train), len(test)) == (info.train, info.test), (info, len(train), len(test))
    assert train.inputs.shape[1:] == test.inputs.shape[1:] == info.shape, (info, train.inputs.shape)
    mean, std = _moments(train.inputs) if train.inputs.dtype == np.uint8 else (None, None)
    return DataSet(info, train, test, mean, std)


def rows_of(split: Split, rows: NDArray[np.int64] | None) -> Split:
    """The chosen rows of a part; all of it for None."""
    if rows is None:
        return split
    owners = None if split.owners is None else split.owners[rows]
    return Split(split.inputs[rows], split.labels[rows], owners)


def read_only(array: AnyArray) -> AnyArray:
    """The same memory, where its layout allows, through a C-contiguous view that cannot be written to."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view


def _frozen(split: Split) -> Split:
    owners = None if split.owners is None else read_only(split.owners)
    return Split(read_only(split.inputs), read_only(split.labels), owners)


def _moments(inputs: AnyArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation per channel of uint8 inputs, exact: from a histogram of the 256 values."""
    channels = inputs.shape[1] if inputs.ndim == 4 else 1
    counts = np.zeros((channels, 256), np.int64)
    chunk = max(1, 2**22 // max(1, inputs[0].size))  # bincount widens to int64, so memory stays flat in chunks
    for start in range(0, len(inputs), chunk):
        block = inputs[start : start + chunk]
        for channel in range(channels):
            values = block[:, channel] if inputs.ndim == 4 else block
            counts[channel] += np.bincount(values.ravel(), minlength=256)
    values = np.arange(256, dtype=np.float64)
    total = counts.sum(axis=1)
    mean = counts @ values / total
    std = np.sqrt(((values - mean[:, None]) ** 2 * counts).sum(axis=1) / total)
    std[std == 0] = 1.0
    return read_only(mean.astype(np.float32)), read_only(std.astype(np.float32))


def _split(x: AnyArray, y: AnyArray, what: str, owners: AnyArray | None = None) -> tuple[Split, Kind]:
    x, y = np.asarray(x), np.asarray(y)
    if y.dtype.kind not in "iu":
        raise UserError(f"{what}: labels are {_said(y)}; they must be whole numbers from 0")
    text = x.dtype.kind in "iu" and x.ndim == 2 and y.shape == x.shape
    if y.ndim == 2 and y.shape[1] == 1 and not text:
        y = y[:, 0]  # Keras keeps its labels as a column
    if not (text or (y.ndim == 1 and x.ndim >= 2)) or len(x) != len(y) or len(x) == 0:
        raise UserError(
            f"{what}: inputs are {_said(x)} and labels {_said(y)}; "
            "there must be one label for each input, and at least one of them"
        )
    labels = y.astype(np.int64, copy=False)
    if labels.min() < 0:
        raise UserError(f"{what}: a label is {labels.min()}; labels are whole numbers from 0")
    ids = None
    if owners is not None:
        ids = np.asarray(owners)
        if ids.shape != (len(x),):
            raise UserError(f"{what}: owners are {_said(ids)}; there must be one for each of the {len(x):,} samples")
        ids = ids.astype(np.int64) if ids.dtype.kind in "iu" else np.unique(ids, return_inverse=True)[1]
    if text:
        if x.min() < 0:
            raise UserError(f"{what}: a token is {x.min()}; tokens are whole numbers from 0")
        return Split(x.astype(np.int64, copy=False), labels, ids), "text"
    return Split(_numbers(_channels_first(x, what), what), labels, ids), "vector" if x.ndim == 2 else "image"


def _numbers(x: AnyArray, what: str) -> AnyArray:
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind != "f":
        raise UserError(f"{what}: inputs are {x.dtype}; give uint8 (0-255) or floats (already scaled)")
    if not np.isfinite(x).all():
        raise UserError(f"{what}: some inputs are not finite (NaN or infinity); clean the data first")
    return x.astype(np.float32, copy=False)


def _channels_first(x: AnyArray, what: str) -> AnyArray:
    match x.ndim:
        case 2:
            return x
        case 3:
            return x[:, None]
        case 4:
            last = x.shape[3] in (1, 3) and x.shape[1] not in (1, 3)
            return x.transpose(0, 3, 1, 2) if last else x
        case _:
            raise UserError(f"{what}: inputs are {_said(x)}; images have 3 or 4 axes and vectors 2, samples first")


def _tokens(kind: Kind, *splits: Split) -> tuple[AnyArray, ...]:
    return tuple(split.inputs for split in splits) if kind == "text" else ()


def _said(array: AnyArray) -> str:
    return f"{array.dtype}[{', '.join(str(length) for length in array.shape)}]"
