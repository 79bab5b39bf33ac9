"""Devices whose labels, put together, are spread like those of all devices: a choice by Kullback-Leibler divergence.

Liao et al., arXiv 2311.13348, choose by a genetic algorithm; here one device is drawn, the others join it greedily, and
members are exchanged as long as that brings the mixture nearer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Amounts = NDArray[np.float64] | NDArray[np.int64]


def divergence(mixtures: Amounts, target: Amounts) -> Any:
    """KL(mixture ‖ target) of amounts by label, a row (or the only one) each; labels that nobody has count nothing."""
    share = mixtures / mixtures.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(share > 0, share * np.log(share / (target / target.sum())), 0.0)
    return terms.sum(axis=-1)


def balanced(amounts: Mapping[int, Amounts], target: Amounts, size: int, rng: np.random.Generator) -> tuple[int, ...]:
    """`size` of the devices, sorted, whose amounts by label add up to a mixture that is near to `target`.

    The first is drawn, so that all have turns.

    Args:
        amounts: what each device would bring, by label; labels that it has, `target` has too.
        target: the distribution to be near to.
        size: how many to choose.
        rng: draws the first.
    """
    devices = sorted(amounts)
    if size >= len(devices):
        return tuple(devices)
    rows = np.array([amounts[k] for k in devices], np.float64)
    first = int(rng.integers(len(devices)))
    chosen, total = [first], rows[first].copy()
    while len(chosen) < size:
        distance = divergence(total + rows, target)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
        total += rows[chosen[-1]]
    _exchange(chosen, rows, target)
    return tuple(devices[i] for i in sorted(chosen))


def _exchange(chosen: list[int], rows: NDArray[np.float64], target: Amounts) -> None:
    """Replace members, but for the first, by others as long as some replacement brings the mixture nearer."""
    best = float(divergence(rows[chosen].sum(axis=0), target))
    for _ in chosen:  # each pass makes the best replacement; more would be slow, and were hardly ever better
        found: tuple[float, int, int] | None = None
        for place in range(1, len(chosen)):
            distance = divergence(rows[_without(chosen, place)].sum(axis=0) + rows, target)
            distance[chosen] = np.inf
            other = int(distance.argmin())
            if distance[other] < best - 1e-12:
                best, found = float(distance[other]), (float(distance[other]), place, other)
        if found is None:
            return
        chosen[found[1]] = found[2]


def _without(chosen: Sequence[int], place: int) -> list[int]:
    return [*chosen[:place], *chosen[place + 1 :]]
