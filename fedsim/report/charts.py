"""Pictures of a report as inline SVG and HTML, drawn by hand: curves over time, and bars stacked by cause.

Colours are classes of the style sheet, so one drawing serves light and dark pages. Every text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from fedsim.report.idle import CAUSES
from fedsim.report.show import percent

STATES: Final = ("busy", *CAUSES)
COLOURS: Final = 8  # series classes in the style sheet, used in turn
_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 40
_POINTS: Final = 1500  # of a curve; more cannot be told apart at this width

Series = tuple[str, Sequence[tuple[float, float]]]


def curves(series: Sequence[Series], x_label: str, y_label: str, write: Callable[[float], str]) -> str:
    """Lines of (x, y) on common axes, with a legend where there are several; only finite points are drawn."""
    drawn = [(name, [p for p in _thinned(points) if all(map(math.isfinite, p))]) for name, points in series]
    everything = [point for _, points in drawn for point in points]
    if not everything:
        return '<p class="none">No evaluation was recorded.</p>'
    x_ticks = ticks(min(0.0, *(x for x, _ in everything)), max(x for x, _ in everything))
    y_ticks = ticks(min(y for _, y in everything), max(y for _, y in everything))
    span_x, span_y = x_ticks[-1] - x_ticks[0], y_ticks[-1] - y_ticks[0]

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_ticks[0]) / span_x * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (y - y_ticks[0]) / span_y * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for y in y_ticks:
        down = at(x_ticks[0], y)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{escape(write(y))}</text>')
    for x in x_ticks:
        across = at(x, y_ticks[0])[0]
        parts.append(f'<text x="{across:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    for index, (name, points) in enumerate(drawn):
        if points:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
            last_x, last_y = at(*points[-1])
            said = escape(f"{name}: {write(points[-1][1])} at {points[-1][0]:g} s")
            parts.append(f'<g class="{_style(index)}"><title>{said}</title><polyline points="{path}"/>')
            parts.append(f'<circle cx="{last_x:.1f}" cy="{last_y:.1f}" r="4"/></g>')
    parts.append("</svg>")
    return "".join(parts) + (legend([(_style(i), name) for i, (name, _) in enumerate(drawn)], 2))


def bar(shares: Sequence[float]) -> str:
    """A bar of fractions of one node or group, in the order of `STATES`."""
    pieces = [
        f'<i class="{state}" style="width:{share:.3%}" title="{state} {percent(share)}"></i>'
        for state, share in zip(STATES, shares, strict=True)
        if share > 0
    ]
    return f'<div class="bar">{"".join(pieces)}</div>'


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


def _style(index: int) -> str:
    """Class of the line of that number: a colour; once these are used up, the same ones dashed, then dotted."""
    again = index // COLOURS
    return f"s{index % COLOURS}" + ("" if again == 0 else " dashed" if again % 2 else " dotted")


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every n-th point, and always the last."""
    step = -(-len(points) // _POINTS) or 1
    return [*points[::step], *([points[-1]] if len(points) and (len(points) - 1) % step else [])]
