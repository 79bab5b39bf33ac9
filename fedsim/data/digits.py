"""The embedded data set: 1,797 handwritten digits of 8 x 8 pixels, which scikit-learn packages (UCI, 1998).

Reads the packaged CSV without running any of scikit-learn: importing `sklearn.datasets` takes over a second.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.data.catalogue import IMAGES, DataInfo
from fedsim.data.dataset import DataSet, Split, assembled, rows_of
from fedsim.data.images import fitted
from fedsim.errors import UserError
from fedsim.seeds import generator

LEVELS: Final = 16.0
"""Pixels are whole numbers from 0 to this."""

MEAN: Final = 0.3051734027052888
STD: Final = 0.37606516211069035
"""Of the pixels / LEVELS of the training part; a test computes them again."""


@dataclass(frozen=True)
class Digits:
    """Reads the embedded digits; which of them are for testing never changes."""

    def info(self) -> DataInfo:
        """From the catalogue."""
        return IMAGES["digits"]

    def read(self, info: DataInfo, rows: NDArray[np.int64] | None) -> DataSet:
        """float32, scaled to mean 0 and standard deviation 1 over the training part."""
        table = _table()
        order = generator(0, -1, "digits").permutation(len(table))
        pixels = ((table[:, :-1] / LEVELS - MEAN) / STD).astype(np.float32).reshape(-1, 1, 8, 8)
        pixels = fitted(pixels, info.shape[1])
        labels = table[:, -1].astype(np.int64)
        train, test = (Split(pixels[part], labels[part]) for part in np.split(order, [self.info().train]))
        return assembled(info, rows_of(train, rows), test)


def _table() -> NDArray[np.float64]:
    package = find_spec("sklearn")  # locates the folder without running the package
    folders = (package and package.submodule_search_locations) or []
    for folder in folders:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="ascii") as lines:
                return np.loadtxt(lines, delimiter=",")
    raise UserError("the digits come with scikit-learn, which is not installed; run `pip install scikit-learn`")
