"""`report.html`: one file that needs no network, for one run or several side by side.

Composes the page; runs that differ in their seed alone are one system with a spread. Pictures are in `charts`, the
timeline in `page.lanes`, words in `page`, colours in `report.css`. Everything that comes from a run is escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedsim.report import charts
from fedsim.report.columns import Bools
from fedsim.report.comparison import Grid, grids
from fedsim.report.contributions import STEPS
from fedsim.report.measures import Measures
from fedsim.report.page import assumptions, verdict
from fedsim.report.page.lanes import PIECES, lanes
from fedsim.report.page.systems import Run, System, over, systems, tabled
from fedsim.report.pages import cell, folded, page, section, table
from fedsim.report.requests import lines
from fedsim.report.show import MISSING, figures, percent
from fedsim.report.summary import utilisation
from fedsim.report.sweeps import Overview
from fedsim.report.tables import NODES, node_rows
from fedsim.report.traffic import DIRECTIONS
from fedsim.report.variants import COLUMNS, coverage_line, notices, variant_cells
from fedsim.units import human_count, human_seconds

__all__ = ["Run", "outline", "render", "write_report"]

NODES_SHOWN: Final = 200
_OPEN: Final = 30  # nodes of a table that is not folded away
_SIDE_BY_SIDE: Final = 8  # systems that stand in columns
_PURPOSES: Final = ("activations", "gradients", "weights", "labels", "control")
_HUES: Final = tuple(f"s{number}" for number in range(len(_PURPOSES)))
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
    "peak_memory_bytes": lambda value: human_count(value, "B"),
    "joules": lambda value: human_count(value, "J"),
    "contributions": str,
    **dict.fromkeys(STEPS, str),
}
_bytes: Final = partial(human_count, unit="B")


def write_report(path: Path, runs: Sequence[Run], grids: Sequence[Grid] = (), overview: Overview | None = None) -> None:
    """Write the report of one or several runs, with the tables of their comparison or sweep if there are any."""
    path.write_text(render(runs, grids, overview), encoding="utf-8")


def render(runs: Sequence[Run], compared: Sequence[Grid] = (), overview: Overview | None = None) -> str:
    """The report as HTML; an overview stands in the place of who wins, and why."""
    found = systems(runs)
    names = [system.name for system in found]
    title = names[0] if len(found) == 1 else f"{len(found)} systems"
    head = " | ".join(names)
    if overview is not None:
        title = head = overview.title
    body = "\n".join(
        (
            f"<h1>{escape(head)}</h1>",
            *(_top(found) if overview is None else overview.sections),
            _answers(found),
            _quality(found),
            _idle(found),
            *_compared(found, compared),
            *_pruned(found),
            *_timelines(found),
            _traffic(found),
            _given(found),
            _memory(found),
            _nodes(found),
            _assumptions(found),
            _scenarios(found),
        )
    )
    return page(f"{title} – fedsim", body, script="lanes.js")


def _top(found: Sequence[System]) -> Iterator[str]:
    """What the systems are, and the answer."""
    yield f'<p class="sub">{"<br>".join(escape(_about(system)) for system in found)}</p>'
    yield _answer(found)


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


def _about(system: System) -> str:
    """Mode, seeds, devices and status in a line."""
    summary = system.first.summary
    mode = {"simulate": "simulation", "emulate": "emulation"}.get(str(summary["mode"]), str(summary["mode"]))
    seeds = [str(run.summary["seed"]) for run in system.runs]
    states = "/".join(dict.fromkeys(str(run.summary["status"]) for run in system.runs))
    return (
        f"{mode}, scheduler {summary['scheduler']}, {summary['devices']['count']} devices, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}, {states}, "
        f"{human_seconds(summary['seconds'])} on its own clock"
    )


def _answer(found: Sequence[System]) -> str:
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


def _compared(found: Sequence[System], compared: Sequence[Grid]) -> Iterator[str]:
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


def _quality(found: Sequence[System]) -> str:
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


def _pruned(found: Sequence[System]) -> Iterator[str]:
    """What each group holds after pruning, where anybody was pruned."""
    tables, every = [], []
    for system in found:
        pruning = system.first.summary.get("pruning") or {}
        variants = pruning.get("variants", ())
        if variants:
            rows = [[cell(text) for text in variant_cells(variant)] for variant in variants]
            tables.append(table(COLUMNS, rows, _caption(found, system)))
            coverage = pruning.get("coverage")
            if coverage is not None:
                tables.append(f"<p>{coverage_line(coverage)}.</p>")
            every += variants
    if every:
        said = (f"<p>{escape(notice[0].upper() + notice[1:])}.</p>" for notice in notices(every))
        yield section("Pruned variants", *tables, *said)


def _caption(found: Sequence[System], system: System) -> str:
    """What stands above a system's own part, where there are several."""
    if len(found) == 1:
        return ""
    return system.name if len(system.runs) == 1 else f"{system.name}, seed {system.first.summary['seed']}"


def _idle(found: Sequence[System]) -> str:
    """Where the time went: server and devices of all systems first, then by group."""
    parts = [charts.legend([(state, state) for state in charts.STATES])]
    if len(found) > 1:
        rows = []
        for who, label in (("server", "server"), ("devices", "devices")):
            for system in found:
                shares = [share or 0.0 for share in system.shares(who)]
                rows.append([cell(f"{label}, {system.name}"), _bar(shares), cell(percent(1 - shares[0]))])
        parts.append(table(["", "share of the active time, mean over seeds", "idle"], rows))
    for system in found:
        measures = system.first.measures
        kind = measures.contributions.kind
        head = ["", "share of the active time", "idle", "least–most", "of the whole run", f"{kind}, fewest–most"]
        rows = [_group(measures, label, shares, members) for label, shares, members in _groups(measures)]
        parts.append(_part(found, system, table(head, rows)))
    return section("Busy and idle time by cause", *parts)


def _bar(shares: Sequence[float]) -> str:
    return f'<td class="bars">{charts.bar(shares)}</td>'


def _part(found: Sequence[System], system: System, content: str) -> str:
    """A system's own part: folded away under its name where there are several."""
    return content if len(found) == 1 else folded(_caption(found, system), content)


def _group(measures: Measures, label: str, shares: Sequence[float], members: Bools) -> list[str]:
    """A row of the table of idle time: a device can be busy and useless, so what devices gave stands beside it."""
    idle, given = measures.idle[members], measures.contributions.counts[members]
    devices = bool(measures.columns.devices[members].all())
    least, most = percent(float(idle.min())), percent(float(idle.max()))
    return [
        cell(label),
        _bar(shares),
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


def _timelines(found: Sequence[System]) -> Iterator[str]:
    """What every node did when, of the first seed of each system."""
    parts = []
    for number, system in enumerate(found, 1):
        made = lanes(system.first.measures.columns, PIECES // len(found))
        if made.rows:
            name = _caption(found, system)
            head = f"<h3>{escape(name)}</h3>" if name else ""
            parts.append(head + made.figure(number, f"timeline {name}".strip()))
    if parts:
        how = (
            "<p>Drag over a stretch to zoom in; double-click for the whole run; + and − and the arrow keys work, too. "
            "timeline.json.gz in the run's folder has the messages as well: open it at ui.perfetto.dev.</p>"
        )
        states = [*((state, state) for state in charts.STATES), ("wasted", "lost work")]
        yield section("Who did what when", charts.legend(states), how, *parts)


def _answers(found: Sequence[System]) -> str:
    """What each group of devices took to answer, in runs for inference."""
    tables = []
    for system in found:
        if "inference" in system.first.summary:
            heads, rows = lines(system.first.summary["inference"])
            tables.append(table(heads, [[cell(text) for text in row] for row in rows], _caption(found, system)))
    return section("Requests answered", *tables) if tables else ""


def _traffic(found: Sequence[System]) -> str:
    """Bytes by kind and direction, as bars on one scale and as numbers."""
    most = max((sum(system.first.summary["bytes"][way].values()) for system in found for way in DIRECTIONS), default=0)
    rows, notes = [], []
    for system in found:
        amounts_of = system.first.summary["bytes"]
        for direction in DIRECTIONS:
            amounts = [amounts_of[direction][purpose] for purpose in _PURPOSES]
            name = ", ".join(part for part in (direction, _caption(found, system)) if part)
            picture = charts.bar([n / max(most, 1) for n in amounts], _HUES, _PURPOSES)
            cells = [cell(_bytes(n)) for n in [*amounts, sum(amounts)]]
            rows.append([cell(name), f'<td class="bars">{picture}</td>', *cells])
        name = _caption(found, system)
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


def _given(found: Sequence[System]) -> str:
    """What each device contributed and drew, devices by group."""
    pictures = []
    for index, system in enumerate(found):
        measures = system.first.measures
        nodes, devices = measures.columns.nodes, measures.columns.devices
        group = np.fromiter((node.group for node in nodes), np.int64, len(nodes))[devices]
        order, name = np.argsort(group, kind="stable"), _caption(found, system)
        sizes = np.unique(group, return_counts=True)[1].tolist()
        kind = {"consumed": "batches consumed", "delivered": "updates"}[measures.contributions.kind]
        prefix = f"{name}: " if name else ""
        counts = measures.contributions.counts[devices][order].astype(np.float64)
        joules = measures.joules[devices][order]
        if not len(counts):
            continue
        pictures.append(
            charts.columns(f"{prefix}{kind} of each device", counts, sizes, charts.style(index), "{:.4g}".format)
        )
        if np.isfinite(joules).all():
            write = partial(human_count, unit="J")
            pictures.append(charts.columns(f"{prefix}energy of each device", joules, sizes, charts.style(index), write))
    return section("Devices", f'<div class="charts">{"".join(pictures)}</div>') if pictures else ""


def _memory(found: Sequence[System]) -> str:
    """The most that a node of each group has held, against what it may use."""
    parts = []
    for system in found:
        measures, rows = system.first.measures, []
        for label, _, members in _groups(measures):
            peaks = measures.peak_memory[members]
            if label.startswith("all ") or np.isnan(peaks).all():
                continue
            limits = [measures.columns.nodes[row].memory for row in np.flatnonzero(members).tolist()]
            at = int(np.nanargmax(peaks / np.array(limits)))
            limit = limits[at]
            share = float(peaks[at]) / limit
            picture = charts.bar([min(share, 1.0)], ["busy" if share <= 1 else "wasted"], ["peak"])
            texts = _bytes(float(peaks[at])), _bytes(limit), percent(share)
            rows.append([cell(label), f'<td class="bars">{picture}</td>', *(cell(text) for text in texts)])
        if rows:
            head = ["", "the fullest node, of what it may use", "peak", "limit", "share"]
            parts.append(_part(found, system, table(head, rows)))
    return section("Memory", *parts) if parts else ""


def _nodes(found: Sequence[System]) -> str:
    tables = []
    for system in found:
        measures = system.first.measures
        every = [dict(zip(NODES, row, strict=True)) for row in node_rows(measures, NODES_SHOWN)]
        known = {key: say for key, say in _NODE_COLUMNS.items() if any(row[key] is not None for row in every)}
        rows = []
        for one in every:
            up = sum(one[key] for key in NODES if key.startswith("bytes_up"))
            down = sum(one[key] for key in NODES if key.startswith("bytes_down"))
            cells = [cell(MISSING if one[key] is None else say(one[key])) for key, say in known.items()]
            rows.append([*cells, cell(_bytes(up)), cell(_bytes(down))])
        count = len(measures.columns.nodes)
        shown = f"the first {NODES_SHOWN} of {count} nodes; all are in nodes.csv" if count > NODES_SHOWN else ""
        head = [key.removesuffix("_s").removesuffix("_bytes").replace("_", " ") for key in known]
        made = table([*head, "up", "down"], rows, shown)
        closed = len(found) == 1 and count > _OPEN
        tables.append(folded(f"{count} nodes", made) if closed else _part(found, system, made))
    return section("Nodes", *tables)


def _assumptions(found: Sequence[System]) -> str:
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


def _scenarios(found: Sequence[System]) -> str:
    texts = (
        folded(
            _caption(found, system) or system.name, f"<pre>{escape(chr(10).join(outline(system.first.scenario)))}</pre>"
        )
        for system in found
    )
    return section("Resolved scenario", *texts)
