"""Images shifted and mirrored at random, as CIFAR-10 is commonly augmented: pad, crop, flip."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fedsim.errors import UserError

_SHIFT: Final = 8
"""An image moves by at most this part of its side: four pixels of 32."""


def augmented(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Each of the images `batch channels h w` moved by up to an eighth of its side, half of them mirrored.

    What comes in from outside the image is zero, which is the mean of standardised pixels.

    Raises:
        UserError: these are no images.
    """
    if images.dim() != 4:
        raise UserError(
            f"samples of shape {tuple(images.shape[1:])} cannot be augmented; only images can: set augment_copies: 0"
        )
    count, _, height, width = images.shape
    most_y, most_x = height // _SHIFT, width // _SHIFT
    padded = pad(images, (most_x, most_x, most_y, most_y))
    down, right = rng.integers(0, 2 * most_y + 1, count).tolist(), rng.integers(0, 2 * most_x + 1, count).tolist()
    mirrored = rng.integers(0, 2, count).tolist()
    made = torch.empty_like(images)
    for i in range(count):
        window = padded[i, :, down[i] : down[i] + height, right[i] : right[i] + width]
        made[i] = window.flip(-1) if mirrored[i] else window
    return made
