"""Lists of kept indices as short texts: the first index, then the steps between them, equal ones counted.

`0 1x3 4` is 0, 1, 2, 3, 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from fedsim.payload.supports import Indices


def written(indices: Indices) -> str:
    """The text of ascending indices."""
    if not len(indices):
        return ""
    steps = [(step, len(list(run))) for step, run in groupby(np.diff(indices).tolist())]
    return " ".join([str(int(indices[0])), *(f"{step}x{count}" if count > 1 else f"{step}" for step, count in steps)])


def parsed(text: str, size: int) -> Indices:
    """The indices of a text, each below `size`.

    Raises:
        ValueError: they do not ascend, or leave the axis.
    """
    words: Sequence[str] = text.split()
    pieces = [[int(words[0])]] if words else []
    length = len(pieces)
    for word in words[1:]:
        step, _, count = word.partition("x")
        length += int(count or 1)
        if length > size:
            raise ValueError(f"more indices than an axis of {size} has")
        pieces.append([int(step)] * int(count or 1))
    indices = np.cumsum(np.array([step for piece in pieces for step in piece], np.int64))
    if len(indices) and (indices[0] < 0 or indices[-1] >= size or np.any(np.diff(indices) <= 0)):
        raise ValueError(f"indices that do not ascend within an axis of {size}")
    return indices
