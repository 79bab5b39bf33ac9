"""The quality of a model on held-out samples, batch by batch in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from fedsim.learning.core import Samples
from fedsim.payload.memory import trim
from fedsim.script import Quality

BATCH: Final = 256
OUTPUTS: Final = 2**24
"""Values that a model may give for a batch: 256 sequences of a language model would be gigabytes."""


def quality(
    forward: Callable[[Tensor], Tensor], loss: Callable[..., Tensor], data: Samples, split: str, outputs: int
) -> Quality:
    """Accuracy and mean loss over all predictions of a split.

    Args:
        forward: from inputs to logits, without dropout and with stored statistics, wherever it computes.
        loss: as `UnitList.loss`.
        data: the samples.
        split: `test` or `validation`.
        outputs: values of a sample's output.
    """
    size = data.held_out_size(split)
    batch = min(BATCH, max(1, OUTPUTS // outputs))
    right = predictions = 0
    lost = 0.0
    with torch.inference_mode():
        for first in range(0, size, batch):
            x, y = data.held_out(split, first, min(first + batch, size))
            x = forward(x)
            y = y.to(x.device)
            right += int((x.argmax(-1) == y).sum())
            lost += float(loss(x, y, "sum"))
            predictions += y.numel()
            del x, y
    trim()  # activations of whole evaluation batches are by far the largest temporaries of a run
    return Quality(right / predictions, lost / predictions, size)
