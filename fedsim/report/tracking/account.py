"""What a tracker is told of a run: series over models and over the run's own time, final figures, parameters.

Knows no tracker. A series has a point an evaluation of the published model (quality), or a point a published model
(bytes delivered so far, rounds closed so far); its step is the number of the model, its time the run's own clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from fedsim.report.columns import SECOND
from fedsim.report.folder import RunFolder
from fedsim.report.identity import DELIVERED
from fedsim.report.measures import Measures, measure
from fedsim.report.summary import metric_name, perplexity

MOST: Final = 1_000
"""Points of a series about published models; of more, some from all over are taken, and the last one."""


class Point(NamedTuple):
    """A value of a series."""

    step: int
    """Number of the published model."""
    seconds: float
    """Of the run's own clock."""
    value: float


@dataclass(frozen=True)
class Account:
    """A run as trackers know it; names have parts with slashes in between."""

    folder: Path
    scenario: str
    """Its name."""
    status: str
    seconds: float
    """Length on the run's own clock."""
    series: Mapping[str, tuple[Point, ...]]
    figures: Mapping[str, float]
    parameters: Mapping[str, str]

    @property
    def name(self) -> str:
        """That of the run's folder."""
        return self.folder.resolve().name

    @property
    def last(self) -> int:
        """The last step of any series."""
        return max((points[-1].step for points in self.series.values()), default=0)


def account(run: RunFolder) -> Account:
    """The account of a finished run."""
    measures = measure(run.trace)
    series = {**_quality(measures, run.trace.scenario), **_progress(measures)}
    return Account(
        folder=run.folder,
        scenario=str(run.summary["name"]),
        status=str(run.summary["status"]),
        seconds=float(run.summary["seconds"]),
        series={name: points for name, points in series.items() if points},
        figures=dict(_figures(run.summary)),
        parameters=dict(_parameters(run.trace.scenario)),
    )


def _quality(measures: Measures, scenario: Mapping[str, Any]) -> dict[str, tuple[Point, ...]]:
    curve = measures.curve
    values = {"accuracy": [point.accuracy for point in curve], "loss": [point.loss for point in curve]}
    if metric_name(scenario) == "perplexity":
        values["perplexity"] = [perplexity(point.loss) for point in curve]
    return {
        f"quality/{name}": tuple(
            Point(point.version, point.time, value)
            for point, value in zip(curve, column, strict=True)
            if math.isfinite(value)
        )
        for name, column in values.items()
    }


def _progress(measures: Measures) -> dict[str, tuple[Point, ...]]:
    columns = measures.columns
    published = columns.named("publish")
    if len(published) > MOST:
        published = [published[at] for at in np.linspace(0, len(published) - 1, MOST).astype(int).tolist()]
    moments = np.array([mark.time for mark in published], np.int64)
    sent, closed = columns.transfers, np.sort([mark.time for mark in columns.named("round.close")])
    delivered = sent.outcome.among(DELIVERED)
    up = sent.target == columns.server
    found = {"rounds": np.searchsorted(closed, moments, "right")} if len(closed) else {}
    for direction, here in (("up", delivered & up), ("down", delivered & ~up)):
        order = np.argsort(sent.arrived[here], kind="stable")
        reached = np.append(0, np.cumsum(sent.bytes[:, here].sum(axis=0)[order]))
        found[f"bytes/{direction}"] = reached[np.searchsorted(sent.arrived[here][order], moments, "right")]
    return {
        f"progress/{name}": tuple(
            Point(int(mark.value), mark.time / SECOND, float(value))
            for mark, value in zip(published, column.tolist(), strict=True)
        )
        for name, column in found.items()
    }


def _figures(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a summary; what a run does not have is left out."""
    for key, value in tree.items():
        name = f"{path}/{key}" if path else key
        if isinstance(value, Mapping):
            yield from _figures(value, name)
        elif isinstance(value, int | float) and name not in ("schema", "seed"):
            yield name, float(value)


def _parameters(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """All leaves of a resolved scenario, lists of leaves as JSON."""
    children: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        children = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        children = [(str(index), child) for index, child in enumerate(value)]
    for key, child in children:
        yield from _parameters(child, f"{path}.{key}" if path else key)
    if not children and path:
        yield path, value if isinstance(value, str) else json.dumps(value)
