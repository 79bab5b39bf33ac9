"""One scenario in many cells and seeds as a table: a row a cell, such as a scheduler, a column a figure.

Pure functions of summaries: mean and standard deviation over seeds, the best of each column, ratios to a baseline.
Knows what a summary's figures are called and which end of them is better; nothing of folders, terminals or pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from statistics import fmean, stdev
from typing import Any, Final, Literal

from fedsim.report.show import MISSING, UNREACHED, percent, rate
from fedsim.units import human_count, human_seconds

Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a summary, and which end of it is better: the higher (+1), the lower (-1) or none (0).

    `key` names it for programs, `label` for people, `head` where there is little room. `find` gives None where a
    summary lacks the figure. Those that are `weighed` also stand in the table of ratios.
    """

    key: str
    label: str
    head: str
    find: Callable[[Summary], float | None]
    write: Callable[[float], str]
    better: int = 0
    weighed: bool = False


@dataclass(frozen=True, slots=True)
class Statistic:
    """A figure over seeds: `values` has a place for each seed, None where there is none; infinite is never reached."""

    values: tuple[float | None, ...]

    @property
    def known(self) -> list[float]:
        """The values that there are."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """The mean; infinite as soon as one value is."""
        return fmean(self.known) if self.known else None

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds as a sample (n - 1); None for one seed, or without a finite mean."""
        finite = len(self.known) > 1 and all(map(math.isfinite, self.known))
        return stdev(self.known) if finite else None

    def text(self, write: Callable[[float], str]) -> str:
        """As people read it: `6.33 ± 0.12 s`, both numbers in the unit and to the digit that suit the mean."""
        mean, std, reached = self.mean, self.std, sum(map(math.isfinite, self.known))
        if mean is None:
            return MISSING
        if not math.isfinite(mean):
            return f"reached {reached} of {len(self.known)}" if reached else UNREACHED
        if std is None:
            return write(mean)
        number, _, unit = write(mean).partition(" ")
        spread = abs(std * float(number.replace(",", "")) / mean) if mean else std
        shown = f"{spread:.2g}" if "e" in number else f"{spread:,.{len(number.partition('.')[2])}f}"
        return f"{number} ± {shown} {unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one cell with one seed. Only a run that is done has a summary that counts."""

    label: str
    seed: int
    status: Literal["done", "stopped", "failed", "refused", "pending"]
    summary: Summary | None = None
    reason: str = ""
    at: Mapping[str, str] = field(default_factory=dict)
    """The cell's choice on each axis: for a comparison, its scheduler."""


@dataclass(frozen=True)
class Table:
    """Outcomes in their order: as many of every cell, for the same seeds."""

    outcomes: Sequence[Outcome]
    baseline: str

    @cached_property
    def runs(self) -> dict[str, list[Summary | None]]:
        """Summaries by cell, one place a seed; None where no run was done."""
        found: dict[str, list[Summary | None]] = {}
        for one in self.outcomes:
            found.setdefault(one.label, []).append(one.summary if one.status == "done" else None)
        return found

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The figures that at least one run has."""
        every = [summary for row in self.runs.values() for summary in row if summary is not None]
        return tuple(column for column in _columns(every) if any(column.find(summary) is not None for summary in every))

    def said(self, label: str) -> str:
        """A cell's name, and how many of its runs came to nothing, where some did."""
        states = [one.status for one in self.outcomes if one.label == label]
        lost = [status for status in states if status != "done"]
        if not lost:
            return label
        share = "" if len(lost) == len(states) else f"{len(lost)} of {len(states)} "
        return f"{label} ({share}{lost[0]})"

    def statistic(self, label: str, column: Column) -> Statistic:
        """A figure of a cell, seed by seed."""
        return Statistic(tuple(None if one is None else column.find(one) for one in self.runs[label]))

    def best(self, column: Column) -> set[str]:
        """The cells that are best by their means, to the digits that people see.

        None where no end is better, or all that have the figure are alike.
        """
        means = [(label, mean) for label in self.runs if (mean := self.statistic(label, column).mean) is not None]
        reached = [mean for _, mean in means if math.isfinite(mean)]
        if not column.better or not reached:
            return set()
        top = column.write(max(reached) if column.better > 0 else min(reached))
        best = {label for label, mean in means if math.isfinite(mean) and column.write(mean) == top}
        return best if len(best) < len(means) else set()

    def ratio(self, label: str, column: Column) -> float | None:
        """A cell's mean by the baseline's, over the seeds that both have; None where it is no number.

        Infinite where only the baseline has reached a target, 0 where only this one has.
        """
        own, other = self.statistic(label, column).values, self.statistic(self.baseline, column).values
        pairs = [(a, b) for a, b in zip(own, other, strict=True) if a is not None and b is not None]
        if not pairs:
            return None
        above, below = fmean(a for a, _ in pairs), fmean(b for _, b in pairs)
        if not below or (math.isinf(above) and math.isinf(below)):
            return None
        return above / below

    def document(self) -> dict[str, Any]:
        """The table as plain data. JSON has no infinity: it is null, and `reached` says in how many seeds it is not."""
        return {
            "columns": {c.key: {"label": c.label, "better": _END[c.better]} for c in self.columns},
            "table": {label: {c.key: self._entry(label, c) for c in self.columns} for label in self.runs},
            "best": {c.key: [label for label in self.runs if label in self.best(c)] for c in self.columns},
            "ratios": {label: {c.key: _finite(self.ratio(label, c)) for c in self.columns} for label in self.runs},
        }

    def _entry(self, label: str, column: Column) -> dict[str, Any]:
        found = self.statistic(label, column)
        entry: dict[str, Any] = {
            "mean": _finite(found.mean),
            "std": _finite(found.std),
            "values": [_finite(value) for value in found.values],
        }
        if column.key.startswith(_TIME_TO):
            entry["reached"] = sum(map(math.isfinite, found.known))
        return entry

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a run, for a table of numbers: its place, seed, status and every figure; infinite: never reached."""
        for one in self.outcomes:
            summary = one.summary if one.status == "done" else None
            known = {
                f"{column.key} of the run" if column.key in one.at else column.key: None
                if summary is None
                else column.find(summary)
                for column in self.columns
            }
            yield {**one.at, "seed": one.seed, "status": one.status, "reason": one.reason, **known}


@dataclass(frozen=True, slots=True)
class Grid:
    """A table for people, to be drawn by whoever has a terminal or a page: cells with whether each is a best one."""

    title: str
    heads: Sequence[Column]
    rows: Mapping[str, Sequence[tuple[str, bool]]]
    notes: Sequence[str] = ()
    """What is to be said below it."""


def grids(table: Table) -> list[Grid]:
    """The figures with the best marked, and the ratios of the most asked for to the baseline's."""
    figures = {
        table.said(label): [
            (table.statistic(label, column).text(column.write), label in table.best(column)) for column in table.columns
        ]
        for label in table.runs
    }
    seeds = max(map(len, table.runs.values()), default=0)
    over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    lost = [f"{one.label}, seed {one.seed}: {one.status}; {one.reason}" for one in table.outcomes if one.reason]
    found = [Grid(f"figures{over}", table.columns, figures, lost)]
    weighed = [column for column in table.columns if column.weighed]
    if len(figures) > 1 and weighed:
        ratios = {
            table.said(label): [(_times(table.ratio(label, column)), False) for column in weighed]
            for label, row in table.runs.items()
            if any(row)
        }
        found.append(Grid(f"ratios to {table.baseline}", weighed, ratios))
    return found


_END: Final = {1: "higher", -1: "lower", 0: None}
_TIME_TO: Final = "time_to_"


def _columns(summaries: Sequence[Summary]) -> Iterator[Column]:
    metrics = [str(metric["name"]) for metric in (summary.get("metric") for summary in summaries) if metric]
    metric = metrics[0] if metrics else "accuracy"
    quality, up = (percent, 1) if metric == "accuracy" else ("{:.4g}".format, -1)
    yield Column("seconds", "length of the run", "length", _at("seconds"), human_seconds, 0, True)
    yield Column(f"final_{metric}", f"final {metric}", metric, _at("metric", "final"), quality, up)
    yield Column(f"best_{metric}", f"best {metric}", f"best\n{metric}", _at("metric", "best"), quality, up)
    yield from _targets(summaries)
    end_to_end = _at("throughput", "end_to_end_samples_per_s")
    server = _at("throughput", "server_samples_per_s")
    yield Column("end_to_end_samples_per_s", "samples/s, end to end", "samples/s", end_to_end, rate, 1, True)
    yield Column("server_samples_per_s", "samples/s, server", "samples/s\nserver", server, rate, 1)
    yield Column("server_idle", "server idle", "server\nidle", _at("server", "idle"), percent, -1, True)
    yield Column("devices_idle", "devices idle", "devices\nidle", _at("devices", "idle"), percent, -1, True)
    whole = _at("devices", "idle_whole_run")
    yield Column("devices_idle_whole_run", "devices idle, whole run", "idle\nall run", whole, percent, -1)
    yield from _contributions(summaries)
    yield Column("bytes_total", "bytes, both ways", "bytes", _at("bytes", "total"), _bytes, -1, True)
    yield Column("bytes_up", "bytes up", "bytes\nup", _sum("bytes", "up"), _bytes, -1)
    yield Column("bytes_down", "bytes down", "bytes\ndown", _sum("bytes", "down"), _bytes, -1)
    macs = _at("devices", "macs")
    yield Column("devices_macs", "device work", "device\nwork", macs, lambda value: human_count(value, "MAC"), -1, True)
    for who, one in (("devices", "device"), ("server", "server")):
        peak = _at(who, "peak_memory_bytes")
        yield Column(f"{who}_peak_memory_bytes", f"{one} memory, peak", f"{one}\nmemory", peak, _bytes, -1)
    for who, one in (("devices", "device"), ("server", "server")):
        joules = _at(who, "joules")
        energy: Callable[[float], str] = partial(human_count, unit="J")
        yield Column(f"{who}_joules", f"{one} energy", f"{one}\nenergy", joules, energy, -1, who == "devices")


def _targets(summaries: Sequence[Summary]) -> Iterator[Column]:
    """The time to every target accuracy; one that was not reached is infinitely late."""

    def late(target: str, summary: Summary) -> float | None:
        accuracy = summary.get("accuracy") or {}
        if target not in accuracy.get("time_to", {}) or accuracy.get("best") is None:  # not asked for, or not looked at
            return None
        reached: float | None = accuracy["time_to"][target]
        return math.inf if reached is None else reached

    every = [target for summary in summaries for target in (summary.get("accuracy") or {}).get("time_to", {})]
    for target in sorted(dict.fromkeys(every), key=float):
        share = f"{float(target) * 100:.4g} %"
        find = partial(late, target)
        yield Column(f"{_TIME_TO}{target}", f"time to {share} accuracy", f"to {share}", find, human_seconds, -1, True)


def _contributions(summaries: Sequence[Summary]) -> Iterator[Column]:
    """What the least and the most contributing device gave, and how evenly: comparable where all give the same."""
    kinds = {str((summary.get("contributions") or {}).get("kind")) for summary in summaries}
    fewest, most = _at("contributions", "min"), _at("contributions", "max")
    yield Column("contributions_min", "contributions, least device", "fewest\ncontrib.", fewest, rate)
    yield Column("contributions_max", "contributions, most device", "most\ncontrib.", most, rate)
    even: Callable[[float], str] = "{:.3f}".format
    jain = _at("contributions", "jain")
    yield Column("contributions_jain", "balance of these (Jain)", "balance", jain, even, int(len(kinds) == 1))


def _at(*keys: str) -> Callable[[Summary], float | None]:
    """Finds the number under nested keys; None where there is none."""

    def find(summary: Summary) -> float | None:
        found: Any = summary
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) else None

    return find


def _sum(*keys: str) -> Callable[[Summary], float | None]:
    """Finds the sum of the numbers in the mapping under nested keys."""

    def find(summary: Summary) -> float | None:
        found: Any = summary
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return float(sum(found.values())) if isinstance(found, Mapping) else None

    return find


def _bytes(value: float) -> str:
    return human_count(value, "B")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _times(ratio: float | None) -> str:
    if ratio is None:
        return MISSING
    return f"{ratio:.3g}x" if math.isfinite(ratio) else UNREACHED
