"""Who holds what, in numbers and as text: a row a device, a shade a class. Pure functions of shards and labels."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.data.shards import Shards

SHADES: Final = "·▁▂▃▄▅▆▇█"
"""None, then eighths of the largest number among the devices shown; a device with few of a class still shows `▁`."""

WIDEST: Final = 50
"""Columns for classes; more classes share columns."""

ALL_UP_TO: Final = 16
"""Devices that are all listed; of more, the first and the last `ENDS`."""
ENDS: Final = 4


def holdings(shards: Shards, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Samples of each class on each device, (devices, classes); of text, tokens instead of samples."""
    per_sample = labels if labels.ndim == 2 else labels[:, None]
    counts = np.zeros(len(shards) * classes, np.int64)
    holders = shards.holders() * classes
    for start in range(0, len(holders), 2**18):  # flat memory for long samples
        part = slice(start, start + 2**18)
        counts += np.bincount(
            (holders[part, None] + per_sample[shards.indices[part]]).ravel(), minlength=len(shards) * classes
        )
    return counts.reshape(len(shards), classes)


def holdings_table(shards: Shards, labels: NDArray[np.int64], classes: int) -> str:
    """A compact table for people: samples, classes held and a shade a class for each device, then the spread."""
    sizes = shards.sizes()
    counts = holdings(shards, labels, classes)
    held = (counts > 0).sum(axis=1)
    columns = min(classes, WIDEST)
    binned = np.add.reduceat(counts, np.arange(columns) * classes // columns, axis=1)
    devices = len(shards)
    shown = list(range(devices))
    if devices > ALL_UP_TO:
        shown = [*range(ENDS), *range(devices - ENDS, devices)]
    shades = _shades(binned[shown])
    what = "class" if columns == classes else f"class ({classes} in {columns} columns)"
    width = max(7, len(f"{int(sizes.sum()):,}"))
    lines = [f"{'device':>8}  {'samples':>{width}}  {'classes':>7}  {what}"]
    for position, device in enumerate(shown):
        if position and device != shown[position - 1] + 1:
            lines.append(f"{'…':>8}  {'…':>{width}}  {'…':>7}  {device - shown[position - 1] - 1:,} more")
        lines.append(f"{device:>8}  {sizes[device]:>{width},}  {held[device]:>7,}  {shades[position]}")
    for name, pick in (("min", np.min), ("median", np.median), ("max", np.max)):
        lines.append(f"{name:>8}  {float(pick(sizes)):>{width},.10g}  {float(pick(held)):>7,.10g}")
    total = counts.sum(axis=0)
    spread = _shades(np.add.reduceat(total, np.arange(columns) * classes // columns)[None, :])[0]
    lines.append(f"{'all':>8}  {int(sizes.sum()):>{width},}  {int((total > 0).sum()):>7,}  {spread}")
    return "\n".join(lines)


def _shades(counts: NDArray[np.int64]) -> list[str]:
    steps = len(SHADES) - 1
    levels = -(-counts * steps // max(1, int(counts.max())))  # rounded up, so only nothing is drawn as nothing
    return ["".join(SHADES[level] for level in row) for row in levels]
