"""Pictures of a report as inline SVG and HTML, drawn by hand: curves, stacked bars, columns a device.

Colours are classes of the style sheet, so one drawing serves light and dark pages. Every text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np

from fedsim.report.columns import Floats
from fedsim.report.idle import CAUSES
from fedsim.report.show import percent
from fedsim.units import human_count, human_seconds

STATES: Final = ("busy", *CAUSES)
COLOURS: Final = 8  # series classes in the style sheet, used in turn
_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 12, 44
_POINTS: Final = 1500  # of a curve; more cannot be told apart at this width
_HOVERED: Final = 120  # points of a curve that say what they are
_COLUMNS: Final = 400  # of a picture of devices

Write = Callable[[float], str]
Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """A line of (x, y), and where there are several runs of it, the lowest and highest y at each x."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    """x, lowest, highest."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What stands along the x axis: its name and unit, what it is divided by, and how one value is written."""

    label: str
    unit: float
    write: Write


def time_axis(longest: float) -> Axis:
    """Seconds, minutes or hours, as suits the longest run."""
    unit, name = next((pair for pair in ((3600.0, "h"), (60.0, "min")) if longest >= 2 * pair[0]), (1.0, "s"))
    return Axis(f"time, {name}", unit, human_seconds)


def amount_axis(what: str, most: float, unit: str) -> Axis:
    """Bytes or joules, with the prefix that suits the most."""
    prefixes = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    size, prefix = next((pair for pair in prefixes if most >= pair[0]), (1.0, ""))
    return Axis(f"{what}, {prefix}{unit}", size, lambda value: human_count(value, unit))


def curves(title: str, series: Sequence[Series], x_axis: Axis, write: Write) -> str:
    """A chart with a line a series, to be hovered over; only finite points are drawn."""
    drawn = [_finite(one) for one in series]
    xs = [point[0] / x_axis.unit for one in drawn for point in one.points]
    ys = [point[1] for one in drawn for point in one.points] + [
        y for one in drawn for edge in one.band for y in edge[1:]
    ]
    if not xs:
        return f'{_caption(title)}<p class="none">No value to show.</p></figure>'
    x_ticks, y_ticks = ticks(min(0.0, *xs), max(xs)), ticks(min(ys), max(ys))
    span_x, span_y = x_ticks[-1] - x_ticks[0], y_ticks[-1] - y_ticks[0]

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x / x_axis.unit - x_ticks[0]) / span_x * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (y - y_ticks[0]) / span_y * (_HEIGHT - _TOP - _BOTTOM)

    parts = _frame(title, _HEIGHT, [(at(0, y)[1], write(y)) for y in y_ticks])
    for x in x_ticks:
        across = at(x * x_axis.unit, 0)[0]
        parts.append(f'<text x="{across:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_axis.label)}</text>')
    for index, one in enumerate(drawn):
        parts += _line(one, style(index), at, x_axis, write)
    parts.append("</svg></figure>")
    return "".join(parts)


def _caption(title: str) -> str:
    """The beginning of a figure."""
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'


def _frame(title: str, height: int, levels: Sequence[tuple[float, str]]) -> list[str]:
    """The beginning of a picture, with a line and a text at each of some heights."""
    parts = [f'{_caption(title)}<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for down, said in levels:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{escape(said)}</text>')
    return parts


def _line(one: Series, colour: str, at: Place, axis: Axis, write: Write) -> list[str]:
    if not one.points:
        return []
    parts = [f'<g class="{colour}">']
    if one.band:
        edge = [at(x, low) for x, low, _ in one.band] + [at(x, high) for x, _, high in reversed(one.band)]
        parts.append(f'<polygon points="{_path(edge)}"/>')
    parts.append(f'<polyline points="{_path([at(*point) for point in one.points])}"/>')
    shown = one.points if len(one.points) <= _HOVERED else one.points[-1:]
    for x, y in shown:
        across, down = at(x, y)
        said = escape(f"{one.name}: {write(y)} at {axis.write(x)}")
        last = ' class="last"' if (x, y) == one.points[-1] else ""
        parts.append(f'<circle{last} cx="{across:.1f}" cy="{down:.1f}" r="4"><title>{said}</title></circle>')
    return [*parts, "</g>"]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def bar(shares: Sequence[float], classes: Sequence[str] = STATES, names: Sequence[str] = STATES) -> str:
    """A bar of fractions of its full width, by default a node's time in the order of `STATES`."""
    pieces = [
        f'<i class="{colour}" style="width:{share:.3%}" title="{escape(name)} {percent(share)}"></i>'
        for colour, name, share in zip(classes, names, shares, strict=True)
        if share > 0
    ]
    return f'<div class="bar">{"".join(pieces)}</div>'


def columns(title: str, values: Floats, groups: Sequence[int], colour: str, write: Write) -> str:
    """A column a device, groups side by side; of more devices than there is room for, means with the range of each.

    Args:
        values: one a device, in the order of groups.
        groups: how many devices each group has.
    """
    count, top = len(values), ticks(0.0, max(float(values.max(initial=0.0)), 1e-9))[-1]
    edges = np.linspace(0, count, min(count, _COLUMNS) + 1).round().astype(np.int64)
    room, high = _WIDTH - _LEFT - _RIGHT, 120
    levels = [(8 + high * (1 - level / top), write(level)) for level in (0.0, top / 2, top)]
    parts = [*_frame(title, high + 34, levels), f'<g class="{colour}">']
    width = room / (len(edges) - 1 or 1)
    for number, (low, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        some = values[low:end]
        tall = high * float(some.mean()) / top
        said = f"device {low}: {write(float(some[0]))}" if len(some) == 1 else _range(low, end, some, write)
        across, gap = _LEFT + number * width, min(width * 0.2, 2)
        parts.append(
            f'<rect x="{across:.2f}" y="{8 + high - tall:.1f}" width="{width - gap:.2f}" height="{tall:.1f}">'
            f"<title>{escape(said)}</title></rect>"
        )
    parts.append("</g>")
    reached = 0
    for index, size in enumerate(groups):
        across = _LEFT + room * (reached + size / 2) / max(count, 1)
        reached += size
        if room * size / max(count, 1) > 24:
            parts.append(f'<text x="{across:.1f}" y="{high + 24}" text-anchor="middle">group {index}</text>')
            if reached < count:
                edge = _LEFT + room * reached / count
                parts.append(f'<line class="grid" x1="{edge:.1f}" x2="{edge:.1f}" y1="8" y2="{high + 28}"/>')
    return "".join((*parts, "</svg></figure>"))


def _range(low: int, end: int, some: Floats, write: Write) -> str:
    return f"devices {low} to {end - 1}: {write(float(some.min()))} to {write(float(some.max()))}"


def legend(entries: Sequence[tuple[str, str]], least: int = 1) -> str:
    """Class and name of each colour; nothing where there are fewer than `least`."""
    if len(entries) < least:
        return ""
    keys = "".join(f'<span><i class="{colour}"></i>{escape(name)}</span>' for colour, name in entries)
    return f'<div class="legend">{keys}</div>'


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that enclose `[low, high]`."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def style(index: int) -> str:
    """Class of the line of that number: a colour; once these are used up, the same ones dashed, then dotted."""
    again = index // COLOURS
    return f"s{index % COLOURS}" + ("" if again == 0 else " dashed" if again % 2 else " dotted")


def _finite(one: Series) -> Series:
    points = [point for point in _thinned(one.points) if all(map(math.isfinite, point))]
    band = [edge for edge in one.band if all(map(math.isfinite, edge))]
    return Series(one.name, points, band)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every n-th point, and always the last."""
    step = -(-len(points) // _POINTS) or 1
    return [*points[::step], *([points[-1]] if len(points) and (len(points) - 1) % step else [])]
