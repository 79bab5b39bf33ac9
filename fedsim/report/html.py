"""`report.html`: one file that needs no network, for one run or several side by side.

Composes the page; pictures are in `charts`, colours in `report.css`. Everything that comes from a run is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedsim.report import charts
from fedsim.report.columns import Bools
from fedsim.report.comparison import Grid
from fedsim.report.contributions import STEPS
from fedsim.report.measures import Measures, Point
from fedsim.report.pages import cell, page, section, table
from fedsim.report.requests import lines
from fedsim.report.show import MISSING, best_of, figures, labels, percent
from fedsim.report.summary import perplexity, utilisation
from fedsim.report.sweeps import Overview
from fedsim.report.tables import NODES, node_rows
from fedsim.report.traffic import DIRECTIONS
from fedsim.report.variants import COLUMNS, notices, variant_cells
from fedsim.units import human_count, human_seconds

NODES_SHOWN: Final = 200
_PURPOSES: Final = ("activations", "gradients", "weights", "labels", "control")
_NODE_COLUMNS: Final[Mapping[str, Callable[[Any], str]]] = {
    "node": str,
    "name": str,
    "profile": str,
    "active_s": human_seconds,
    "busy_s": human_seconds,
    "idle": percent,
    "idle_whole_run": percent,
    "macs": lambda value: human_count(value, "MAC"),
    "samples": str,
    "joules": lambda value: human_count(value, "J"),
    "contributions": str,
    **dict.fromkeys(STEPS, str),
}


@dataclass(frozen=True, slots=True)
class Run:
    """What the report needs of a run."""

    summary: Mapping[str, Any]
    measures: Measures
    scenario: Mapping[str, Any]


def write_report(path: Path, runs: Sequence[Run], grids: Sequence[Grid] = (), overview: Overview | None = None) -> None:
    """Write the report of one or several runs, below the tables of their comparison or sweep if there are any."""
    path.write_text(render(runs, grids, overview), encoding="utf-8")


def render(runs: Sequence[Run], grids: Sequence[Grid] = (), overview: Overview | None = None) -> str:
    """The report as HTML."""
    names = labels([run.summary for run in runs])
    title = f"{names[0]} – fedsim" if len(runs) == 1 else f"{len(runs)} runs – fedsim"
    if overview is None:
        above = [f"<h1>{escape(names[0] if len(runs) == 1 else ' | '.join(names))}</h1>"]
        above += (f'<p class="sub">{escape(_about(run.summary))}</p>' for run in runs)
    else:
        title = f"{overview.title} – fedsim"
        above = [f"<h1>{escape(overview.title)}</h1>", *overview.sections]
    body = "\n".join(
        (
            *above,
            *map(_grid, grids),
            _headline(runs, names),
            _answers(runs, names),
            _quality(runs, names),
            *_pruned(runs, names),
            _idle(runs, names),
            _bytes(runs, names),
            _nodes(runs, names),
            _scenarios(runs, names),
        )
    )
    return page(title, body)


def outline(value: object, depth: int = 0) -> Iterator[str]:
    """The lines of nested mappings and lists, written as in a scenario file."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | list | tuple) and inner:
                yield f"{pad}{key}:"
                yield from outline(inner, depth + 1)
            else:
                yield f"{pad}{key}: {_scalar(inner)}"
    elif isinstance(value, list | tuple):
        for inner in value:
            lines = list(outline(inner, depth + 1))
            yield f"{pad}- {lines[0].lstrip()}"
            yield from lines[1:]
    else:
        yield pad + _scalar(value)


def _scalar(value: object) -> str:
    plain = isinstance(value, str) and value and value == value.strip() and not set(value) & set(":#{}[]\n\"'")
    return str(value) if plain else json.dumps(value, ensure_ascii=False, default=str)


def _about(summary: Mapping[str, Any]) -> str:
    """Mode, seed, devices and status in a line."""
    mode = {"simulate": "simulation", "emulate": "emulation"}.get(str(summary["mode"]), str(summary["mode"]))
    devices = summary["devices"]["count"]
    return (
        f"{mode}, scheduler {summary['scheduler']}, {devices} devices, seed {summary['seed']}, {summary['status']}, "
        f"{human_seconds(summary['seconds'])} on its own clock"
    )


def _grid(grid: Grid) -> str:
    rows = [
        [cell(label), *(cell(text, "best" if best else "") for text, best in cells)]
        for label, cells in grid.rows.items()
    ]
    notes = (f"<p>{escape(note)}</p>" for note in grid.notes)
    return section(f"Comparison: {grid.title}", table(["", *(column.label for column in grid.heads)], rows), *notes)


def _headline(runs: Sequence[Run], names: Sequence[str]) -> str:
    summaries = [run.summary for run in runs]
    chosen = figures(summaries)
    labels = dict.fromkeys(summary["energy_label"] for summary in summaries)
    energy = "".join(f"<p>Energy: {escape(label)}.</p>" for label in labels)
    if len(runs) == 1:
        tiles = (f"<div><b>{escape(f.text(summaries[0]))}</b><span>{escape(f.label)}</span></div>" for f in chosen)
        return section("Key figures", f'<div class="tiles">{"".join(tiles)}</div>', energy)
    rows = []
    for figure in chosen:
        best = best_of(figure, summaries)
        cells = [cell(figure.text(s), "best" if i in best else "") for i, s in enumerate(summaries)]
        rows.append([cell(figure.label), *cells])
    return section("Key figures", table(["", *names], rows, "The best of each row in bold."), energy)


def _quality(runs: Sequence[Run], names: Sequence[str]) -> str:
    metric = str(runs[0].summary["metric"]["name"])
    series = [
        (name, [(point.time, _value(point, metric)) for point in run.measures.curve])
        for name, run in zip(names, runs, strict=True)
    ]
    write = _percent if metric == "accuracy" else "{:.4g}".format
    return section(f"{metric.capitalize()} over time", charts.curves(series, "seconds", metric, write))


def _pruned(runs: Sequence[Run], names: Sequence[str]) -> Iterator[str]:
    """What each group holds after pruning, where anybody was pruned."""
    tables, every = [], []
    for run, name in zip(runs, names, strict=True):
        pruning = run.summary.get("pruning") or {}
        variants = pruning.get("variants", ())
        if variants:
            rows = [[cell(text) for text in variant_cells(variant)] for variant in variants]
            tables.append(table(COLUMNS, rows, name if len(runs) > 1 else ""))
            coverage = pruning.get("coverage")
            if coverage is not None:
                tables.append(
                    f"<p>A round has reached {percent(coverage['min'])} to {percent(coverage['max'])} of the "
                    f"model's parameters.</p>"
                )
            every += variants
    if every:
        said = (f"<p>{escape(notice[0].upper() + notice[1:])}.</p>" for notice in notices(every))
        yield section("Pruned variants", *tables, *said)


def _value(point: Point, metric: str) -> float:
    if metric == "accuracy":
        return point.accuracy
    return perplexity(point.loss) if metric == "perplexity" else point.loss


def _percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def _idle(runs: Sequence[Run], names: Sequence[str]) -> str:
    content = [charts.legend([(state, state) for state in charts.STATES])]
    for name, run in zip(names, runs, strict=True):
        kind = run.measures.contributions.kind
        head = ["", "share of the active time", "idle", "least–most", "of the whole run", f"{kind}, fewest–most"]
        rows = [_group(run.measures, label, shares, members) for label, shares, members in _groups(run.measures)]
        content.append(table(head, rows, name if len(runs) > 1 else ""))
    return section("Busy and idle time by cause", *content)


def _group(measures: Measures, label: str, shares: Sequence[float], members: Bools) -> list[str]:
    """A row of the table of idle time: a device can be busy and useless, so what devices gave stands beside it."""
    idle, given = measures.idle[members], measures.contributions.counts[members]
    devices = bool(measures.columns.devices[members].all())
    least, most = percent(float(idle.min())), percent(float(idle.max()))
    return [
        cell(label),
        f'<td class="bars">{charts.bar(shares)}</td>',
        cell(percent(1 - shares[0])),
        cell(least if least == most else f"{least}–{most}"),
        cell(percent(float(measures.idle_whole_run[members].mean()))),
        cell(f"{given.min()}–{given.max()}" if devices else ""),
    ]


def _groups(measures: Measures) -> list[tuple[str, list[float], Bools]]:
    """Label, shares by state and members of the server, of all devices and of each group of devices."""
    nodes = measures.columns.nodes
    busy, idle = utilisation(measures)
    present = ~np.isnan(busy)
    group = np.fromiter((node.group for node in nodes), np.int64, len(nodes))
    devices = measures.columns.devices & present
    picks = [("server", ~measures.columns.devices & present), (f"all {int(devices.sum())} devices", devices)]
    for number in np.unique(group[devices]).tolist():
        rows = devices & (group == number)
        first = nodes[int(np.flatnonzero(rows)[0])]
        picks.append((f"group {number}: {int(rows.sum())} × {first.profile}", rows))
    return [
        (label, [float(busy[rows].mean()), *idle[:, rows].mean(axis=1).tolist()], rows)
        for label, rows in picks
        if rows.any()
    ]


def _answers(runs: Sequence[Run], names: Sequence[str]) -> str:
    """What each group of devices took to answer, in runs for inference."""
    tables = []
    for name, run in zip(names, runs, strict=True):
        if "inference" in run.summary:
            heads, rows = lines(run.summary["inference"])
            tables.append(table(heads, [[cell(text) for text in row] for row in rows], name if len(runs) > 1 else ""))
    return section("Requests answered", *tables) if tables else ""


def _bytes(runs: Sequence[Run], names: Sequence[str]) -> str:
    tables = []
    for name, run in zip(names, runs, strict=True):
        found = run.summary["bytes"]
        rows = []
        for direction in DIRECTIONS:
            amounts = [found[direction][purpose] for purpose in _PURPOSES]
            rows.append([cell(direction), *(cell(human_count(n, "B")) for n in [*amounts, sum(amounts)])])
        tables.append(table(["", *_PURPOSES, "total"], rows, name if len(runs) > 1 else ""))
        tables.append(f"<p>{escape(_lost(run.summary))}</p>")
    return section("Bytes delivered", *tables)


def _lost(summary: Mapping[str, Any]) -> str:
    """What the table of bytes leaves out."""
    amounts = summary["bytes"]["payload"], summary["bytes"]["envelope"], summary["bytes"]["wasted"]
    payload, envelope, wasted, flying = (
        human_count(n, "B") for n in (*amounts, summary["identity"]["bytes_in_flight"])
    )
    return (
        f"Payload {payload}, envelopes (control) {envelope}. Not counted in these: {wasted} lost on the way, "
        f"{flying} still under way at the end."
    )


def _nodes(runs: Sequence[Run], names: Sequence[str]) -> str:
    tables = []
    for name, run in zip(names, runs, strict=True):
        every = [dict(zip(NODES, row, strict=True)) for row in node_rows(run.measures, NODES_SHOWN)]
        known = {key: say for key, say in _NODE_COLUMNS.items() if any(row[key] is not None for row in every)}
        rows = []
        for found in every:
            up = sum(found[key] for key in NODES if key.startswith("bytes_up"))
            down = sum(found[key] for key in NODES if key.startswith("bytes_down"))
            cells = [cell(MISSING if found[key] is None else say(found[key])) for key, say in known.items()]
            rows.append([*cells, cell(human_count(up, "B")), cell(human_count(down, "B"))])
        count = len(run.measures.columns.nodes)
        shown = f"the first {NODES_SHOWN} of {count} nodes; all are in nodes.csv" if count > NODES_SHOWN else ""
        caption = ", ".join(part for part in (name if len(runs) > 1 else "", shown) if part)
        head = [key.removesuffix("_s").replace("_", " ") for key in known]
        tables.append(table([*head, "up", "down"], rows, caption))
    return section("Nodes", *tables)


def _scenarios(runs: Sequence[Run], names: Sequence[str]) -> str:
    texts = (
        f"<details><summary>{escape(name)}</summary><pre>{escape(chr(10).join(outline(run.scenario)))}</pre></details>"
        for name, run in zip(names, runs, strict=True)
    )
    return section("Resolved scenario", *texts)
