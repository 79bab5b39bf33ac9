"""What can be cut out of a model, and what it comes to: units that several layers share, and exact counts.

A unit is a channel with everything that is one with it. Units that the same layers share form a set, of which one
decision is made: how many stay, and which. Parameters and MACs after a cut are products of widths, so they are known
before it. Knows nothing of scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fedsim.payload.supports import Axes, Support
from fedsim.payload.windows import Channels, Windows
from fedsim.pruning.reconvene.tracing import Ints, Port, Traced, is_depthwise, trace


@dataclass(frozen=True, eq=False)
class UnitSet:
    """Units that the same layers share."""

    layers: tuple[str, ...]
    """Convolutions and linear layers that make them, in the order of the forward."""
    units: int
    places: Mapping[Port, Ints]
    """By port (units, places): where each unit lies; in several places of a layer that reads flattened maps."""

    @property
    def name(self) -> str:
        """For people: the first layer that makes them."""
        return self.layers[0]


class Coupling:
    """The unit sets of a model that may be cut.

    Args:
        scope: modules outside of which nothing changes shape; empty is the whole model.
    """

    def __init__(self, model: nn.Module, traced: Traced, scope: Sequence[str] = ()) -> None:
        self.traced = traced
        self._modules = dict(model.named_modules())
        self.sets = tuple(self._sets(scope))
        self.units = np.array([each.units for each in self.sets], np.int64)
        """By set, how many there are."""
        ports = {port: number for number, port in enumerate(traced.widths)}
        self._widths = np.array([*traced.widths.values(), 1], np.int64)
        self._shares = np.zeros((len(ports) + 1, len(self.sets)), np.int64)  # places of a unit in a port
        for number, each in enumerate(self.sets):
            for port, places in each.places.items():
                self._shares[ports[port], number] = places.shape[1]
        self._axes = dict(self._tensors(model))
        state = model.state_dict()
        one, rows = len(ports), []
        for name, parameter in model.named_parameters():
            ends = [ports[port] for port in self._axes.get(name, ()) if port is not None]
            fixed = parameter.numel() // int(np.prod([self._widths[end] for end in ends], dtype=np.int64))
            layer, _, tensor = name.rpartition(".")
            swept = traced.positions.get(layer, 0) if tensor == "weight" else 0
            rows.append((fixed, *[*ends, one, one][:2], swept))
        self._inside = np.array([_inside(name, scope) for name, _ in model.named_parameters()], bool)
        self._table = np.array(rows, np.int64).reshape(-1, 4)
        self._shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def counts(self, kept: Ints, *, scope: bool = False) -> tuple[int, int]:
        """Parameters, and MACs of convolutions and linear layers for a sample, where each set keeps so many units.

        Args:
            scope: count what lies in the scope alone.
        """
        widths = self._widths - self._shares @ (self.units - kept)
        fixed, first, second, swept = (self._table[self._inside] if scope else self._table).T
        elements = fixed * widths[first] * widths[second]
        return int(elements.sum()), int((elements * swept).sum())

    def support(self, chosen: Sequence[Ints]) -> Support:
        """What a model keeps whose sets keep these units."""
        gone: dict[Port, list[Ints]] = {}
        for each, kept in zip(self.sets, chosen, strict=True):
            out = np.ones(each.units, bool)
            out[kept] = False
            if out.any():
                for port, places in each.places.items():
                    gone.setdefault(port, []).append(places[out].ravel())
        left = {port: _without(self.traced.widths[port], parts) for port, parts in gone.items()}
        axes: dict[str, Axes] = {}
        for name, ports in self._axes.items():
            found: Axes = tuple(None if port is None else left.get(port) for port in ports)
            if any(kept is not None for kept in found):
                axes[name] = found
        return Support(axes)

    def windows(self, kept: Sequence[int], step: int) -> Windows:
        """Windows over the sets of which not all units stay, as wide as these numbers say."""
        found = []
        for each, count in zip(self.sets, kept, strict=True):
            if count < each.units:
                places = {
                    (name, axis): each.places[port]
                    for name, ports in self._axes.items()
                    for axis, port in enumerate(ports)
                    if port is not None and port in each.places
                }
                found.append(Channels(each.units, count, places))
        return Windows(found, self._shapes, step)

    def width(self, layer: str) -> int:
        """How many outputs a layer of the parent has."""
        return self.traced.widths[Port(layer, "out")]

    def outputs(self, support: Support, layer: str) -> Ints:
        """The outputs that a layer keeps."""
        port = Port(layer, "out")
        name = f"{layer}.weight"
        kept = support.axes[name][self._axes[name].index(port)] if name in support.axes else None
        return np.arange(self.traced.widths[port]) if kept is None else kept

    def chosen(self, outputs: Mapping[str, Sequence[int]]) -> list[Ints]:
        """By set, the units that stay where the first layers of the sets keep these outputs; all, of layers not named.

        Raises:
            ValueError: of a unit in several places, only some are kept.
        """
        found = []
        for each in self.sets:
            kept = outputs.get(each.name)
            inside = np.ones(each.units, bool)
            if kept is not None:
                there: NDArray[np.bool_] = np.isin(each.places[Port(each.name, "out")], np.array(kept, np.int64))
                inside = there[:, 0]
                if (there != inside[:, None]).any():
                    raise ValueError(f"{each.name}: outputs that belong together are kept in part")
            found.append(np.flatnonzero(inside))
        return found

    def _sets(self, scope: Sequence[str]) -> Iterator[UnitSet]:
        traced = self.traced
        members: dict[int, list[tuple[Port, int]]] = {}
        for port, row in traced.component.items():
            for index, unit in enumerate(row.tolist()):
                members.setdefault(unit, []).append((port, index))
        groups: dict[tuple[Port, ...], list[list[tuple[Port, int]]]] = {}
        for unit, places in members.items():
            if unit not in traced.whole:
                groups.setdefault(tuple(port for port, _ in places), []).append(places)
        order = {name: number for number, name in enumerate(traced.order)}
        found = []
        for ports, units in groups.items():
            makers = {port.layer for port in ports if port.side == "out" and self._makes(port.layer)}
            layers = tuple(sorted(makers, key=lambda name: order.get(name, len(order))))
            if not layers or not all(_inside(port.layer, scope) for port in ports):
                continue
            first = Port(layers[0], "out")
            units.sort(key=lambda places: min(index for port, index in places if port == first))
            by_port = {
                port: np.array([[index for p, index in places if p == port] for places in units], np.int64)
                for port in dict.fromkeys(ports)
            }
            found.append(UnitSet(layers, len(units), by_port))
        return iter(sorted(found, key=lambda each: (order.get(each.name, len(order)), each.places[_first(each)][0, 0])))

    def _makes(self, layer: str) -> bool:
        part = self._modules[layer]
        return isinstance(part, _ConvNd | nn.Linear) and not is_depthwise(part)

    def _tensors(self, model: nn.Module) -> Iterator[tuple[str, tuple[Port | None, ...]]]:
        """By tensor of the model, the port that each axis belongs to."""
        for name, tensor in model.state_dict().items():
            layer, _, own = name.rpartition(".")
            part = self._modules.get(layer)
            out, into = Port(layer, "out"), Port(layer, "in")
            if part is None or (out not in self.traced.widths and into not in self.traced.widths) or not tensor.dim():
                continue
            ports: list[Port | None] = [None] * tensor.dim()
            if own == "weight" and tensor.dim() > 1:
                turned = isinstance(part, _ConvTransposeNd) and not is_depthwise(part)
                ports[:2] = [into, out] if turned else [out, None if is_depthwise(part) else into]
            else:
                ports[0] = out
            yield name, tuple(port if port in self.traced.widths else None for port in ports)


def couple(model: nn.Module, example: Tensor, *, scope: Sequence[str] = (), protected: Sequence[str] = ()) -> Coupling:
    """Trace a model, which stays as it is.

    Args:
        example: inputs, the batch first; at least two samples tell the batch from other axes.

    Raises:
        UserError: as `trace`.
    """
    if len(example) == 1:
        example = torch.cat([example, example])
    return Coupling(model, trace(model, example, protected), scope)


def _first(each: UnitSet) -> Port:
    return Port(each.name, "out")


def _inside(layer: str, scope: Sequence[str]) -> bool:
    return not scope or any(layer == name or layer.startswith(f"{name}.") for name in scope)


def _without(width: int, parts: Sequence[Ints]) -> Ints:
    inside: NDArray[np.bool_] = np.ones(width, bool)
    inside[np.concatenate(list(parts))] = False
    return np.flatnonzero(inside)
