"""The table after a run: key figures of one, or of several side by side with the best ones marked.

From summaries alone. rich leaves colours out where nobody looks, so piped output is plain text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.units import human_count, human_seconds

MISSING: Final = "–"
Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a summary: how to find it, how to write it, and which one is the best (+1 the highest, 0 neither)."""

    label: str
    short: str
    find: Callable[[Summary], float | None]
    write: Callable[[float], str]
    better: int = 0

    def text(self, summary: Summary) -> str:
        """The figure as people read it."""
        value = self.find(summary)
        return MISSING if value is None else self.write(value)


def percent(value: float) -> str:
    """A fraction for people."""
    return f"{value:.1%}".replace("%", " %")


def _reach(summary: Summary) -> float | None:
    times = summary["accuracy"]["time_to"]
    value: float | None = next(reversed(times.values()), None) if times else None
    return value


def figures(summaries: Sequence[Summary]) -> list[Figure]:
    """The key figures that at least one of the runs has."""
    name = summaries[0]["metric"]["name"] if summaries else "accuracy"
    quality = percent if name == "accuracy" else "{:.4g}".format
    every = [
        Figure("length of the run", "length", lambda s: s["seconds"], human_seconds),
        Figure(f"final {name}", name, lambda s: s["metric"]["final"], quality, 1 if name == "accuracy" else -1),
        Figure(f"best {name}", "best", lambda s: s["metric"]["best"], quality, 1 if name == "accuracy" else -1),
        Figure("time to target accuracy", "to target", _reach, human_seconds, -1),
        Figure("server idle", "server idle", lambda s: s["server"]["idle"], percent, -1),
        Figure("devices idle, mean", "device idle", lambda s: s["devices"]["idle"], percent, -1),
        Figure("bytes up", "up", lambda s: sum(s["bytes"]["up"].values()), _bytes, -1),
        Figure("bytes down", "down", lambda s: sum(s["bytes"]["down"].values()), _bytes, -1),
        Figure(
            "samples a second, end to end",
            "samples/s",
            lambda s: s["throughput"]["end_to_end_samples_per_s"],
            "{:.4g}".format,
            1,
        ),
        Figure("device work", "device MACs", lambda s: s["devices"]["macs"], lambda v: human_count(v, "MAC")),
        Figure("device energy", "energy", lambda s: s["devices"]["joules"], lambda v: human_count(v, "J"), -1),
        Figure("wall time", "wall", lambda s: s["wall_seconds"], human_seconds),
    ]
    return [figure for figure in every if any(figure.find(summary) is not None for summary in summaries)]


def best_of(figure: Figure, summaries: Sequence[Summary]) -> set[int]:
    """The runs that are best by this figure; none where it has no better end or all are alike."""
    values = [figure.find(summary) for summary in summaries]
    known = [value for value in values if value is not None]
    if not figure.better or len(summaries) < 2 or not known or len(set(values)) == 1:
        return set()
    top = max(known) if figure.better > 0 else min(known)
    return {index for index, value in enumerate(values) if value == top}


def label(summary: Summary) -> str:
    """A run in a word: its scheduler, with the scenario's name where it has one."""
    parts = [str(summary[key]) for key in ("name", "scheduler") if summary.get(key)]
    return " · ".join(parts) or MISSING


def table(summaries: Sequence[Summary], names: Sequence[str] | None = None) -> Table:
    """Key figures of one run, a line each; or a row a run, the best of each column marked with a star."""
    heads = [label(summary) for summary in summaries] if names is None else list(names)
    chosen = figures(summaries)
    if len(summaries) == 1:
        return _one(summaries[0], heads[0], chosen)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("run", overflow="fold")
    marked = [best_of(figure, summaries) for figure in chosen]
    for figure in chosen:
        grid.add_column(figure.short, justify="right", overflow="fold")
    for index, summary in enumerate(summaries):
        cells = [
            Text(figure.text(summary) + "*", "bold green") if index in best else Text(figure.text(summary))
            for figure, best in zip(chosen, marked, strict=True)
        ]
        grid.add_row(Text(heads[index]), *cells)
    return grid


def _one(summary: Summary, head: str, chosen: Sequence[Figure]) -> Table:
    grid = Table(box=None, pad_edge=False, show_header=False, title=Text(head, "bold"), title_justify="left")
    grid.add_column("figure", style="dim")
    grid.add_column("value", overflow="fold")
    for figure in chosen:
        grid.add_row(Text(figure.label), Text(figure.text(summary)))
    for who in ("server", "devices"):
        grid.add_row(Text(f"{who} idle by cause"), Text(_causes(summary[who]["idle_by_cause"])))
    if summary.get("status") != "done":
        grid.add_row(Text("status"), Text(str(summary.get("status")), "bold red"))
    return grid


def show(summaries: Sequence[Summary], names: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the table of one or several runs."""
    (Console() if console is None else console).print(table(summaries, names))


def _bytes(value: float) -> str:
    return human_count(value, "B")


def _causes(by_cause: Mapping[str, float | None]) -> str:
    """The causes from the largest down; those below a tenth of a percent are left out."""
    known = [(share, cause) for cause, share in by_cause.items() if share is not None and not math.isnan(share)]
    parts = [f"{cause} {percent(share)}" for share, cause in sorted(known, reverse=True) if share >= 0.001]
    return ", ".join(parts) or "none"
