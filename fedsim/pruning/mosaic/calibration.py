"""Windows of tokens that pruning is calibrated on, with what is to be said of them wherever results are shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim import seeds
from fedsim.errors import UserError

Privacy = Literal["public", "device-private"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Token windows of one length, and where they are from."""

    tokens: Tensor
    """`windows length`, integers."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """Text, tokenizer, seed and whatever else is known, as JSON takes it."""
    privacy: Privacy = "public"

    def __post_init__(self) -> None:
        if self.tokens.dim() != 2 or not self.tokens.numel() or self.tokens.is_floating_point():
            raise UserError(
                f"calibration windows of shape {tuple(self.tokens.shape)} and type {self.tokens.dtype}; they are "
                "integers, windows by length, 1 or more of each"
            )

    def described(self) -> dict[str, Any]:
        """The description with sizes and a hash of the tokens."""
        values: NDArray[np.int64] = self.tokens.detach().cpu().to(torch.int64).numpy()
        digest = hashlib.sha256(np.ascontiguousarray(values, "<i8").tobytes()).hexdigest()
        sizes = {"windows": len(values), "length": values.shape[1], "sha256": digest, "privacy": self.privacy}
        return {**self.description, **sizes}


Windows = Calibration | Tensor | Iterable[Sequence[int] | Tensor]
"""What takes calibration windows also takes tokens without a description."""


def calibrated(windows: Windows) -> Calibration:
    """Windows with their description.

    Raises:
        UserError: they differ in length, there are none, or they are no integers.
    """
    match windows:
        case Calibration():
            return windows
        case Tensor():
            return Calibration(tokens=windows)
        case _:
            rows = [torch.as_tensor(window) for window in windows]
            if len({len(row) for row in rows}) != 1:
                lengths = ", ".join(map(str, sorted({len(row) for row in rows}))) or "none at all"
                raise UserError(f"calibration windows of lengths {lengths}; give one or more, all of one length")
            return Calibration(tokens=torch.stack(rows))


def drawn(
    tokens: Sequence[int] | NDArray[np.int64] | Tensor,
    *,
    count: int = 128,
    length: int = 256,
    seed: int = 0,
    description: Mapping[str, Any] | None = None,
    privacy: Privacy = "public",
) -> Calibration:
    """Windows that begin at `count` different tokens of a text, chosen by a generator of their own.

    The public code takes 128 windows of 2,048 tokens from as many documents.

    Raises:
        UserError: the text is too short.
    """
    text = torch.as_tensor(tokens)
    starts = len(text) - length + 1
    if count < 1 or length < 1 or starts < count:
        raise UserError(
            f"{count} calibration windows of {length} tokens need a text of {length + count - 1} tokens or more, but "
            f"this one has {len(text)}; ask for fewer or shorter ones"
        )
    chosen = seeds.generator(seed, -1, "calibration").choice(starts, count, replace=False)
    rows = torch.stack([text[start : start + length] for start in chosen.tolist()])
    said = {**(description or {}), "seed": seed, "text_tokens": len(text)}
    return Calibration(tokens=rows.to(torch.int64), description=said, privacy=privacy)
