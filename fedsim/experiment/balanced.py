"""Samples for scores of pruning: so many of every class, scaled as in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim import seeds
from fedsim.data import DataSet, Shards

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.learning.samples import TensorSamples


def samples(data: DataSet, *, dtype: str = "float32", test: NDArray[np.int64] | None = None) -> TensorSamples:
    """A data set as tensors, dealt to nobody; `test` are the test samples that count, None for all."""
    from fedsim.learning.samples import TensorSamples

    nobody = Shards.of(np.zeros(len(data.train.labels), np.int64), 1)
    return TensorSamples(data, nobody, dtype=dtype, test=test)


def balanced(data: DataSet, each: int, seed: int, *, dtype: str = "float32") -> tuple[Tensor, Tensor]:
    """Training samples, so many of each class, or all there are of one that has fewer."""
    import torch

    rng = seeds.generator(seed, -1, "pruning batch")
    labels = data.train.labels
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:each] for label in range(data.info.classes)]
    return samples(data, dtype=dtype).train(torch.from_numpy(np.sort(np.concatenate(chosen))))
