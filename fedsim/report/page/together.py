"""Sections in which all systems of a page stand together: who wins, figures, curves, bytes, what it all rests on.

Knows systems and their summaries; what a single system has to itself is in `alone`. Texts from runs are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any, Final

from fedsim.report import charts
from fedsim.report.comparison import Grid, grids
from fedsim.report.page import assumptions, verdict
from fedsim.report.page.systems import System, caption, over, tabled
from fedsim.report.pages import cell, section, table
from fedsim.report.show import figures
from fedsim.report.traffic import DIRECTIONS
from fedsim.units import human_count

_SIDE_BY_SIDE: Final = 8  # systems that stand in columns
_PURPOSES: Final = ("activations", "gradients", "weights", "labels", "control")
_HUES: Final = tuple(f"s{number}" for number in range(len(_PURPOSES)))
_bytes: Final = partial(human_count, unit="B")


def key_figures(found: Sequence[System]) -> str:
    """At a glance: of one system its key figures and what it did; of several, who wins by what, and why."""
    summaries = [run.summary for system in found for run in system.runs]
    labels = dict.fromkeys(summary["energy_label"] for summary in summaries)
    energy = "".join(f"<p>Energy: {escape(label)}.</p>" for label in labels)
    if len(found) == 1:
        first = found[0].first.summary
        tiles = (_tile(figure.text(first), figure.label) for figure in figures([first]))
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in verdict.about(found[0]))
        return section("Key figures", f'<div class="tiles">{"".join(tiles)}</div><ul>{said}</ul>{energy}')
    tiles = (_tile(win.winner, f"{win.figure}: {win.value} ({win.margin})") for win in verdict.wins(tabled(found)))
    why = (f"<li><b>{escape(system.name)}</b>: {escape(' '.join(verdict.times(system)))}</li>" for system in found)
    wins = f'<div class="tiles wins">{"".join(tiles)}</div>'
    return section("Which system wins, and why", wins, f"<ul>{''.join(why)}</ul>", energy)


def _tile(large: str, small: str) -> str:
    return f"<div><b>{escape(large)}</b><span>{escape(small)}</span></div>"


def compared(found: Sequence[System], compared: Sequence[Grid]) -> Iterator[str]:
    """The figures side by side, with their spread over seeds."""
    for grid in compared or (grids(tabled(found))[:1] if len(found) > 1 else ()):
        notes = (f"<p>{escape(note)}</p>" for note in grid.notes)
        yield section(f"Comparison: {grid.title}", _grid(grid), *notes)


def _grid(grid: Grid) -> str:
    """A table of figures: a row a figure where the systems are few enough to be columns, else the other way round."""
    marked = {label: [cell(text, "best" if best else "") for text, best in cells] for label, cells in grid.rows.items()}
    any_best = any(best for cells in grid.rows.values() for _, best in cells)
    if len(marked) > _SIDE_BY_SIDE:
        rows = [[cell(label), *cells] for label, cells in marked.items()]
        said = "The best of each column in bold." if any_best else ""
        return table(["", *(column.label for column in grid.heads)], rows, said)
    rows = [
        [cell(column.label), *(cells[number] for cells in marked.values())] for number, column in enumerate(grid.heads)
    ]
    return table(["", *marked], rows, "The best of each row in bold." if any_best else "")


def quality(found: Sequence[System]) -> str:
    """Quality over what it took: time, bytes, energy; the loss beside an accuracy."""
    metric = found[0].metric
    if not any(run.measures.curve for system in found for run in system.runs):
        return section("Quality", '<p class="none">No evaluation was recorded.</p>')
    write = _percent if metric == "accuracy" else "{:.4g}".format
    pictures = [
        _curves(f"{metric} over time", found, "time", metric, write),
        _curves(f"{metric} over bytes, both ways", found, "bytes", metric, write),
        _curves(f"{metric} over what all devices drew", found, "joules", metric, write),
    ]
    if metric == "accuracy":
        pictures.append(_curves("loss over time", found, "time", "loss", "{:.4g}".format))
    several = any(len(system.runs) > 1 for system in found)
    spread = "<p>Lines are means over seeds, the bands around them reach from the lowest to the highest.</p>"
    named = charts.legend([(charts.style(i), system.name) for i, system in enumerate(found)], 2)
    return section("Quality", f'<div class="charts">{"".join(pictures)}</div>', named, spread if several else "")


def _curves(title: str, found: Sequence[System], along: str, metric: str, write: Callable[[float], str]) -> str:
    series = [over(system, along, metric) for system in found]
    most = max((x for one in series for x, _ in one.points if math.isfinite(x)), default=0.0)
    axes = {"bytes": ("bytes delivered", "B"), "joules": ("energy of the devices", "J")}
    axis = charts.time_axis(most) if along == "time" else charts.amount_axis(axes[along][0], most, axes[along][1])
    return charts.curves(title, series, axis, write)


def _percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def traffic(found: Sequence[System]) -> str:
    """Bytes by kind and direction, as bars on one scale and as numbers."""
    most = max((sum(system.first.summary["bytes"][way].values()) for system in found for way in DIRECTIONS), default=0)
    rows, notes = [], []
    for system in found:
        amounts_of = system.first.summary["bytes"]
        for direction in DIRECTIONS:
            amounts = [amounts_of[direction][purpose] for purpose in _PURPOSES]
            name = ", ".join(part for part in (direction, caption(found, system)) if part)
            picture = charts.bar([n / max(most, 1) for n in amounts], _HUES, _PURPOSES)
            cells = [cell(_bytes(n)) for n in [*amounts, sum(amounts)]]
            rows.append([cell(name), f'<td class="bars">{picture}</td>', *cells])
        name = caption(found, system)
        notes.append(f"<p>{escape(f'{name}: ' if name else '')}{escape(_lost(system.first.summary))}</p>")
    key = charts.legend(list(zip(_HUES, _PURPOSES, strict=True)))
    return section("Bytes delivered", key, table(["", "", *_PURPOSES, "total"], rows), *notes)


def _lost(summary: Mapping[str, Any]) -> str:
    """What the table of bytes leaves out."""
    amounts = summary["bytes"]["payload"], summary["bytes"]["envelope"], summary["bytes"]["wasted"]
    payload, envelope, wasted, flying = (_bytes(n) for n in (*amounts, summary["identity"]["bytes_in_flight"]))
    return (
        f"Payload {payload}, envelopes (control) {envelope}. Not counted in these: {wasted} lost on the way, "
        f"{flying} still under way at the end."
    )


def foundations(found: Sequence[System]) -> str:
    """What the figures rest on; once where it is the same for all."""
    texts: dict[tuple[str, str], list[str]] = {}
    for system in found:
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in assumptions.sentences(system.first))
        texts.setdefault((said, assumptions.provenance(system.first)), []).append(system.name)
    parts = []
    for (said, sources), names in texts.items():
        head = f"<h3>{escape(', '.join(names))}</h3>" if len(texts) > 1 else ""
        parts.append(f"{head}<ul>{said}</ul>{sources}")
    return section("What this rests on", *parts)
