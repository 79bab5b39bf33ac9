"""A sweep on a page: a grid for each figure, rows by the first axis, columns by the second, darker where it is better.

A third axis and those after it part the grids; one axis alone has a row for each figure. Knows a comparison's table and
how pages are written; nothing of scenarios and folders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from typing import Final

from fedsim.report.comparison import Column, Table
from fedsim.report.pages import cell, section, table
from fedsim.report.show import MISSING

_SHOWN: Final = (
    "final_",
    "time_to_",
    "seconds",
    "end_to_end_samples_per_s",
    "devices_idle",
    "server_idle",
    "bytes_total",
    "devices_joules",
)
"""Keys, or beginnings of keys, of the figures that have a grid, in their order."""

_WIDE: Final = 20
"""Where the largest value is so many times the least, shades go by the logarithm."""

_DARKEST: Final = 60  # percent of the colour, so that text stays readable on it
_DIRECTIONS: Final = {1: "more is better", -1: "less is better", 0: "neither more nor less is better"}


@dataclass(frozen=True)
class Overview:
    """What stands above the runs on a page of many: its title, and sections in HTML."""

    title: str
    sections: Sequence[str]


def overview(found: Table, title: str, note: str = "") -> Overview:
    """The grids of a sweep's figures. `note` says what else there is on the page."""
    said = f"<p>{escape(note)}</p>" if note else ""
    return Overview(title, [section("The sweep", '<div class="charts">', *grids(found), "</div>", said)])


def grids(found: Table) -> Iterator[str]:
    """A table a figure or, for one axis, one table with a row a figure."""
    axes = axes_of(found)
    columns = list(_chosen(found))
    labels = {tuple(one.at.values()): one.label for one in found.outcomes}
    names = list(axes)
    if len(names) == 1:
        (values,) = axes.values()
        rows = [
            [
                cell(f"{column.label}, {_DIRECTIONS[column.better]}"),
                *_cells(found, column, [labels[v,] for v in values]),
            ]
            for column in columns
        ]
        yield table([names[0], *values], rows)
        return
    across, down = names[1], names[0]
    for column, rest in product(columns, product(*(axes[name] for name in names[2:]))):
        within = "".join(f", {name} {value}" for name, value in zip(names[2:], rest, strict=True))
        keys = [(first, second, *rest) for first, second in product(axes[down], axes[across])]
        cells = _cells(found, column, [labels[key] for key in keys])
        size = len(axes[across])
        rows = [[cell(name), *cells[n * size : (n + 1) * size]] for n, name in enumerate(axes[down])]
        caption = f"{column.label}{within} ({_DIRECTIONS[column.better]})"
        yield table([f"{down} ╲ {across}", *axes[across]], rows, caption)


def axes_of(found: Table) -> dict[str, list[str]]:
    """The axes by name, each with its choices in their order."""
    axes: dict[str, dict[str, None]] = {}
    for one in found.outcomes:
        for name, choice in one.at.items():
            axes.setdefault(name, {})[choice] = None
    return {name: list(choices) for name, choices in axes.items()}


def _chosen(found: Table) -> Iterator[Column]:
    for key in _SHOWN:
        yield from (c for c in found.columns if c.key == key or (key.endswith("_") and c.key.startswith(key)))


def _cells(found: Table, column: Column, labels: Sequence[str]) -> list[str]:
    """The cells of a figure, shaded among each other."""
    means = {label: found.statistic(label, column).mean for label in labels}
    shades = _shades(means, column.better)
    best = {label for label in found.best(column) if label in means}
    return [_cell(found, column, label, shades.get(label), best=label in best) for label in labels]


def _cell(found: Table, column: Column, label: str, shade: float | None, *, best: bool) -> str:
    text = found.statistic(label, column).text(column.write)
    if text == MISSING:
        state = {one.status for one in found.outcomes if one.label == label} - {"done"}
        return cell(", ".join(sorted(state)) or MISSING, "none")
    if shade is None:
        return cell(text)
    kind = "heat best" if best else "heat"
    return f'<td class="{kind}" style="--heat: {shade * _DARKEST:.0f}">{escape(text)}</td>'


def _shades(means: Mapping[str, float | None], better: int) -> dict[str, float]:
    """From 0 for the worst to 1 for the best of the finite values; where neither end is better, for the largest."""
    known = {label: mean for label, mean in means.items() if mean is not None and math.isfinite(mean)}
    if not known:
        return {}
    least, most = min(known.values()), max(known.values())
    if least == most:
        return dict.fromkeys(known, 0.0)
    if least > 0 and most / least > _WIDE:
        known = {label: math.log(value) for label, value in known.items()}
        least, most = math.log(least), math.log(most)
    shares = {label: (value - least) / (most - least) for label, value in known.items()}
    return {label: 1 - share for label, share in shares.items()} if better < 0 else shares
