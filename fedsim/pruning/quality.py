"""How good a model is: perplexity and next-token accuracy on text, accuracy on images. Data are the caller's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.pruning.watching import evaluating

_BATCH: Final = 4
"""Windows at once: more need memory for the logits, and no core goes idle at this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextQuality:
    """Of a language model, on windows that follow one another and do not overlap."""

    perplexity: float
    """The exponential of the mean loss of all predictions."""
    top1: float
    """Share of predictions whose most probable token is the right one."""
    windows: int
    length: int
    """Tokens of a window; all but the first are predicted."""

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuality:
    """Of a classifier."""

    accuracy: float
    loss: float
    samples: int

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def rows(tokens: NDArray[np.int64], count: int, length: int) -> Tensor:
    """The first windows of a text, one behind another: `count length`."""
    return torch.from_numpy(np.ascontiguousarray(tokens[: count * length])).view(count, length)


def indices(numbers: NDArray[np.int64]) -> Tensor:
    """Row numbers as a tensor."""
    return torch.from_numpy(numbers)


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """What a language model gives for tokens `batch length`: of transformers, or a list of units."""
    made: Any = model(input_ids=tokens, use_cache=False) if hasattr(model, "config") else model(tokens)
    found: Tensor = made if isinstance(made, Tensor) else made.logits
    return found


def text_quality(model: nn.Module, windows: Tensor) -> TextQuality:
    """Of windows `count length`.

    The first token of each is given, the others are predicted.
    """
    loss, right, count = 0.0, 0, 0
    with evaluating(model), torch.inference_mode():
        for some in windows.split(_BATCH):
            guesses, wanted = logits(model, some)[:, :-1].flatten(0, 1).float(), some[:, 1:].flatten()
            loss += float(cross_entropy(guesses, wanted, reduction="sum").double())
            right += int((guesses.argmax(-1) == wanted).sum())
            count += len(wanted)
    mean = loss / count
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return TextQuality(perplexity=perplexity, top1=right / count, windows=len(windows), length=windows.shape[1])


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
