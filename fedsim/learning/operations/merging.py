"""Batches of several devices joined into one, and a gradient cut into the shares of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from fedsim.learning.core import Core, Operation
from fedsim.script import Payload


def _join(core: Core, node: int, learner: int, payloads: Sequence[Payload]) -> Tensor:
    parts = [core.tensor(payload) for payload in payloads]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return core.arranged(joined)


def _share(core: Core, node: int, learner: int, gradient: Payload, first: int, size: int, scale: float) -> Tensor:
    rows = core.tensor(gradient)[first : first + size]
    return core.arranged(rows * scale)


METHODS: Final[Mapping[str, Operation]] = {"merge.join": _join, "merge.share": _share}
