"""Variation: what a work takes on one machine of many that are called alike, on one day, cold or hot.

On top of the price of a kind of machine come, each from (seed, node, purpose) and each off where the profile does not
give it:

* `spread`, a factor of the machine, drawn once a node;
* `jitter`, a factor of the work, drawn once a price;
* heat. Computing heats a machine for as long as it lasts, idling cools it for as long. With `after` seconds of heat it
  is hot, and stays so until no heat is left, that is, after computing for `after` seconds on end until it has idled for
  as many. While it is hot, its rates are multiplied by `factor`; a work that makes it hot is slowed from there on.

The factors are log-normal with mean 1. Knows nodes by number and moments in nanoseconds; has no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

from fedsim import seeds
from fedsim.costs import Cost
from fedsim.hardware.machines import Machine
from fedsim.hardware.pricing import nanoseconds

_NORMAL: Final = NormalDist()


def factor(seed: int, node: int, purpose: str, number: int, variation: float) -> float:
    """A log-normal number with mean 1 and coefficient of variation `variation`, by (seed, node, purpose, number)."""
    variance = math.log1p(variation**2)
    # 52 of the 63 bits and a half: exactly a double, never 0 nor 1
    uniform = ((seeds.derive(seed, node, purpose, number) >> 11) + 0.5) * 2.0**-52
    return math.exp(math.sqrt(variance) * _NORMAL.inv_cdf(uniform) - variance / 2)


@dataclass(slots=True)
class Heat:
    """The heat of one machine, in nanoseconds of computing, from 0 to `after`.

    Works are told in the order of their starts; those that run side by side, in any order, and they heat it once. A
    work that is cut off heats it to the end that it would have had.
    """

    factor: float
    after: int
    amount: int = 0
    """At `end`."""
    hot: bool = False
    since: int = 0
    """When it became hot; while it is."""
    end: int = 0
    """Of the last work; what lies before it since the last pause is busy."""

    def slowed(self, start: int, duration: int) -> int:
        """Nanoseconds of a work that would take `duration` on a cold machine."""
        if start > self.end:
            self.amount = max(0, self.amount - (start - self.end))
            self.end = start
            self.hot = self.hot and self.amount > 0
        left = max(0, self.since - start) if self.hot else self.after - self.amount + self.end - start
        cold = min(duration, left)
        lasts = cold + math.ceil((duration - cold) / self.factor)
        if start + lasts > self.end:
            if not self.hot and self.amount + start + lasts - self.end >= self.after:
                self.hot, self.since = True, self.end + self.after - self.amount
            self.amount = min(self.after, self.amount + start + lasts - self.end)
            self.end = start + lasts
        return lasts


@dataclass(slots=True)
class _Kind:
    """Nodes of one machine, with the prices that they have in common."""

    machine: Machine
    prices: dict[Cost, int] = field(default_factory=dict)
    varies: bool = field(init=False)

    def __post_init__(self) -> None:
        machine = self.machine
        self.varies = machine.variation.jitter > 0 or machine.variation.spread > 0 or machine.thermal is not None

    def nominal(self, cost: Cost) -> int:
        price = self.prices.get(cost)
        if price is None:
            price = self.prices[cost] = nanoseconds(self.machine, cost)
        return price


@dataclass(slots=True)
class _Node:
    """What a node has that its like have not."""

    spread: float
    heat: Heat | None
    works: int = 0
    """Priced so far."""


class Clockwork:
    """The time that works take on every node of a run.

    A node takes memory of its own only when it is first priced, and only if its machine varies at all.

    Args:
        groups: the machines of the devices, numbered from 0 through the groups, with how many devices have it.
        server: the machine of node -1.
        seed: of the run.
    """

    def __init__(self, groups: Iterable[tuple[Machine, int]], server: Machine, seed: int) -> None:
        self._kinds: list[_Kind] = []  # of each device, then of the server, which is node -1
        kinds: dict[Machine, _Kind] = {}
        for machine, count in (*groups, (server, 1)):
            kind = kinds.setdefault(machine, _Kind(machine))
            self._kinds.extend([kind] * count)
        self._seed = seed
        self._nodes: dict[int, _Node] = {}

    def price(self, node: int, cost: Cost, start: int) -> int:
        """Nanoseconds that `cost` takes on `node`, if it starts at `start`; asked once a work, in the order of starts.

        Raises:
            RunError, UserError: as `pricing.seconds`.
        """
        kind = self._kinds[node]
        price = kind.prices.get(cost)
        if price is None:
            price = kind.nominal(cost)
        return self._varied(node, kind.machine, price, start) if kind.varies else price

    def nominal(self, node: int, cost: Cost) -> int:
        """Nanoseconds that `cost` takes on a cold machine that is like `node` says, without any variation.

        Raises:
            RunError, UserError: as `pricing.seconds`.
        """
        return self._kinds[node].nominal(cost)

    def _varied(self, node: int, machine: Machine, price: int, start: int) -> int:
        state = self._nodes.get(node)
        if state is None:
            state = self._nodes[node] = self._first(node, machine)
        scale = state.spread
        if machine.variation.jitter > 0:
            scale *= factor(self._seed, node, "jitter", state.works, machine.variation.jitter)
            state.works += 1
        if scale != 1.0:
            price = max(1, math.ceil(price * scale))
        return price if state.heat is None else state.heat.slowed(start, price)

    def _first(self, node: int, machine: Machine) -> _Node:
        variation, thermal = machine.variation, machine.thermal
        spread = factor(self._seed, node, "spread", 0, variation.spread) if variation.spread > 0 else 1.0
        heat = None if thermal is None else Heat(thermal.factor, round(thermal.after * 1e9))
        return _Node(spread, heat)
