"""A run in MLflow's stores, read back by MLflow itself; skipped where that is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.tracking.runs import finished

pytest.importorskip("mlflow", reason="the extra track is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_run_is_an_experiments_run(tmp_path: Path) -> None:
    """Metrics with models as steps and the run's clock as time, parameters, status, and the folder as artifacts."""
    from mlflow.tracking import MlflowClient

    from fedsim.report.folder import read_run
    from fedsim.report.tracking.account import account
    from fedsim.report.tracking.mlflow_records import write

    told = account(read_run(finished(tmp_path / "first")))
    where = f"sqlite:///{tmp_path}/store.db"
    client = MlflowClient(tracking_uri=where)
    number = client.create_experiment("toy", artifact_location=(tmp_path / "artifacts").as_uri())
    write(told, where)
    (run,) = client.search_runs([number])
    assert (run.info.run_name, run.info.status, run.data.tags["fedsim.status"]) == ("first", "FINISHED", "done")
    assert run.data.params == {key: value[:500] for key, value in told.parameters.items()}
    assert {key.removeprefix("final/") for key in run.data.metrics if key.startswith("final/")} == set(told.figures)
    for name, points in told.series.items():
        found = [(one.step, one.timestamp, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        assert sorted(found) == [(step, round(1000 * seconds), value) for step, seconds, value in points]
    assert {one.path for one in client.list_artifacts(run.info.run_id)} >= {"scenario.yaml", "trace.parquet"}
