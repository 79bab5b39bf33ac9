"""Removal of empty filters from a sparse, trained network, without changing what it computes (after DNNShifter).

A filter of zeros still writes its bias, and what comes of that further on. It goes where all that read it read zero,
or a constant that their own biases can take over: exact for linear layers, and for convolutions that pad with nothing.
Elsewhere it stays. Filters that nothing reads go as well. Each removal may empty others, so it is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from time import process_time
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fedsim import seeds
from fedsim.payload.supports import Support
from fedsim.pruning import counting
from fedsim.pruning.checks import Checks
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned, PruningError, fingerprint
from fedsim.pruning.reconvene.coupling import Coupling, UnitSet, couple
from fedsim.pruning.reconvene.curves import output_axis
from fedsim.pruning.reconvene.fusing import TOLERANCE, apart, fuse
from fedsim.pruning.reconvene.planning import kept_layers
from fedsim.pruning.reconvene.scores import scored
from fedsim.pruning.reconvene.tracing import Ints
from fedsim.pruning.resizing import sliced
from fedsim.pruning.verifying import verify
from fedsim.pruning.watching import evaluating

GONE: Final = ("zero", "folded", "unread")
"""What became of filters that went: nothing but zero was read of them, or a constant, or nothing at all."""
STAYED: Final = ("padded", "no bias", "varies", "grouped", "last")
"""Why empty filters stayed: a reader pads with zeros, or has no bias; what they write varies from place to place; a
norm looks at several channels; the layer has no other."""

_ROUNDS: Final = ((2**0.5, False), (2**0.5, False), (10.0, True), (10.0, True))
"""Of random weights: their scale, and whether biases widen it. Usual ones leave gates open, wide ones activations."""
_SAME: Final = 1e-9
"""Values in double precision that are no further apart are one constant."""


@dataclass(frozen=True, kw_only=True)
class Emptied:
    """A network without its empty filters."""

    fused: nn.Module
    """The parent of the cut: the network with its batch norms fused."""
    pruned: Pruned
    """Its masks are where weights were zero before, and still are."""
    checks: Checks
    difference: float
    """The greatest difference of outputs from the network that came in, as a share of the greatest output."""

    @property
    def removed(self) -> int:
        """How many units went."""
        units: Mapping[str, int] = self.pruned.realised["units"]
        return sum(units.get(fate, 0) for fate in GONE)


def without_empty(model: nn.Module, example: Tensor, *, private: bool = True) -> Emptied:
    """Fuse batch norms, and cut out every empty filter that can go; the model stays as it is.

    Args:
        example: inputs, the batch first, on which the outputs must be equal to 1e-5.
        private: whether the weights were trained on data of the devices, which the choice then tells of.

    Raises:
        UserError: torch-pruning cannot trace the model.
        PruningError: the smaller model computes something else; names the layer.
    """
    start = process_time()
    example = example if len(example) > 1 else torch.cat([example, example])
    fused = fuse(model, example)
    coupling = couple(fused, example)
    removal = _Removal(fused, coupling, example)
    while removal.round():
        pass
    kept = [np.flatnonzero(stays) for stays in removal.stays]
    support = coupling.support(kept)
    parameters, macs = coupling.counts(np.array([len(some) for some in kept], np.int64))
    plan = Plan(
        method="without-empty",
        parent=fingerprint(fused),
        seed=0,
        options={"density": removal.density},
        source="",
        kept=kept_layers(fused, coupling, support),
        parameters=parameters,
        macs=macs + counting.macs(fused, example) - coupling.counts(coupling.units)[1],
        privacy="device-private" if private else "public",
    )
    module = sliced(removal.updated(fused), support)
    updated = tuple(sorted(removal.biases))
    pruned = Pruned(module=module, plan=plan, support=support, updated=updated, realised={"units": removal.fates})
    cut = process_time()
    checks = verify(fused, pruned, example, nothing=True)
    difference = apart(model, module, example)
    if not difference <= TOLERANCE:
        raise PruningError(f"without its empty filters, the model's output differs by {difference:.2g} of its greatest")
    timings = {"cut": cut - start, "verify": process_time() - cut}
    sparse = {f"{name}.weight": w.ne(0).numpy() for name, w in scored(module).items() if not w.all()}
    pruned = replace(pruned, support=Support(support.axes, sparse), timings=timings)
    return Emptied(fused=fused, pruned=pruned, checks=checks, difference=difference)


class _Removal:
    """A removal at work on a copy of a fused model, in which the weights of what has gone are zero."""

    def __init__(self, fused: nn.Module, coupling: Coupling, example: Tensor) -> None:
        self._coupling, self._example = coupling, example
        self._working = deepcopy(fused).double().requires_grad_(False)
        weights = scored(self._working).values()
        self.density = sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)
        self._readers = sorted({port.layer for each in coupling.sets for port in each.places if port.side == "in"})
        self.stays = [np.ones(each.units, bool) for each in coupling.sets]
        self._fates = [np.full(each.units, "live", "U8") for each in coupling.sets]
        self.biases: set[str] = set()
        """Names of those that have taken over constants."""

    def round(self) -> bool:
        """Remove what is empty now; says whether anything was."""
        constants = _constants(self._working, self._readers, self._example)
        removed = 0
        for each, stays, known in zip(self._coupling.sets, self.stays, self._fates, strict=True):
            fates = self._judged(each, constants)
            gone = stays & np.isin(fates, GONE)
            if gone.any() and gone.sum() == stays.sum():
                fates[np.argmax(gone)] = "last"
                gone[np.argmax(gone)] = False
            known[stays] = fates[stays]
            stays[gone] = False
            self._remove(each, np.flatnonzero(gone), constants)
            removed += int(gone.sum())
        return removed > 0

    @property
    def fates(self) -> dict[str, int]:
        """How many units met each fate."""
        names, counts = np.unique(np.concatenate(self._fates), return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    def updated(self, fused: nn.Module) -> nn.Module:
        """The parent with the biases that took over constants."""
        made = deepcopy(fused)
        with torch.no_grad():
            for name in self.biases:
                made.get_parameter(name).copy_(self._working.get_parameter(name))
        return made

    def _judged(self, each: UnitSet, constants: Mapping[str, Tensor]) -> NDArray[np.str_]:
        """By unit, its fate now."""
        parts: dict[Any, nn.Module] = {port: self._working.get_submodule(port.layer) for port in each.places}
        writers = [p for p, part in parts.items() if p.side == "out" and isinstance(part, _ConvNd | nn.Linear)]
        empty = np.zeros(each.units, bool)
        for port in writers:
            empty |= ~_by_output(parts[port])[each.places[port]].flatten(1).any(1).numpy()
        fates = np.full(each.units, "live", "U8")
        fates[empty] = "zero"
        read = np.zeros(each.units, bool)
        for port in (p for p in parts if p.side == "in"):
            used = _by_output(parts[port]).transpose(0, 1)[each.places[port]].flatten(1).any(1).numpy()
            values = constants[port.layer][each.places[port]].numpy()
            read |= used
            reason = _unfoldable(parts[port])
            needed = empty & used & (values != 0).any(1)  # NaN is not 0
            fates[needed & np.isin(fates, GONE)] = "folded" if reason is None else reason
            fates[needed & np.isnan(values).any(1)] = "varies"
        fates[~read] = "unread"
        if any(isinstance(part, nn.GroupNorm) for part in parts.values()):
            fates[fates != "live"] = "grouped"
        return fates

    def _remove(self, each: UnitSet, gone: Ints, constants: Mapping[str, Tensor]) -> None:
        """Set what is read of units to zero, biases taking over what it was; and what they are made of."""
        for port, places in each.places.items():
            part = self._working.get_submodule(port.layer)
            if not isinstance(part, _ConvNd | nn.Linear):
                continue
            rows, channels = _by_output(part), places[gone].ravel()
            if port.side == "out":
                rows[channels] = 0
                continue
            taken = (rows[:, channels].flatten(2).sum(2) * constants[port.layer][channels].nan_to_num()).sum(1)
            if taken.any():
                assert part.bias is not None
                part.bias += taken
                self.biases.add(f"{port.layer}.bias")
            rows[:, channels] = 0


def _by_output(part: nn.Module) -> Tensor:
    """A view of a layer's weight, with the axis of its outputs first and that of its inputs next."""
    assert isinstance(part.weight, Tensor)
    weight = part.weight if part.weight.dim() > 2 else part.weight[:, :, None]
    return weight.transpose(0, 1) if output_axis(part) else weight


def _unfoldable(part: nn.Module) -> str | None:
    """Why a layer's bias cannot take over a constant that the layer reads."""
    pads = isinstance(part, _ConvNd) and part.padding_mode == "zeros" and any(part._reversed_padding_repeated_twice)
    if pads or isinstance(part, _ConvTransposeNd):
        return "padded"
    return "no bias" if part.bias is None else None


def _constants(model: nn.Module, readers: list[str], example: Tensor) -> dict[str, Tensor]:
    """By layer and channel, the constant that it reads there whatever the input; NaN where there is none.

    Seen by running the model with other weights in place of those that are not zero, and on other inputs.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in readers}

    def note(name: str) -> Any:
        def hook(_part: nn.Module, inputs: Any) -> None:
            values = inputs[0].transpose(0, 1).flatten(1)
            seen[name] += [values.amin(1), values.amax(1)]

        return hook

    generator = torch.Generator().manual_seed(seeds.derive(0, -1, "weights of a probe"))
    real = {name: weight.clone() for name, weight in scored(model).items()}
    handles = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in readers]
    given = example.double() if example.is_floating_point() else example
    inputs = torch.randn(given.shape, generator=generator, dtype=torch.float64) if given.is_floating_point() else given
    try:
        with evaluating(model), torch.no_grad():
            for scale, wide in _ROUNDS:
                _draw(model, real, scale, generator, wide=wide)
                model(inputs)
            for name, weight in real.items():
                scored(model)[name].copy_(weight)
            model(inputs)
            model(given)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, values in seen.items():
        least, most = torch.stack(values).amin(0), torch.stack(values).amax(0)
        same = most - least <= _SAME * (1 + most.abs())
        found[name] = torch.where(same, values[-1], torch.nan)
    return found


def _draw(
    model: nn.Module, real: Mapping[str, Tensor], scale: float, generator: torch.Generator, *, wide: bool
) -> None:
    """Random values for all weights that are not zero, by how many of them each filter has."""
    for name, weight in scored(model).items():
        axis = output_axis(model.get_submodule(name))
        there = real[name].transpose(0, axis).flatten(1) != 0
        spread = scale / there.sum(1, keepdim=True).clamp(min=1).sqrt()
        bias = model.get_submodule(name).bias
        if wide and isinstance(bias, Tensor) and len(bias) == len(spread):
            spread = spread * (1 + bias.abs()[:, None])
        drawn = torch.randn(there.shape, generator=generator, dtype=torch.float64) * spread * there
        weight.copy_(drawn.view(real[name].transpose(0, axis).shape).transpose(0, axis))
