"""`fedsim run`: progress while a person looks, Ctrl-C that leaves a valid folder, one final table."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from fedsim.cli import INTERRUPTED, leave
from fedsim.cli.app import complain
from fedsim.errors import UserError
from fedsim.experiment.building import Study
from fedsim.experiment.loading import is_sweep, load_scenario
from fedsim.experiment.output import Output
from fedsim.experiment.running import Clocked, Run, Watcher, run_scenario
from fedsim.report import show
from fedsim.units import human_seconds


class Interruptible(Watcher):
    """Answers Ctrl-C. Before the clock starts, and the second time: out at once. The first time while it runs: the
    run ends at the current instant. The first time afterwards: the folder is still written.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._simulation: Clocked | None = None

    def begin(self, study: Study, simulation: Clocked) -> None:
        """Remember what to stop."""
        self._simulation = simulation

    def warn(self, text: str) -> None:
        """Say it on standard error."""
        print(f"note: {text}", file=sys.stderr)

    def interrupt(self, signal_: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        if self._simulation is None or self.pressed:
            leave(signal_, frame)
        else:
            self.pressed = self._simulation.stopping = True
            os.write(2, b"\nstopping here; Ctrl-C again leaves at once\n")


class Bar(Interruptible):
    """A progress bar with the time that is left, the clock of the run and the last accuracy."""

    def __init__(self, console: Console, name: str | None = None) -> None:
        super().__init__()
        self._name = name
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
        self._share = 0.0
        self._rounds: int | None = None
        self._seconds: float | None = None

    def begin(self, study: Study, simulation: Clocked) -> None:
        """Show the bar."""
        super().begin(study, simulation)
        until = study.scenario.until
        self._rounds, self._seconds = until.rounds, until.time
        total = 1.0 if self._rounds or self._seconds else None
        name = self._name or f"{study.scenario.name} · {study.scenario.scheduler.name}"
        self._task = self._progress.add_task(escape(name), total=total, clock="", quality="")
        self._progress.start()

    def mark(self, name: str, value: float) -> None:
        """Move the bar on: by published versions or by the clock, whichever is nearer to its end."""
        if self._task is None or self._simulation is None:
            return
        seconds = self._simulation.now / 1e9
        fields: dict[str, Any] = {"clock": human_seconds(seconds)}
        if name == "evaluate":
            fields["quality"] = f"accuracy {value:.3f}"
        if name == "publish" and self._rounds:
            self._share = max(self._share, (value - 1) / self._rounds)
        if self._seconds:
            self._share = max(self._share, seconds / self._seconds)
        self._progress.update(self._task, completed=self._share, **fields)

    def end(self) -> None:
        """Take the bar away."""
        self._progress.stop()

    def interrupt(self, signal_: int, frame: FrameType | None) -> None:
        """Handle SIGINT; whoever leaves at once gets the cursor back, without the locks that `stop` would take."""
        if self.pressed:
            os.write(2, b"\r\x1b[2K\x1b[?25h")
        super().interrupt(signal_, frame)


@contextmanager
def interrupts(answer: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, Ctrl-C is answered by this."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    before = signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_command(
    source: str,
    overrides: Sequence[str],
    out: Path | None,
    *,
    ray: str | None = None,
    jobs: int | None = None,
    as_json: bool,
) -> int:
    """Run a scenario, or all cells of a sweep, from the command line; returns the exit status."""
    if is_sweep(source, overrides):
        from fedsim.cli.sweeping import sweep_command

        return sweep_command(source, overrides, out, ray=ray, jobs=jobs or 1, as_json=as_json)
    scenario = load_scenario(source, overrides=overrides)
    if jobs is not None:
        raise UserError(f"--jobs {jobs} shares the runs of a sweep, and {scenario.name} is one run; leave it out")
    if ray is not None and scenario.mode != "emulate" and scenario.workers.kind != "ray":
        raise UserError(
            f"--ray {ray} is for emulations and for pools of workers, and this simulation works in one process; give "
            "--workers N, --mode emulate, or leave --ray out"
        )
    looked_at = sys.stderr.isatty() and not as_json
    watcher = Bar(Console(stderr=True)) if looked_at else Interruptible()
    with interrupts(watcher.interrupt):
        done = run_scenario(scenario, output=Output(out), watcher=watcher, ray=ray)
    return ended(done, watcher, as_json=as_json)


def ended(done: Run, watcher: Interruptible, *, as_json: bool) -> int:
    """Print what came of a run, and what a reader of that should know; returns the exit status."""
    if as_json:
        print(json.dumps(done.summary | {"folder": str(done.folder)}, indent=1))
    else:
        show([done.summary])
        print(f"\n{done.folder}/report.html")
    for remark in done.remarks():
        print(f"note: {remark}", file=sys.stderr)
    if done.interrupted:
        complain(f"interrupted at {human_seconds(done.summary['seconds'])}; {done.folder} holds the run up to there")
    elif watcher.pressed:
        complain(f"interrupted after the run had ended; {done.folder} holds all of it")
    return INTERRUPTED if watcher.pressed else 0
