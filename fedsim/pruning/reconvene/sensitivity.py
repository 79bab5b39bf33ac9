"""The sensitivity evaluator: which layers a network can lose filters of, from the densities of a mask.

A layer that the score keeps dense is one that the network cannot lose; those less dense than `tau` are resilient. Each
unit set has one density. Knows nothing of budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fedsim.pruning.reconvene.coupling import Coupling, UnitSet
from fedsim.pruning.reconvene.curves import Curve, Floats, output_axis
from fedsim.pruning.reconvene.options import Reconvene
from fedsim.pruning.reconvene.tracing import Port, is_depthwise


class Sensitivity:
    """Densities and unit scores of the sets of a model, along a curve."""

    def __init__(self, model: nn.Module, coupling: Coupling, curve: Curve, options: Reconvene) -> None:
        self.coupling, self.curve, self._options = coupling, curve, options
        self._modules = dict(model.named_modules())
        self._sizes = dict(zip(curve.layers, curve.sizes, strict=True))
        self._blind = frozenset(name for name in curve.layers if not curve.filters[name][0].any())
        self._judged = self._layers(options)

    @property
    def blind(self) -> tuple[str, ...]:
        """Layers of which the score says nothing, such as those behind a saturated gate."""
        return tuple(name for name in self.curve.layers if name in self._blind)

    def densities(self, step: float) -> Floats:
        """By set, the mean of the densities of the layers that make its units, weighted by their parameters there.

        Where the score says nothing of them, that of what they read.
        """
        by_layer = self.curve.at(step)
        found = [self._mean(each, by_layer) for each in self.coupling.sets]
        for number, value in enumerate(found):
            if value is None:
                read = [found[other] for other in self._reads[number] if found[other] is not None]
                found[number] = float(np.mean(np.array(read, np.float64))) if read else 1.0
        return np.array(found, np.float64)

    def tau(self, step: float) -> float:
        """The density below which a layer is resilient."""
        rule = self._options.tau
        if not isinstance(rule, str):
            return float(rule)
        by_layer = self.curve.at(step)
        if rule == "global":
            kept = sum(by_layer[name] * self._sizes[name] for name in self.curve.layers)
            return kept / sum(self.curve.sizes)
        densities = [by_layer[name] for name in self._judged]
        if not densities:
            return 0.0
        if rule == "mean":
            return float(np.mean(densities))
        return float(np.quantile(densities, float(rule.partition(":")[2])))

    def resilient(self, step: float) -> NDArray[np.bool_]:
        """By set, whether its layers are resilient."""
        found: NDArray[np.bool_] = self.densities(step) < self.tau(step)
        return found

    def scores(self, number: int, step: float) -> Floats:
        """By unit of a set, the summed scores of its filters; where there are none, their absolute weights."""
        each = self.coupling.sets[number]
        total = np.zeros(each.units)
        for name in each.layers:
            total += self.curve.ranking(name, step)[each.places[Port(name, "out")]].sum(1)
        if total.any():
            return total
        for name in each.layers:
            part = self._modules[name]
            assert isinstance(part.weight, Tensor)
            sums = part.weight.detach().abs().transpose(0, output_axis(part)).flatten(1).sum(1).double().numpy()
            total += sums[each.places[Port(name, "out")]].sum(1)
        return total

    def _mean(self, each: UnitSet, by_layer: dict[str, float]) -> float | None:
        weights, values = [], []
        for name in each.layers:
            if name not in self._blind:
                share = each.places[Port(name, "out")].size / self.coupling.traced.widths[Port(name, "out")]
                weights.append(share * self._sizes[name])
                values.append(by_layer[name])
        return float(np.average(values, weights=weights)) if weights else None

    @cached_property
    def _reads(self) -> list[list[int]]:
        """By set, the sets that the layers which make it read."""
        sets = self.coupling.sets
        return [
            [n for n, other in enumerate(sets) if any(Port(name, "in") in other.places for name in each.layers)]
            for each in sets
        ]

    def _layers(self, options: Reconvene) -> tuple[str, ...]:
        """The layers whose densities are averaged: convolutions, or linear layers where there are none."""
        seen: Sequence[str] = [name for name in self.curve.layers if name not in self._blind]
        if options.tau_scope == "scope":
            makers = {name for each in self.coupling.sets for name in each.layers}
            seen = [name for name in seen if name in makers]
        modules = self._modules
        convolutions = [n for n in seen if isinstance(modules[n], _ConvNd) and not is_depthwise(modules[n])]
        return tuple(convolutions or seen)
