"""Building a model from a seed, or without any memory on the `meta` device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fedsim import seeds
from fedsim.errors import UserError
from fedsim.models import zoo
from fedsim.models.units import UnitList


def maker(name: str) -> Callable[..., UnitList]:
    """The function of `zoo` that makes a model of the catalogue."""
    function: Callable[..., UnitList] = getattr(zoo, name)
    return function


def build(maker: Callable[..., UnitList], *, dtype: str, device: str, seed: int, **arguments: Any) -> UnitList:
    """Call `maker` so that its initial weights depend on `seed` only.

    PyTorch's initialisers draw from the global generator; it is seeded meanwhile and left as it was.

    Raises:
        UserError: `maker` returns something else than a `UnitList`.
    """
    with seeded(seeds.derive(seed, -1, "model")), torch.device(device):
        model = maker(**arguments)
    if not isinstance(model, UnitList):
        raise UserError(
            f"model {getattr(maker, '__name__', maker)} is a {type(model).__name__}; return a UnitList "
            "(fedsim.models.units), which names the units between which it may be cut"
        )
    model.dtype = dtype
    return model.to(getattr(torch, dtype))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global CPU generator, seeded inside and left as it was."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
