"""Building a model from a seed, or without any memory on the `meta` device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from fedsim import seeds
from fedsim.models import zoo

if TYPE_CHECKING:
    from fedsim.models.units import UnitList


def maker(name: str) -> Callable[..., UnitList]:
    """The function of `zoo` that makes a model of the catalogue."""
    function: Callable[..., UnitList] = getattr(zoo, name)
    return function


def build(maker: Callable[..., UnitList], *, dtype: str, device: str, seed: int, **arguments: Any) -> UnitList:
    """Call `maker` so that its initial weights depend on `seed` only.

    PyTorch's initialisers draw from the global generator; it is seeded inside a fork and left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seeds.derive(seed, -1, "model"))
        model = maker(**arguments)
    model.dtype = dtype
    return model.to(getattr(torch, dtype))
