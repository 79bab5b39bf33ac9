"""Everything the outputs share, computed once: accounts, traffic, work, energy and the curve of quality.

Units here are SI floats where a quantity is for people and exact integers where it is counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fedsim.intervals import added
from fedsim.report.columns import SECOND, Columns, Floats, Ints, tabulate
from fedsim.report.contributions import Contributions, contributions, splits
from fedsim.report.energy import joules
from fedsim.report.idle import Accounts, account
from fedsim.report.traffic import Traffic, traffic
from fedsim.trace import Trace


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation of the published model; NaN where a figure is missing.

    `round` is the last round opened before it, -1 for none; `trained` the samples trained in the run so far.
    """

    time: float
    round: int
    version: int
    accuracy: float
    loss: float
    trained: int
    variants: tuple[tuple[float, float], ...] = ()
    """Accuracy and loss of each variant that is a model of its own; the figures above are then means over devices."""


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures of a run; arrays have an entry a row of the node table.

    `samples` are those of work that was not wasted. `macs` include wasted work, which `wasted_macs` are of; `head_macs`
    are those of auxiliary heads, both ways, `forward_macs` those that go forward through the model's own units.
    `joules` is NaN where the profile has no power, `peak_memory` (bytes) where a node took no part or its memory was
    not accounted.
    """

    columns: Columns
    accounts: Accounts
    traffic: Traffic
    contributions: Contributions
    macs: Ints
    forward_macs: Ints
    head_macs: Ints
    wasted_macs: Ints
    samples: Ints
    joules: Floats
    peak_memory: Floats
    curve: tuple[Point, ...]

    @property
    def seconds(self) -> float:
        """Length of the run on its own clock."""
        return self.columns.end / SECOND

    @property
    def backward_macs(self) -> Ints:
        """MACs that are neither forward nor a head's: the backward, the loss and whatever bends or averages weights."""
        rest: Ints = self.macs - self.forward_macs - self.head_macs
        return rest

    @property
    def splits(self) -> bool:
        """Whether the model is cut, so that the server trains a part of it."""
        return splits(self.columns)

    @property
    def used(self) -> Floats:
        """Nanoseconds that each node was busy: with several lanes of the server, all of them count as one."""
        amounts = self.accounts.busy.astype(np.float64)
        row = self.columns.server
        if row >= 0:
            amounts[row] = self.accounts.lane_busy[row] / max(self.columns.nodes[row].lanes, 1)
        return amounts

    @property
    def idle(self) -> Floats:
        """Fraction of its active horizon that each node was not busy; NaN where it has none."""
        return 1.0 - self.used / np.where(self.accounts.horizon > 0, self.accounts.horizon, np.nan)

    @property
    def idle_whole_run(self) -> Floats:
        """Fraction of the whole run that each node was not busy, done or away included; NaN where it took no part."""
        return np.where(self.accounts.horizon > 0, 1.0 - self.used / max(self.columns.end, 1), np.nan)


def measure(trace: Trace) -> Measures:
    """All measures of a trace."""
    columns = tabulate(trace)
    spans, size, accounts = columns.spans, len(columns.nodes), account(columns)
    kept = ~spans.wasted
    return Measures(
        columns=columns,
        accounts=accounts,
        traffic=traffic(columns),
        contributions=contributions(columns),
        macs=added(spans.node, spans.macs, size),
        forward_macs=added(spans.node, spans.forward_macs, size),
        head_macs=added(spans.node, spans.head_macs, size),
        wasted_macs=added(spans.node[spans.wasted], spans.macs[spans.wasted], size),
        samples=added(spans.node[kept], spans.samples[kept], size),
        joules=joules(columns, accounts),
        peak_memory=_peaks(columns),
        curve=_curve(columns),
    )


def _peaks(columns: Columns) -> Floats:
    """The most that each node has held, from the marks that say so."""
    peaks = np.full(len(columns.nodes), np.nan)
    marks = columns.named("memory.peak")
    np.fmax.at(peaks, columns.table.rows([mark.node for mark in marks]), [mark.value for mark in marks])
    return peaks


def _curve(columns: Columns) -> tuple[Point, ...]:
    points: list[Point] = []
    current = -1
    for mark in columns.named("round.open", "evaluate"):
        if mark.name == "round.open":
            current = int(mark.value)
            continue
        detail = json.loads(mark.detail) if mark.detail else {}
        points.append(
            Point(
                time=mark.time / SECOND,
                round=current,
                version=int(detail.get("version", -1)),
                accuracy=mark.value,
                loss=float(detail.get("loss", math.nan)),
                trained=int(detail.get("trained", 0)),
                variants=tuple((each["accuracy"], each["loss"]) for each in detail.get("variants", ())),
            )
        )
    return tuple(points)


def best(values: Iterable[float], *, lowest: bool = False) -> float | None:
    """The best of the finite values, None where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return min(finite) if lowest else max(finite)


def finite(value: float) -> float | None:
    """A number for JSON: None in the place of NaN and infinities."""
    return float(value) if math.isfinite(value) else None
