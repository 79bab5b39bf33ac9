"""How good a classifier is. Data are the caller's; of language models `mosaic.evaluating` tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.pruning.watching import evaluating


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuality:
    """On some samples."""

    accuracy: float
    loss: float
    samples: int

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def indices(numbers: NDArray[np.int64]) -> Tensor:
    """Row numbers, or tokens, as a tensor."""
    return torch.from_numpy(numbers)


def image_quality(
    model: nn.Module, batch: Callable[[int, int], tuple[Tensor, Tensor]], samples: int, *, size: int = 250
) -> ImageQuality:
    """Of samples.

    Args:
        batch: inputs and labels of the samples from one number up to, not including, another.
    """
    loss, right = 0.0, 0
    with evaluating(model), torch.inference_mode():
        for first in range(0, samples, size):
            inputs, labels = batch(first, min(first + size, samples))
            guesses = model(inputs).float()
            loss += float(cross_entropy(guesses, labels, reduction="sum").double())
            right += int((guesses.argmax(-1) == labels).sum())
    return ImageQuality(accuracy=right / samples, loss=loss / samples, samples=samples)
