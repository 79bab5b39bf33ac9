"""The table after a run: key figures of one, or of several side by side with the best ones marked.

From summaries alone. rich leaves colours out where nobody looks, so piped output is plain text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.report.requests import lines
from fedsim.report.variants import coverage_line, notices, variant_line
from fedsim.units import human_count, human_seconds

MISSING: Final = "–"
UNREACHED: Final = "not reached"
_COLUMNS: Final = 4  # runs side by side; more stand in rows
Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a summary: how to find and write it, and which one is best: the highest (+1), the lowest or none.

    `short` heads its column where many runs stand in rows; figures without one are left out there. `words` writes it
    where the number alone does not say it all.
    """

    label: str
    short: str
    find: Callable[[Summary], float | None]
    write: Callable[[float], str]
    better: int = 0
    words: Callable[[Summary], str] | None = None

    def text(self, summary: Summary) -> str:
        """The figure as people read it."""
        value = self.find(summary)
        if value is None:
            return MISSING
        return self.write(value) if self.words is None else self.words(summary)


def percent(value: float) -> str:
    """A fraction for people."""
    return f"{value:.1%}".replace("%", " %")


def rate(value: float) -> str:
    """A number a second for people, without an exponent."""
    return f"{value:.4g}" if value < 1000 else f"{value:,.0f}"


def _targets(summaries: Sequence[Summary]) -> list[Figure]:
    """The time to every target accuracy that one of the runs has; one that was not reached is infinitely late."""

    def late(target: str, summary: Summary) -> float | None:
        found = summary["accuracy"]
        if target not in found["time_to"] or found["best"] is None:  # not asked for, or never looked at
            return None
        reached: float | None = found["time_to"][target]
        return math.inf if reached is None else reached

    def figure(target: str) -> Figure:
        share = f"{float(target) * 100:.4g} %"
        return Figure(f"time to {share} accuracy", f"to {share}", partial(late, target), _moment, -1)

    return [figure(target) for target in dict.fromkeys(t for s in summaries for t in s["accuracy"]["time_to"])]


def _moment(seconds: float) -> str:
    return human_seconds(seconds) if math.isfinite(seconds) else UNREACHED


def _given(summaries: Sequence[Summary]) -> list[Figure]:
    """What the least and the most contributing device gave, by kind: a device can be busy and useless."""
    training = [summary for summary in summaries if "inference" not in summary]
    kinds = list(dict.fromkeys(str(summary["contributions"]["kind"]) for summary in training))

    def least(chosen: Sequence[str], summary: Summary) -> float | None:
        found = summary["contributions"]
        value: float | None = found["min"] if found["kind"] in chosen else None
        return value

    def words(summary: Summary) -> str:
        least, most = summary["contributions"]["min"], summary["contributions"]["max"]
        return str(least) if least == most else f"{least}–{most}"

    if len(summaries) > _COLUMNS:
        return [Figure("contributions a device", "each", partial(least, kinds), str, 0, words)]
    names = {"consumed": "batches consumed a device", "delivered": "updates a device"}
    found = [Figure(names[kind], "", partial(least, [kind]), str, 0, words) for kind in kinds]
    even = Figure("balance of these (Jain)", "", lambda s: s["contributions"]["jain"], "{:.3f}".format, len(kinds) == 1)
    return [*found, even]


def _rate(summary: Summary) -> float | None:
    if "inference" in summary:  # nothing is trained
        return None
    value: float | None = summary["throughput"]["end_to_end_samples_per_s"]
    return value


def _paced(key: str) -> Callable[[Summary], float | None]:
    """A figure of how well the works of an emulation were paced."""

    def find(summary: Summary) -> float | None:
        value: float | None = (summary.get("fidelity") or {}).get(key)
        return value

    return find


def figures(summaries: Sequence[Summary]) -> list[Figure]:
    """The key figures that at least one of the runs has."""
    name = summaries[0]["metric"]["name"] if summaries else "accuracy"
    quality = percent if name == "accuracy" else "{:.4g}".format
    up = 1 if name == "accuracy" else -1
    every = [
        Figure("length of the run", "length", lambda s: s["seconds"], human_seconds),
        Figure(f"final {name}", name, lambda s: s["metric"]["final"], quality, up),
        Figure(f"best {name}", "", lambda s: s["metric"]["best"], quality, up),
        *_targets(summaries),
        Figure("server idle", "server", lambda s: s["server"]["idle"], percent, -1),
        Figure("devices idle, mean", "devices", lambda s: s["devices"]["idle"], percent, -1),
        *_given(summaries),
        Figure("devices idle, whole run", "", lambda s: s["devices"]["idle_whole_run"], percent, -1),
        Figure("bytes, both ways", "bytes", lambda s: s["bytes"]["total"], _bytes, -1),
        Figure("bytes up", "", lambda s: sum(s["bytes"]["up"].values()), _bytes, -1),
        Figure("bytes down", "", lambda s: sum(s["bytes"]["down"].values()), _bytes, -1),
        Figure("samples a second, end to end", "samples/s", _rate, rate, 1),
        Figure("device work", "", lambda s: s["devices"]["macs"], lambda v: human_count(v, "MAC")),
        Figure("of that, auxiliary heads", "", lambda s: s["devices"]["macs_head"], str, 0, _heads),
        Figure("device memory, peak", "", lambda s: s["devices"]["peak_memory_bytes"], _bytes, -1),
        Figure("server memory, peak", "", lambda s: s["server"]["peak_memory_bytes"], _bytes, -1),
        Figure("device energy", "", lambda s: s["devices"]["joules"], lambda v: human_count(v, "J"), -1),
        Figure("wall time", "", lambda s: s["wall_seconds"], human_seconds),
        Figure("emulation", "emulation", _paced("faithful"), lambda v: "faithful" if v else "not faithful"),
        Figure("wall seconds a second", "", _paced("dilation"), "{:g}".format),
        Figure("works that overran", "", _paced("overrun_ratio"), percent, -1),
        Figure("time lost to that, all nodes", "", _paced("lag_s"), human_seconds, -1),
    ]
    return [figure for figure in every if any(figure.find(summary) is not None for summary in summaries)]


def best_of(figure: Figure, summaries: Sequence[Summary]) -> set[int]:
    """The runs that are best by this figure; none where it has no better end or all are alike."""
    values = [figure.find(summary) for summary in summaries]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not figure.better or len(summaries) < 2 or not known or len(set(values)) == 1:
        return set()
    top = max(known) if figure.better > 0 else min(known)
    return {index for index, value in enumerate(values) if value == top}


def labels(summaries: Sequence[Summary]) -> list[str]:
    """What tells the runs apart: scenario, scheduler and seed, without those that all have in common."""
    keys = [key for key in ("name", "scheduler", "seed") if len({str(s.get(key)) for s in summaries}) > 1]
    if not keys:
        keys = [key for key in ("name", "scheduler") if any(s.get(key) is not None for s in summaries)]
    found = [" · ".join(str(s.get(key)) for key in keys) or MISSING for s in summaries]
    return found if len(set(found)) == len(found) else [f"{name} ({n})" for n, name in enumerate(found, 1)]


def table(summaries: Sequence[Summary], names: Sequence[str] | None = None) -> Table:
    """Key figures of one run, or of several side by side with the best ones marked by a star.

    A few runs stand in columns, so that the table fits a narrow terminal; many stand in rows.
    """
    heads = labels(summaries) if names is None else list(names)
    chosen = [figure for figure in figures(summaries) if figure.short or len(summaries) <= _COLUMNS]
    if len(summaries) == 1:
        return _one(summaries[0], heads[0], chosen)
    rows = [[_cell(figure, summaries, index) for figure in chosen] for index in range(len(summaries))]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    if len(summaries) <= _COLUMNS:
        grid.add_column("")
        for head in heads:
            grid.add_column(Text(head), justify="right", overflow="fold")
        for figure, cells in zip(chosen, zip(*rows, strict=True), strict=True):
            grid.add_row(Text(figure.label), *cells)
    else:
        grid.title = "server, devices: idle; each: fewest–most contributions of a device"
        grid.title_justify = "left"
        grid.add_column("run", overflow="fold")
        for figure in chosen:
            grid.add_column(figure.short, justify="right", no_wrap=True)
        for head, row in zip(heads, rows, strict=True):
            grid.add_row(Text(head), *row)
    return grid


def _cell(figure: Figure, summaries: Sequence[Summary], index: int) -> Text:
    text = figure.text(summaries[index])
    return Text(f"{text}*", "bold green") if index in best_of(figure, summaries) else Text(text)


def _one(summary: Summary, head: str, chosen: Sequence[Figure]) -> Table:
    grid = Table(box=None, pad_edge=False, show_header=False, title=Text(head, "bold"), title_justify="left")
    grid.add_column("figure", style="dim")
    grid.add_column("value", overflow="fold")
    for figure in chosen:
        grid.add_row(Text(figure.label), Text(figure.text(summary)))
    for who in ("server", "devices"):
        grid.add_row(Text(f"{who} idle by cause"), Text(_causes(summary[who]["idle_by_cause"])))
    for number, variant in enumerate(_variants(summary), 1):
        grid.add_row(Text(f"pruned variant {variant.get('variant', number)}"), Text(variant_line(variant)))
    coverage = (summary.get("pruning") or {}).get("coverage")
    if coverage is not None:
        grid.add_row(Text("coverage"), Text(coverage_line(coverage)))
    if summary["deployment"]["bytes"] is not None:
        installed = summary["deployment"]
        words = f"{_bytes(installed['bytes'])}, {human_seconds(installed['seconds'])} for the slowest device"
        grid.add_row(Text("installing these"), Text(words))
    if summary.get("status") != "done":
        grid.add_row(Text("status"), Text(str(summary.get("status")), "bold red"))
    return grid


def show(summaries: Sequence[Summary], names: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the table of one or several runs."""
    screen = Console() if console is None else console
    screen.print(table(summaries, names))
    for summary in summaries:
        if "inference" in summary:
            screen.print(_answers(summary, labels([summary])[0] if len(summaries) > 1 else ""))
    for label in dict.fromkeys(summary["energy_label"] for summary in summaries):
        screen.print(Text(f"energy: {label}", "dim"))
    for notice in notices([variant for summary in summaries for variant in _variants(summary)]):
        screen.print(Text(f"pruning: {notice}", "dim"))


def _variants(summary: Summary) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (summary.get("pruning") or {}).get("variants", ())
    return found


def _answers(summary: Summary, name: str) -> Table:
    """What each group of devices took to answer."""
    heads, rows = lines(summary["inference"], brief=True)
    grid = Table(box=None, pad_edge=False, header_style="bold", title=Text(name) if name else None)
    for head in heads:
        grid.add_column(head, justify="left" if head == "devices" else "right", no_wrap=head == "devices")
    for row in rows:
        grid.add_row(*row)
    return grid


def _bytes(value: float) -> str:
    return human_count(value, "B")


def _heads(summary: Summary) -> str:
    """What auxiliary heads take of the devices' work."""
    devices = summary["devices"]
    return f"{human_count(devices['macs_head'], 'MAC')}, {percent(devices['macs_head'] / devices['macs'])}"


def _causes(by_cause: Mapping[str, float | None]) -> str:
    """The causes from the largest down; those below a tenth of a percent are left out."""
    known = [(share, cause) for cause, share in by_cause.items() if share is not None and not math.isnan(share)]
    parts = [f"{cause} {percent(share)}" for share, cause in sorted(known, reverse=True) if share >= 0.001]
    return ", ".join(parts) or "none"
