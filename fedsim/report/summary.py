"""`summary.json`: the figures of a run under fixed names (schema 1).

Fractions are of a node's active horizon, `idle_whole_run` apart; a figure that this run does not have is null, never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from fedsim.report.columns import SECOND, Bools, Floats, Ints
from fedsim.report.contributions import STEPS, jain
from fedsim.report.energy import energy_label
from fedsim.report.idle import CAUSES, DEPENDENCY
from fedsim.report.measures import Measures, Point, best, finite, measure
from fedsim.report.quality import time_to
from fedsim.report.requests import inference
from fedsim.report.traffic import DIRECTIONS
from fedsim.trace import PURPOSES, Trace

Q = TypeVar("Q")
R = TypeVar("R")

SCHEMA: Final = 1
_ORDER: Final = ("activations", "gradients", "weights", "labels", "control")


def summarise(
    trace: Trace,
    *,
    status: str,
    wall_seconds: float,
    measures: Measures | None = None,
    targets: Sequence[float] = (),
    fidelity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a run.

    Args:
        status: `done`, `stopped` or `failed`.
        wall_seconds: how long the run took on the host.
        measures: those of this trace, where the caller has them already.
        targets: accuracies whose time is asked for, beside the one that the scenario ends at.
        fidelity: what the pacers report, for emulations.
    """
    found = measure(trace) if measures is None else measures
    scenario = trace.scenario
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "name": scenario.get("name"),
        "scheduler": _name(scenario.get("scheduler")),
        "mode": scenario.get("mode"),
        "seed": scenario.get("seed"),
        "status": status,
        "seconds": found.seconds,
        "wall_seconds": wall_seconds,
        "accuracy": _accuracy(found, [*_targets(scenario), *targets]),
        "server": _server(found),
        "devices": _devices(found),
        "bytes": _bytes(found),
        "throughput": _throughput(found),
        "metric": _metric(found.curve, metric_name(scenario)),
        "deployment": _deployment(found),
        "contributions": _contributions(found),
        "energy_label": energy_label(trace.nodes),
        "identity": {
            "time_error_s": float(np.abs(found.accounts.missing).max(initial=0)) / SECOND,
            "bytes_in_flight": found.traffic.in_flight,
            "bytes_wasted": found.traffic.wasted,
        },
    }
    answered = inference(found)
    if answered is not None:
        summary["inference"] = answered
    variants = _variants(found, summary)
    if variants:
        shares = [mark.value for mark in found.columns.named("covered")]
        coverage = {"min": min(shares), "mean": sum(shares) / len(shares), "max": max(shares)} if shares else None
        reached = found.columns.named("reached")
        if coverage is not None and reached:
            coverage["reached"] = reached[-1].value
        summary["pruning"] = {"variants": variants, "coverage": coverage}
    if fidelity is not None:
        summary["fidelity"] = dict(fidelity)
    return summary


def metric_name(scenario: Mapping[str, Any]) -> str:
    """What the quality of this run is measured by: perplexity for text, else what `until` asks for, else accuracy."""
    until, data = scenario.get("until") or {}, scenario.get("data") or {}
    if until.get("perplexity") is not None or data.get("tokens"):
        return "perplexity"
    return "loss" if until.get("loss") is not None and until.get("accuracy") is None else "accuracy"


def utilisation(measures: Measures) -> tuple[Floats, Floats]:
    """Busy fraction (of its lanes, for the server), and idle fractions by cause, of every node; NaN without horizon.

    A lane of the server without work while another one computes waits for its devices: dependency.
    """
    accounts = measures.accounts
    horizon = np.where(accounts.horizon > 0, accounts.horizon.astype(np.float64), np.nan)
    busy, idle = measures.used / horizon, accounts.idle / horizon
    idle[DEPENDENCY] += (accounts.busy - measures.used) / horizon
    return busy, idle


def _server(measures: Measures) -> dict[str, Any]:
    row = measures.columns.server
    busy, idle = utilisation(measures)
    rows = np.arange(len(busy)) == row
    return {
        **_fractions(busy[rows], idle[:, rows]),
        "idle_whole_run": _mean(measures.idle_whole_run[rows]),
        "peak_memory_bytes": _most(measures.peak_memory[rows]),
        "joules": _sum(measures.joules[rows]),
    }


def _devices(measures: Measures) -> dict[str, Any]:
    rows = measures.columns.devices
    busy, idle = utilisation(measures)
    present = rows & ~np.isnan(busy)
    alone = measures.idle[present]
    head = int(measures.head_macs[rows].sum())
    return {
        "count": int(rows.sum()),
        **_fractions(busy[present], idle[:, present]),
        "idle_min": float(alone.min()) if len(alone) else None,
        "idle_max": float(alone.max()) if len(alone) else None,
        "idle_whole_run": _mean(measures.idle_whole_run[present]),
        "macs": int(measures.macs[rows].sum()),
        "macs_forward": int(measures.forward_macs[rows].sum()),
        "macs_backward": int(measures.backward_macs[rows].sum()),
        "macs_head": head or None,
        "macs_wasted": int(measures.wasted_macs[rows].sum()),
        "peak_memory_bytes": _most(measures.peak_memory[rows]),
        "joules": _sum(measures.joules[rows]),
    }


def _fractions(busy: Floats, idle: Floats) -> dict[str, Any]:
    """Means over nodes."""
    if not len(busy) or np.isnan(busy).all():
        return {"idle": None, "idle_by_cause": dict.fromkeys(CAUSES), "busy": None}
    by_cause = dict(zip(CAUSES, idle.mean(axis=1).tolist(), strict=True))
    return {"idle": 1.0 - float(busy.mean()), "idle_by_cause": by_cause, "busy": float(busy.mean())}


def _mean(values: Floats) -> float | None:
    return finite(float(values.mean())) if len(values) else None


def _most(values: Floats) -> int | None:
    """The greatest of the values that are known."""
    known = values[~np.isnan(values)]
    return int(known.max()) if len(known) else None


def _sum(values: Floats) -> float | None:
    return finite(float(values.sum())) if len(values) else None


def _accuracy(measures: Measures, targets: Sequence[float]) -> dict[str, Any]:
    values = [point.accuracy for point in measures.curve]
    reached = {f"{target:g}": finite(time_to(measures, target)) for target in targets}
    return {"final": finite(values[-1]) if values else None, "best": best(values), "time_to": reached}


def _metric(curve: Sequence[Point], name: str) -> dict[str, Any]:
    if name == "accuracy":
        values = [point.accuracy for point in curve]
    else:
        values = [point.loss if name == "loss" else perplexity(point.loss) for point in curve]
    final = finite(values[-1]) if values else None
    return {"name": name, "final": final, "best": best(values, lowest=name != "accuracy")}


def perplexity(loss: float) -> float:
    """The perplexity of a mean loss a token; infinite where it does not fit a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _bytes(measures: Measures) -> dict[str, Any]:
    """What was delivered: by direction and purpose, in all, and of that payload and envelopes; what was lost, apart."""
    totals = measures.traffic.totals(measures.columns.server)
    total, envelope = int(totals.sum()), int(totals[:, PURPOSES.index("control")].sum())
    found: dict[str, Any] = {
        direction: {purpose: int(totals[index, PURPOSES.index(purpose)]) for purpose in _ORDER}
        for index, direction in enumerate(DIRECTIONS)
    }
    wasted = measures.traffic.wasted
    return {**found, "total": total, "payload": total - envelope, "envelope": envelope, "wasted": wasted}


def _throughput(measures: Measures) -> dict[str, float | None]:
    """Samples a second of the whole run; where the model is not cut, the devices' rate is end to end.

    A split system is as fast as its slower half: end to end its rate is 0 before the server has trained anything. Where
    devices do nothing but infer, since their block is frozen, they have no rate, and the server's is end to end.
    """
    rows, seconds = measures.columns.devices, measures.seconds
    if not seconds:
        return dict.fromkeys(("device_samples_per_s", "server_samples_per_s", "end_to_end_samples_per_s"))
    spans = measures.columns.spans
    frozen = measures.splits and bool(spans.kind.among("infer")[rows[spans.node]].all()) and rows[spans.node].any()
    device = None if frozen else int(measures.samples[rows].sum()) / seconds
    server = int(measures.samples[~rows].sum()) / seconds if measures.splits else None
    return {
        "device_samples_per_s": device,
        "server_samples_per_s": server,
        "end_to_end_samples_per_s": min((rate for rate in (device, server) if rate is not None), default=None),
    }


def _variants(measures: Measures, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pruned variants, each with the quality of what it has of the last model; that of the run, where it has all."""
    variants: list[dict[str, Any]] = [json.loads(mark.detail) for mark in measures.columns.named("pruning")]
    of_run = {"accuracy": summary["accuracy"]["final"], "loss": measures.curve[-1].loss if measures.curve else None}
    before: dict[tuple[int, ...], dict[str, float]] = {}
    after: dict[tuple[int, ...], dict[str, float]] = {}
    for mark in measures.columns.named("evaluate.variant"):
        detail = json.loads(mark.detail)
        found = before if mark.time == 0 else after
        found[tuple(detail["groups"])] = {"accuracy": mark.value, "loss": detail["loss"]}
    named = [(tuple(variant.get("groups", ())), variant) for variant in variants]
    return [
        {**variant, "quality": _of_groups(after, groups, of_run), "quality_at_start": _of_groups(before, groups, None)}
        for groups, variant in named
    ]


def _of_groups(found: Mapping[tuple[int, ...], Q], groups: tuple[int, ...], otherwise: R) -> Q | R:
    """What is known of the variant that these groups, and maybe others, have."""
    return next((quality for those, quality in found.items() if set(groups) <= set(those)), otherwise)


def _deployment(measures: Measures) -> dict[str, float | None]:
    """Bytes and MACs of all nodes together; seconds of the slowest, since nodes are installed side by side."""
    details = [json.loads(mark.detail or "{}") for mark in measures.columns.named("deployment")]

    def all_of(key: str) -> list[Any]:
        return [detail[key] for detail in details if detail.get(key) is not None]

    return {
        "bytes": sum(all_of("bytes")) if all_of("bytes") else None,
        "seconds": max(all_of("seconds"), default=None),
        "macs": sum(all_of("macs")) if all_of("macs") else None,
    }


def _contributions(measures: Measures) -> dict[str, Any]:
    """The fewest and the most that a device has contributed, how evenly, of what kind; totals of all devices.

    And the samples that micro-batches left out, and the share of the data that a pool has of what it should have, where
    a system says so.
    """
    rows, found = measures.columns.devices, measures.contributions
    dropped, coverage = measures.columns.named("dropped"), measures.columns.named("coverage")
    counts = found.counts[rows]
    return {
        "min": int(counts.min()) if len(counts) else None,
        "max": int(counts.max()) if len(counts) else None,
        "jain": jain(counts),
        "kind": found.kind,
        **{name: _total(getattr(found, name), rows) for name in STEPS},
        "dropped_samples": int(sum(mark.value for mark in dropped)) if dropped else None,
        "coverage": coverage[-1].value if coverage else None,
    }


def _total(given: Ints | None, rows: Bools) -> int | None:
    return None if given is None or not rows.any() else int(given[rows].sum())


def _targets(scenario: Mapping[str, Any]) -> Sequence[float]:
    target = (scenario.get("until") or {}).get("accuracy")
    return [] if target is None else [float(target)]


def _name(scheduler: object) -> object:
    return scheduler.get("name") if isinstance(scheduler, Mapping) else scheduler
