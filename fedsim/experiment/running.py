"""Running a scenario from end to end, into a run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import RunError, UserError
from fedsim.experiment.artifacts import save_model
from fedsim.experiment.building import Study, build
from fedsim.experiment.loading import load_scenario, named
from fedsim.report import Measures, check_identity, measure, summarise, write_run
from fedsim.scenario import Scenario, dump
from fedsim.simulation import Ending, Inline, Simulation
from fedsim.trace import Trace

if TYPE_CHECKING:
    from torch import Tensor


class Watcher:
    """Follows a run; override what is of interest."""

    def begin(self, study: Study, simulation: Simulation) -> None:
        """All parts are there and the clock is about to start. `simulation.stopping = True` ends the run."""

    def mark(self, name: str, value: float) -> None:
        """A moment of the run: `round.open`, `publish`, `evaluate` and the like."""

    def end(self) -> None:
        """The clock has stopped."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    scenario: Scenario
    summary: dict[str, Any]
    trace: Trace
    measures: Measures
    weights: dict[str, Tensor] | None
    folder: Path | None
    interrupted: bool = False

    @property
    def curves(self) -> list[dict[str, Any]]:
        """Quality over time: a row an evaluation, with time, version, accuracy, loss and samples trained."""
        return [asdict(point) for point in self.measures.curve]


def run(
    source: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    watcher: Watcher | None = None,
    **updates: Any,
) -> Run:
    """Run a scenario.

    Args:
        source: a name of the catalogue, the path of a file, or the same data as a mapping.
        out: the run folder; nothing is written without one.
        overrides: `key.path=value` each, as with `--set`.
        updates: sections or keys that replace those of the source, such as `until={"rounds": 40}`; a scheduler,
            model or data set may be an object.

    Raises:
        UserError: the scenario is wrong, or `out` already holds a run.
        RunError: the run could not be finished.
    """
    plain, objects = named(updates)
    scenario = load_scenario(source, overrides=overrides, updates=plain, objects=objects)
    return run_scenario(scenario, folder=None if out is None else Path(out), watcher=watcher, objects=objects)


def default_folder(scenario: Scenario) -> Path:
    """`runs/NAME-SCHEDULER-UTC`, a fresh one."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scheduler = scenario.scheduler.name.rpartition(":")[2]
    folder = first = Path("runs") / f"{scenario.name}-{scheduler}-{stamp}"
    number = 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def run_scenario(
    scenario: Scenario,
    *,
    folder: Path | None = None,
    watcher: Watcher | None = None,
    objects: Mapping[str, Any] | None = None,
) -> Run:
    """Run a checked scenario; see `run`."""
    began = time.monotonic()
    study = build(scenario, objects or {})
    if folder is not None:
        _prepare(folder, scenario)
    watch = watcher or Watcher()
    host = study.host() if scenario.learning else None
    simulation = study.assembly.simulation(None if host is None else Inline(host), observe=watch.mark)
    status = "done"
    with _threads(scenario):
        watch.begin(study, simulation)
        try:
            ending = simulation.run()
        except RunError:
            if folder is not None:
                _finish(folder, simulation.trace, "failed", time.monotonic() - began)
            raise
        finally:
            watch.end()
        weights = None
        if host is not None and simulation.published is not None:
            weights = host.model_tensors(simulation.published.model)
    check_identity(simulation.trace)
    if ending is Ending.INTERRUPTED:
        status = "stopped"
    if folder is not None and weights is not None:
        save_model(folder, study, weights)
    measures, summary = _finish(folder, simulation.trace, status, time.monotonic() - began)
    return Run(scenario, summary, simulation.trace, measures, weights, folder, ending is Ending.INTERRUPTED)


def _prepare(folder: Path, scenario: Scenario) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder} already exists and is not empty; choose another folder, or remove it first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made: {error.strerror}; choose another folder") from error
    (folder / "scenario.yaml").write_text(dump(scenario), encoding="utf-8")


def _finish(folder: Path | None, trace: Trace, status: str, wall_seconds: float) -> tuple[Measures, dict[str, Any]]:
    measures = measure(trace)
    summary = summarise(trace, status=status, wall_seconds=wall_seconds, measures=measures)
    if folder is not None:
        write_run(folder, trace, summary, measures)
    return measures, summary


def _threads(scenario: Scenario) -> AbstractContextManager[None]:
    if not scenario.learning:
        return nullcontext()
    from fedsim.learning.threads import intra_op_threads

    return intra_op_threads(scenario.workers.threads)
