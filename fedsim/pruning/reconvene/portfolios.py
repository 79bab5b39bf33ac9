"""Variants of one trained network at rising compression, small enough to be switched between (after DNNShifter).

Each is the network made sparse and rid of its empty filters. What a variant needs on a device is computed by the cost
model, never timed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import UserError
from fedsim.hardware import pricing
from fedsim.hardware.machines import Machine
from fedsim.models.measure import forward_cost
from fedsim.models.sides import forward_side
from fedsim.models.units import UnitList
from fedsim.pruning import storing
from fedsim.pruning.counting import Counts, counts
from fedsim.pruning.manifest import ObjectBase
from fedsim.pruning.reconvene.curves import masks
from fedsim.pruning.reconvene.emptying import Emptied, without_empty
from fedsim.pruning.reconvene.options import Reconvene
from fedsim.pruning.reconvene.scores import scored

COMPRESSIONS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of a portfolio."""

    compression: float
    """How many times fewer weights than the network has may be other than zero."""
    emptied: Emptied
    counts: Counts
    latency: float | None
    """Seconds of a forward on the device; None where none is known."""
    switching: float | None
    """Seconds until the device has its tensors in place of another variant's; None where no device is known."""

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "compression": self.compression,
            "counts": self.counts.data(),
            "units": dict(self.emptied.pruned.realised["units"]),
            "difference": self.emptied.difference,
            "latency": self.latency,
            "switching": self.switching,
        }


def magnitude(model: nn.Module, compression: float, example: Tensor) -> nn.Module:
    """A copy in which only the largest weights of convolutions and linear layers are not zero."""
    total = sum(weight.numel() for weight in scored(model).values())
    found = masks(model, Reconvene(score="magnitude"), max(1, round(total / compression)), example)
    made = deepcopy(model)
    with torch.no_grad():
        for name, mask in found.items():
            made.get_parameter(name).mul_(mask)
    return made


def portfolio(
    model: nn.Module,
    example: Tensor,
    compressions: Sequence[float] = COMPRESSIONS,
    *,
    sparse: Callable[[nn.Module, float, Tensor], nn.Module] = magnitude,
    machine: Machine | None = None,
    batch: int = 1,
    private: bool = True,
) -> tuple[Variant, ...]:
    """Variants of a trained network, which stays as it is.

    Args:
        example: inputs, the batch first, on which a variant's outputs must equal those of the sparse network.
        compressions: ascending.
        sparse: from the network, a compression and the example to a copy with zeros; may train it, too.
        machine: the device that latency and switching are computed for.
        batch: samples of the forward that latency is of.
        private: as in `without_empty`.

    Raises:
        UserError: a compression below 1, or a device and a model that is no unit list.
        PruningError: a variant computes something else than the sparse network.
    """
    for each in compressions:
        if each < 1:
            raise UserError(f"compression {each:g} would make the model larger; choose 1 or more, such as 4")
    if machine is not None and not isinstance(model, UnitList):
        raise UserError(f"latency is computed for unit lists, not for a {type(model).__name__}; leave the device out")
    made = []
    for compression in compressions:
        emptied = without_empty(sparse(model, compression, example), example, private=private)
        module = emptied.pruned.module
        known = counts(module, example[:1], emptied.pruned.support)
        made.append(
            Variant(
                compression=compression,
                emptied=emptied,
                counts=known,
                latency=None if machine is None else _latency(module, machine, batch),
                switching=None if machine is None else _switching(module, machine),
            )
        )
    return tuple(made)


def write(folder: Path, variants: Sequence[Variant], more: Sequence[Mapping[str, Any]] | None = None) -> None:
    """A folder of folders, one a variant (`fedsim.pruning.storing.read` reads it back, given its fused network), and
    `portfolio.json`, which says what each comes to.

    Args:
        more: what else that file is to say of each.

    Raises:
        UserError: the folder holds something, or cannot be written.
    """
    storing.check_free(folder)
    index = {}
    for each, said in zip(variants, more or [{}] * len(variants), strict=True):
        emptied, name = each.emptied, f"{each.compression:g}"
        place = folder / name
        storing.write(place, emptied.pruned, emptied.checks, ObjectBase(), each.counts, parent=emptied.fused)
        index[name] = {**each.data(), **said}
    (folder / "portfolio.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _latency(module: nn.Module, machine: Machine, batch: int) -> float:
    assert isinstance(module, UnitList)
    units = forward_side(deepcopy(module).to("meta"))
    return pricing.seconds(machine, forward_cost(units, batch, module.name))


def _switching(module: nn.Module, machine: Machine) -> float:
    """Of reading all tensors once and writing them once."""
    tensors = [*module.parameters(), *module.buffers()]
    elements, held = sum(t.numel() for t in tensors), sum(t.nbytes for t in tensors)
    return pricing.seconds(machine, Cost((Operator(OpClass.COPY, Phase.AGGREGATE, elements, 2 * held),)))
