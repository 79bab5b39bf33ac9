"""Runs that differ in nothing but their seed, as one system: means, and the spread over seeds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import numpy as np

from fedsim.report.charts import Series
from fedsim.report.columns import SECOND
from fedsim.report.comparison import Outcome, Table
from fedsim.report.idle import CAUSES
from fedsim.report.measures import Measures, Point
from fedsim.report.progress import bytes_by, joules_by
from fedsim.report.show import labels
from fedsim.report.summary import perplexity

_GRID: Final = 200  # places at which the curves of several seeds are compared


@dataclass(frozen=True, slots=True)
class Run:
    """What the report needs of a run."""

    summary: Mapping[str, Any]
    measures: Measures
    scenario: Mapping[str, Any]
    provenance: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class System:
    """One scenario, run with one seed or several."""

    name: str
    runs: Sequence[Run]

    @property
    def first(self) -> Run:
        """The run that is shown where one has to stand for all: that of the first seed."""
        return self.runs[0]

    @property
    def metric(self) -> str:
        """What quality is measured by."""
        return str(self.first.summary["metric"]["name"])

    def shares(self, who: str) -> list[float | None]:
        """Busy, then idle by cause, of the server or the devices: means over seeds; None where nobody took part."""
        return [_mean([_share(run.summary[who], state) for run in self.runs]) for state in ("busy", *CAUSES)]


def systems(runs: Sequence[Run]) -> list[System]:
    """Runs by what they are apart from their seeds, in the order in which each first comes.

    A seed that comes again, as after a change of fedsim, is a system of its own.
    """
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        plain = {key: value for key, value in run.scenario.items() if key != "seed"}
        same = json.dumps([run.summary["scheduler"], plain], sort_keys=True, default=str)
        seeds = Counter(
            str(other.summary["seed"]) for key, members in found.items() if key[0] == same for other in members
        )
        found.setdefault((same, seeds[str(run.summary["seed"])]), []).append(run)
    several = any(len(members) > 1 for members in found.values())
    firsts = [members[0].summary for members in found.values()]
    names = labels([{**summary, "seed": None} if several else summary for summary in firsts])
    return [System(name, members) for name, members in zip(names, found.values(), strict=True)]


def caption(found: Sequence[System], system: System) -> str:
    """What stands above a system's own part, where there are several."""
    if len(found) == 1:
        return ""
    return system.name if len(system.runs) == 1 else f"{system.name}, seed {system.first.summary['seed']}"


def tabled(found: Sequence[System]) -> Table:
    """The figures of the systems side by side, with a place for each seed, empty where a system has not had it."""
    seeds = list(dict.fromkeys(run.summary["seed"] for system in found for run in system.runs))
    outcomes = []
    for system in found:
        own = {run.summary["seed"]: run.summary for run in system.runs}
        outcomes += [Outcome(system.name, seed, "done", own.get(seed)) for seed in seeds]
    return Table(outcomes, found[0].name)


def quality(point: Point, metric: str) -> float:
    """What a curve shows of an evaluation."""
    if metric == "accuracy":
        return point.accuracy
    return perplexity(point.loss) if metric == "perplexity" else point.loss


def over(system: System, along: str, metric: str) -> Series:
    """Quality over `time` (s), `bytes` or `joules`: the run's own points, or the mean and range of several seeds."""
    lines = [_line(run, along, metric) for run in system.runs]
    lines = [line for line in lines if line]
    if len(lines) < 2:
        return Series(system.name, lines[0] if lines else ())
    grid = np.linspace(max(line[0][0] for line in lines), min(line[-1][0] for line in lines), _GRID)
    if grid[-1] <= grid[0]:
        return Series(system.name, lines[0])
    values = np.array([np.interp(grid, *np.array(line).T) for line in lines])
    at = grid.tolist()
    return Series(
        system.name,
        list(zip(at, values.mean(axis=0).tolist(), strict=True)),
        list(zip(at, values.min(axis=0).tolist(), values.max(axis=0).tolist(), strict=True)),
    )


_ALONG: Final[Mapping[str, Callable[[Measures], Any]]] = {
    "time": lambda measures: _moments(measures) / SECOND,
    "bytes": lambda measures: bytes_by(measures.columns, _moments(measures)),
    "joules": lambda measures: joules_by(measures.columns, _moments(measures)),
}


def _moments(measures: Measures) -> Any:
    return np.array([round(point.time * SECOND) for point in measures.curve], np.int64)


def _line(run: Run, along: str, metric: str) -> list[tuple[float, float]]:
    curve = run.measures.curve
    if not curve:
        return []
    xs = _ALONG[along](run.measures).tolist()
    points = [(float(x), quality(point, metric)) for x, point in zip(xs, curve, strict=True)]
    return [point for point in points if np.isfinite(point).all()]


def _share(node: Mapping[str, Any], state: str) -> float | None:
    value: float | None = node["busy"] if state == "busy" else node["idle_by_cause"][state]
    return value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
