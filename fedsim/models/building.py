"""Building a model: with seeded weights on the CPU, or without any memory on the `meta` device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from fedsim import seeds
from fedsim.errors import UserError, unknown
from fedsim.models.catalogue import ENTRIES
from fedsim.models.units import UnitList


def build(
    name: str | Callable[..., UnitList],
    options: Any,
    *,
    input: tuple[int, ...],
    classes: int,
    kind: str,
    norm: str = "bn",
    dtype: str = "float32",
    device: str = "meta",
    seed: int = 0,
) -> UnitList:
    """A model as a unit list, on the `meta` device (shapes only) or on the CPU with seeded initial weights.

    Args:
        name: a name of the catalogue, or a function with the same keyword arguments as those in `zoo`.
        options: the instance of the model's options dataclass.
        input: shape of one sample without the batch axis.
        kind: `image`, `vector` or `text`, as the data set says.
        norm: `bn`, `gn` or `frozen_bn`.

    The initial weights depend on `seed` only: PyTorch's initialisers draw from the global generator, which is seeded
    meanwhile and left as it was.

    Raises:
        UserError: no such model, it does not take such inputs, or it is no `UnitList`.
    """
    maker: Callable[..., UnitList]
    if callable(name):
        maker = name
    else:
        if name not in ENTRIES:
            raise UserError(unknown("model", name, ENTRIES))
        entry = ENTRIES[name]
        if entry.inputs not in ("any", kind):
            fitting = ", ".join(n for n, e in ENTRIES.items() if e.inputs in ("any", kind))
            raise UserError(f"model {name} takes {entry.inputs} data, but this is {kind} data; choose {fitting}")
        module, function = entry.builder.split(".")
        maker = getattr(import_module(f"fedsim.models.zoo.{module}"), function)
    with seeded(seeds.derive(seed, -1, "model")), torch.device(device):
        model = maker(options=options, input=input, classes=classes, norm=norm)
    if not isinstance(model, UnitList):
        raise UserError(
            f"model {getattr(maker, '__name__', maker)} is a {type(model).__name__}; return a UnitList "
            "(fedsim.models.units), which names the units between which it may be cut"
        )
    model.dtype = dtype
    return model.to(getattr(torch, dtype))


@contextmanager
def seeded(seed: int, processor: torch.device | None = None) -> Iterator[None]:
    """PyTorch's global CPU generator, and that of a processor, seeded inside and left as they were."""
    own: Any = None if processor is None or processor.type == "cpu" else torch.get_device_module(processor)
    before = torch.default_generator.get_state()
    if own is not None:
        own_before = own.get_rng_state()
        own.manual_seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        if own is not None:
            own.set_rng_state(own_before)
        torch.default_generator.set_state(before)
