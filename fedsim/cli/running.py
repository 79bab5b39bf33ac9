"""`fedsim run`: progress while a person looks, Ctrl-C that leaves a valid folder, one final table."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from fedsim.cli.app import INTERRUPTED, complain
from fedsim.experiment.building import Study
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import Watcher, default_folder, run_scenario
from fedsim.report import show
from fedsim.simulation import Simulation
from fedsim.units import human_seconds


class Interruptible(Watcher):
    """Ends the run at the current instant on the first Ctrl-C; the second one stops at once."""

    def __init__(self) -> None:
        self._simulation: Simulation | None = None

    def begin(self, study: Study, simulation: Simulation) -> None:
        """Remember what to stop."""
        self._simulation = simulation

    def end(self) -> None:
        """Nothing is left to stop."""
        self._simulation = None

    def interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle SIGINT."""
        if self._simulation is None or self._simulation.stopping:
            raise KeyboardInterrupt
        self._simulation.stopping = True


class Bar(Interruptible):
    """A progress bar with the time that is left, the clock of the run and the last accuracy."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[clock]}  {task.fields[quality]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID | None = None
        self._rounds: int | None = None
        self._seconds: float | None = None

    def begin(self, study: Study, simulation: Simulation) -> None:
        """Show the bar."""
        super().begin(study, simulation)
        until = study.scenario.until
        self._rounds, self._seconds = until.rounds, until.time
        total = 1.0 if self._rounds or self._seconds else None
        name = f"{study.scenario.name} · {study.scenario.scheduler.name}"
        self._task = self._progress.add_task(name, total=total, clock="", quality="")
        self._progress.start()

    def mark(self, name: str, value: float) -> None:
        """Move the bar on: by published versions or by the clock, whichever is nearer to its end."""
        if self._task is None or self._simulation is None:
            return
        fields: dict[str, Any] = {"clock": human_seconds(self._simulation.now / 1e9)}
        if name == "evaluate":
            fields["quality"] = f"accuracy {value:.3f}"
        if name in ("publish", "evaluate"):
            shares = [self._simulation.now / 1e9 / self._seconds] if self._seconds else []
            if self._rounds and name == "publish":
                shares.append((value - 1) / self._rounds)
            if shares:
                fields["completed"] = max(*shares, self._progress.tasks[0].completed)
        self._progress.update(self._task, **fields)

    def end(self) -> None:
        """Take the bar away."""
        super().end()
        self._progress.stop()


@contextmanager
def _interrupts(watcher: Interruptible) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, watcher.interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_command(source: str, overrides: Sequence[str], out: Path | None, *, as_json: bool) -> int:
    """Run a scenario from the command line; returns the exit status."""
    scenario = load_scenario(source, overrides=overrides)
    folder = out or default_folder(scenario)
    looked_at = sys.stderr.isatty() and not as_json
    watcher = Bar(Console(stderr=True)) if looked_at else Interruptible()
    with _interrupts(watcher):
        done = run_scenario(scenario, folder=folder, watcher=watcher)
    if as_json:
        print(json.dumps(done.summary | {"folder": str(folder)}, indent=1))
    else:
        show([done.summary])
        print(f"\n{folder}/report.html")
    if done.interrupted:
        complain(f"interrupted at {human_seconds(done.summary['seconds'])}; {folder} holds the run up to there")
        return INTERRUPTED
    return 0
