"""A run in MLflow: parameters, metrics, and its folder as artifacts, in the experiment with the scenario's name.

The address is that of a tracking store: of a server, of a database, or a folder. Steps of metrics are numbers of
published models, their times the run's own clock, from 0. Nothing global of MLflow is set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from fedsim.report.tracking.account import Account

_METRICS, _PARAMETERS = 1_000, 100  # what MLflow takes at a time
_LONGEST: Final = 500
"""Characters of a parameter that every store takes; the whole is in `scenario.yaml`, which is an artifact."""


def write(told: Account, where: str) -> None:
    """Record a run."""
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=where)
    experiment = client.get_experiment_by_name(told.scenario)
    number = client.create_experiment(told.scenario) if experiment is None else experiment.experiment_id
    now = time.time_ns() // 1_000_000
    run = client.create_run(number, start_time=now, run_name=told.name, tags={"fedsim.status": told.status})
    key, ended = run.info.run_id, "FAILED"
    try:
        parameters = [Param(name, value[:_LONGEST]) for name, value in told.parameters.items()]
        metrics = [
            Metric(name, value, round(1000 * seconds), step)
            for name, points in told.series.items()
            for step, seconds, value in points
        ]
        metrics += [
            Metric(f"final/{name}", value, round(1000 * told.seconds), told.last)
            for name, value in told.figures.items()
        ]
        for some in _batches(parameters, _PARAMETERS):
            client.log_batch(key, params=some)
        for some in _batches(metrics, _METRICS):
            client.log_batch(key, metrics=some)
        client.log_artifacts(key, str(told.folder))
        ended = {"done": "FINISHED", "stopped": "KILLED"}.get(told.status, "FAILED")
    finally:
        client.set_terminated(key, status=ended)


def _batches(rows: Sequence[Any], size: int) -> list[list[Any]]:
    each = iter(rows)
    found = []
    while some := list(islice(each, size)):
        found.append(some)
    return found
