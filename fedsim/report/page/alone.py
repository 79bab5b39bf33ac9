"""Sections with a part of its own for each system of a page: its time, requests, devices, memory, nodes, scenario.

Of a system with several seeds they show the first. Texts from runs are escaped here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any, Final

import numpy as np

from fedsim.report import charts
from fedsim.report.columns import Bools
from fedsim.report.contributions import STEPS
from fedsim.report.measures import Measures
from fedsim.report.page.lanes import PIECES, lanes
from fedsim.report.page.outline import outline
from fedsim.report.page.systems import System, caption
from fedsim.report.pages import cell, folded, section, table
from fedsim.report.requests import lines
from fedsim.report.show import MISSING, percent
from fedsim.report.summary import utilisation
from fedsim.report.tables import NODES, node_rows
from fedsim.report.variants import COLUMNS, coverage_line, notices, variant_cells
from fedsim.units import human_count, human_seconds

NODES_SHOWN: Final = 200
_OPEN: Final = 30  # nodes of a table that is not folded away
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


def requests(found: Sequence[System]) -> str:
    """What each group of devices took to answer, in runs for inference."""
    tables = []
    for system in found:
        if "inference" in system.first.summary:
            heads, rows = lines(system.first.summary["inference"])
            tables.append(table(heads, [[cell(text) for text in row] for row in rows], caption(found, system)))
    return section("Requests answered", *tables) if tables else ""


def idle(found: Sequence[System]) -> str:
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
        rows = [_group(measures, label, shares, members) for label, shares, members in _groups(measures, together=True)]
        parts.append(_part(found, system, table(head, rows)))
    return section("Busy and idle time by cause", *parts)


def _bar(shares: Sequence[float]) -> str:
    return f'<td class="bars">{charts.bar(shares)}</td>'


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


def _groups(measures: Measures, *, together: bool) -> list[tuple[str, list[float], Bools]]:
    """Label, shares by state and members of the server, of all devices `together`, and of each group of devices."""
    nodes = measures.columns.nodes
    busy, idle = utilisation(measures)
    present = ~np.isnan(busy)
    group = np.fromiter((node.group for node in nodes), np.int64, len(nodes))
    devices = measures.columns.devices & present
    picks = [("server", ~measures.columns.devices & present)]
    if together:
        picks.append((f"all {int(devices.sum())} devices", devices))
    for number in np.unique(group[devices]).tolist():
        rows = devices & (group == number)
        first = nodes[int(np.flatnonzero(rows)[0])]
        picks.append((f"group {number}: {int(rows.sum())} × {first.profile}", rows))
    return [
        (label, [float(busy[rows].mean()), *idle[:, rows].mean(axis=1).tolist()], rows)
        for label, rows in picks
        if rows.any()
    ]


def pruned(found: Sequence[System]) -> Iterator[str]:
    """What each group holds after pruning, where anybody was pruned."""
    tables, every = [], []
    for system in found:
        pruning = system.first.summary.get("pruning") or {}
        variants = pruning.get("variants", ())
        if variants:
            rows = [[cell(text) for text in variant_cells(variant)] for variant in variants]
            tables.append(table(COLUMNS, rows, caption(found, system)))
            coverage = pruning.get("coverage")
            if coverage is not None:
                tables.append(f"<p>{coverage_line(coverage)}.</p>")
            every += variants
    if every:
        said = (f"<p>{escape(notice[0].upper() + notice[1:])}.</p>" for notice in notices(every))
        yield section("Pruned variants", *tables, *said)


def timelines(found: Sequence[System]) -> Iterator[str]:
    """What every node did when, of the first seed of each system."""
    parts = []
    for number, system in enumerate(found, 1):
        made = lanes(system.first.measures.columns, PIECES // len(found))
        if made.rows:
            name = caption(found, system)
            head = f"<h3>{escape(name)}</h3>" if name else ""
            parts.append(head + made.figure(number, f"timeline {name}".strip()))
    if parts:
        how = (
            "<p>Drag over a stretch to zoom in; double-click for the whole run; + and − and the arrow keys work, too. "
            "timeline.json.gz in the run's folder has the messages as well: open it at ui.perfetto.dev.</p>"
        )
        states = [*((state, state) for state in charts.STATES), ("wasted", "lost work")]
        yield section("Who did what when", charts.legend(states), how, *parts)


def devices(found: Sequence[System]) -> str:
    """What each device contributed and drew, devices by group."""
    pictures = []
    for index, system in enumerate(found):
        measures = system.first.measures
        nodes, devices = measures.columns.nodes, measures.columns.devices
        group = np.fromiter((node.group for node in nodes), np.int64, len(nodes))[devices]
        order, name = np.argsort(group, kind="stable"), caption(found, system)
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


def memory(found: Sequence[System]) -> str:
    """The most that a node of each group has held, against what it may use."""
    parts = []
    for system in found:
        measures, rows = system.first.measures, []
        for label, _, members in _groups(measures, together=False):
            peaks = measures.peak_memory[members]
            if np.isnan(peaks).all():
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


def nodes(found: Sequence[System]) -> str:
    """The table of nodes, by itself folded away where it is long."""
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


def scenarios(found: Sequence[System]) -> str:
    """What ran, with every default."""
    texts = (
        folded(
            caption(found, system) or system.name, f"<pre>{escape(chr(10).join(outline(system.first.scenario)))}</pre>"
        )
        for system in found
    )
    return section("Resolved scenario", *texts)


def _part(found: Sequence[System], system: System, content: str) -> str:
    """A system's own part: folded away under its name where there are several."""
    return content if len(found) == 1 else folded(caption(found, system), content)
