"""`report.html`: one file that needs no network, for one run or several side by side.

Composes the page; runs that differ in their seed alone are one system with a spread. Sections are in `page.together`
and `page.alone`, pictures in `charts`, the timeline in `page.lanes`, words in `page`, colours in `report.css`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from fedsim.report.comparison import Grid
from fedsim.report.page import alone, together
from fedsim.report.page.systems import Run, System, systems
from fedsim.report.pages import page
from fedsim.report.sweeps import Overview
from fedsim.units import human_seconds

__all__ = ["Run", "render", "write_report"]


def write_report(path: Path, runs: Sequence[Run], grids: Sequence[Grid] = (), overview: Overview | None = None) -> None:
    """Write the report of one or several runs, with the tables of their comparison or sweep if there are any."""
    path.write_text(render(runs, grids, overview), encoding="utf-8")


def render(runs: Sequence[Run], compared: Sequence[Grid] = (), overview: Overview | None = None) -> str:
    """The report as HTML; an overview stands in the place of who wins, and why."""
    found = systems(runs)
    names = [system.name for system in found]
    title = names[0] if len(found) == 1 else f"{len(found)} systems"
    head = " | ".join(names)
    scenario = str(found[0].first.summary["name"])
    alike = {str(system.first.summary["name"]) for system in found} == {scenario}
    if len(found) > 1 and alike and not any(scenario in name for name in names):
        head = f"{scenario}: {head}"
    if overview is not None:
        title = head = overview.title
    body = "\n".join(
        (
            f"<h1>{escape(head)}</h1>",
            *(_top(found) if overview is None else overview.sections),
            alone.requests(found),
            together.quality(found),
            alone.idle(found),
            *together.compared(found, compared),
            *alone.pruned(found),
            *alone.timelines(found),
            together.traffic(found),
            alone.devices(found),
            alone.memory(found),
            alone.nodes(found),
            together.foundations(found),
            alone.scenarios(found),
        )
    )
    return page(f"{title} – fedsim", body, script="lanes.js")


def _top(found: Sequence[System]) -> Iterator[str]:
    """What the systems are, and the answer."""
    yield f'<p class="sub">{"<br>".join(escape(_about(system)) for system in found)}</p>'
    yield together.key_figures(found)


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
