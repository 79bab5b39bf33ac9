"""A data set and its shards as tensors: batches are gathered from the shared arrays, nothing is copied a device."""

from __future__ import annotations

import numpy as np
import torch
import torch.utils.dlpack
from numpy.typing import NDArray
from torch import Tensor

from fedsim.data import DataSet, Shards

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class TensorSamples:
    """Batches of a data set.

    Args:
        data: the arrays; uint8 inputs are scaled to `(x - mean) / std` batch by batch, others are taken as they are.
        shards: the training samples of each device, as indices of `data.train`.
        dtype: of real-valued inputs.
        channels_last: give images with the channels innermost.
        validation: indices of `data.train` that are held out for validation.
        test: indices of `data.test` to evaluate on; None for all.
    """

    def __init__(
        self,
        data: DataSet,
        shards: Shards,
        *,
        dtype: str = "float32",
        channels_last: bool = False,
        validation: NDArray[np.int64] | None = None,
        test: NDArray[np.int64] | None = None,
    ) -> None:
        self._shards = shards
        images = len(data.info.shape) == 3
        self._format = torch.channels_last if channels_last and images else torch.contiguous_format
        self._scale: tuple[Tensor, Tensor] | None = None
        if data.mean is not None and data.std is not None:
            shape = (1, -1, 1, 1) if images else (1, -1)
            self._scale = (
                torch.tensor(data.mean, dtype=_DTYPES[dtype]).view(shape),
                torch.tensor(data.std, dtype=_DTYPES[dtype]).view(shape),
            )
        self._train = (_share(data.train.inputs), _share(data.train.labels))
        real = self._scale is not None or self._train[0].is_floating_point()
        self._dtype = _DTYPES[dtype] if real else self._train[0].dtype  # tokens stay whole numbers
        self._held_out = {"test": (_share(data.test.inputs), _share(data.test.labels))}
        for split, rows, (x, y) in (("validation", validation, self._train), ("test", test, self._held_out["test"])):
            if rows is not None:
                self._held_out[split] = (x[torch.from_numpy(rows)], y[torch.from_numpy(rows)])

    def shard(self, node: int) -> NDArray[np.int64]:
        """Indices of a device's samples."""
        return self._shards[node]

    def train(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of training samples, in memory that is the caller's."""
        inputs, labels = self._train
        return self._ready(inputs.index_select(0, indices)), labels.index_select(0, indices)

    def labels(self, indices: Tensor) -> Tensor:
        """Labels of training samples."""
        return self._train[1].index_select(0, indices)

    def held_out(self, split: str, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels `first` up to, not including, `last` of `test` or `validation`; not to be written to."""
        inputs, labels = self._held_out[split]
        return self._ready(inputs[first:last]), labels[first:last]

    def held_out_size(self, split: str) -> int:
        """Number of samples of a held-out split."""
        return len(self._held_out[split][1])

    def _ready(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype, memory_format=self._format)
        if self._scale is not None:
            mean, std = self._scale
            x = x.sub(mean).div_(std)
        return x


def _share(array: NDArray[np.generic]) -> Tensor:
    """A tensor on the array's own memory. DLPack, since `from_numpy` warns of read-only arrays; nobody writes here."""
    return torch.utils.dlpack.from_dlpack(array)
