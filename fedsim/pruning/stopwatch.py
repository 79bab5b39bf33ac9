"""Times of models on this host, by a stopwatch: for people who compare. No plan and no trace depends on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from fedsim.pruning.watching import evaluating

_WARM: Final = 2
_LEAST: Final = 5
_MOST: Final = 100
"""Runs that are not counted, and the fewest and the most that are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One way of calling a model."""

    p50: float
    p95: float
    repeats: int

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def timed(
    models: Mapping[str, nn.Module], call: Callable[[nn.Module], Any], *, threads: int = 1, seconds: float = 2.0
) -> dict[str, Timed]:
    """Seconds of a call of each model, in turns, so that a busy moment of the host meets all of them.

    Args:
        seconds: how long all of them together take, about; each runs five times at least.
    """
    taken: dict[str, list[float]] = {name: [] for name in models}
    with pinned(threads), torch.inference_mode():
        for model in models.values():
            with evaluating(model):
                for _ in range(_WARM):
                    _readied(call, model)
                    call(model)
        began = time.perf_counter()
        for number in range(_MOST):
            if number >= _LEAST and time.perf_counter() - began > seconds:
                break
            for name, model in models.items():
                with evaluating(model):
                    _readied(call, model)
                    start = time.perf_counter()
                    call(model)
                    taken[name].append(time.perf_counter() - start)
    return {
        name: Timed(p50=float(np.quantile(each, 0.5)), p95=float(np.quantile(each, 0.95)), repeats=len(each))
        for name, each in taken.items()
    }


def _readied(call: Callable[[nn.Module], Any], model: nn.Module) -> None:
    """What a call needs to be done before it, and is not timed."""
    ready = getattr(call, "ready", None)
    if ready is not None:
        ready(model)


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """So many threads of an operator inside; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
