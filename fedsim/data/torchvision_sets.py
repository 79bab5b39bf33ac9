"""Image data sets as torchvision stores and downloads them.

The one module of `fedsim.data` that imports torch, and only when such a data set is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim.data.catalogue import DataInfo
from fedsim.data.dataset import AnyArray, DataSet, Split, assembled, rows_of
from fedsim.data.images import fitted
from fedsim.errors import UserError


@dataclass(frozen=True)
class _Class:
    """A class of `torchvision.datasets` and how it wants to be called."""

    name: str
    files: str
    """What has to lie in the folder, for people."""
    train: Mapping[str, Any] = field(default_factory=lambda: {"train": True})
    test: Mapping[str, Any] = field(default_factory=lambda: {"train": False})


def _by_split(name: str, files: str) -> _Class:
    return _Class(name, files, {"split": "train"}, {"split": "test"})


SETS: Final[dict[str, _Class]] = {
    "mnist": _Class("MNIST", "MNIST/raw/train-images-idx3-ubyte and its three siblings"),
    "fashion-mnist": _Class("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte and its three siblings"),
    "kmnist": _Class("KMNIST", "KMNIST/raw/train-images-idx3-ubyte and its three siblings"),
    "emnist": _Class(
        "EMNIST",
        "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte and its three siblings",
        {"split": "balanced", "train": True},
        {"split": "balanced", "train": False},
    ),
    "svhn": _by_split("SVHN", "train_32x32.mat and test_32x32.mat"),
    "cifar10": _Class("CIFAR10", "cifar-10-batches-py/data_batch_1 and its siblings"),
    "cifar100": _Class("CIFAR100", "cifar-100-python/train and test"),
    "stl10": _by_split("STL10", "stl10_binary/train_X.bin and its siblings"),
}


@dataclass(frozen=True)
class TorchvisionImages:
    """Reads one data set of the catalogue through torchvision, downloading it when its files are absent."""

    expected: DataInfo
    root: Path

    def info(self) -> DataInfo:
        """From the catalogue."""
        return self.expected

    def read(self, info: DataInfo, rows: NDArray[np.int64] | None) -> DataSet:
        """The stored arrays, in our layout."""
        known = SETS[self.expected.name]
        parts = []
        for arguments, samples in ((known.train, self.expected.train), (known.test, self.expected.test)):
            part = self._part(known, arguments)
            if len(part) != samples:
                raise UserError(
                    f"{self.root}: {len(part):,} samples, but {info.name} has {samples:,} there; "
                    f"remove its files ({known.files}) and let them be downloaded again"
                )
            parts.append(part)
        train, test = rows_of(parts[0], rows), parts[1]
        size = info.shape[1]
        return assembled(
            info, Split(fitted(train.inputs, size), train.labels), Split(fitted(test.inputs, size), test.labels)
        )

    def _part(self, known: _Class, arguments: Mapping[str, Any]) -> Split:
        from fedsim.torchvision_shim import import_torchvision

        import_torchvision()
        import torchvision.datasets

        make = getattr(torchvision.datasets, known.name)
        try:
            stored = make(self.root, download=False, **arguments)
        except (RuntimeError, OSError):  # torchvision's "not found or corrupted"
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                stored = make(self.root, download=True, **arguments)
            except (RuntimeError, OSError) as error:
                raise UserError(missing(self.expected.name, self.root, str(error))) from error
        return split_of(stored)


def missing(name: str, folder: Path, reason: str) -> str:
    """The sentence for a data set that is not there: what to put where, and what needs no download."""
    known = SETS.get(name)
    own = f"torchvision's files ({known.files}), or " if known else ""
    return (
        f"{name} is not in {folder} and cannot be downloaded ({reason.strip()}); put into that folder {own}"
        f"{name}-train.parquet and {name}-test.parquet in Hugging Face's schema, which need no download; "
        "or choose `name: digits`, which is embedded"
    )


def split_of(stored: Any) -> Split:  # Any: torchvision's data sets share no type
    """One of torchvision's data sets as our arrays: `data` may be a tensor, channels may be absent or last."""
    inputs: AnyArray = np.asarray(stored.data)
    labels = np.asarray(stored.targets if hasattr(stored, "targets") else stored.labels).astype(np.int64)
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    elif inputs.shape[3] == 3:
        inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    return Split(inputs, labels)
