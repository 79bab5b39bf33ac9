"""`fedsim compare`: a line a cell while a person looks, tables with the best marked, Ctrl-C that keeps what is done."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from fedsim.cli import INTERRUPTED, WRONG_INPUT, leave
from fedsim.cli.app import complain
from fedsim.cli.printing import wide_console
from fedsim.cli.watching import CURSOR, STOPPING, Bar, interrupts
from fedsim.errors import UserError
from fedsim.experiment.building import Study
from fedsim.experiment.cells import Follower
from fedsim.experiment.collection import COMPARISON, Layout
from fedsim.experiment.comparing import Comparison, compare_contest
from fedsim.experiment.contenders import everybody, written
from fedsim.experiment.contest import Cell, contest
from fedsim.experiment.output import Output
from fedsim.experiment.running import Clocked
from fedsim.report import Outcome, grids
from fedsim.report.comparison import Column, Grid
from fedsim.units import FRACTION, human_seconds

ALL: Final = "all"


class Progress(Follower):
    """Answers Ctrl-C: at once before anything runs, and the second time; the first time, runs end where they are."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = False

    def ready(self, cells: Sequence[Cell], left: Sequence[Cell]) -> None:
        """From now on there is something to save."""
        self._ready = True

    def interrupt(self, signal_: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        if not self._ready or self.stopped:
            for child in multiprocessing.active_children():
                child.kill()
            leave(signal_, frame)
        self.stop()
        os.write(2, STOPPING)


class Lines(Progress):
    """A line a cell that has run; on a terminal, below them, the bar of the run under way, or how many there are."""

    def __init__(self, console: Console, jobs: int) -> None:
        super().__init__()
        self._console = console
        self._jobs = jobs
        self._bar: Bar | None = None
        self._status: Status | None = None
        self._done, self._count = 0, 0

    def ready(self, cells: Sequence[Cell], left: Sequence[Cell]) -> None:
        """Say what was there already."""
        super().ready(cells, left)
        self._done, self._count = len(cells) - len(left), len(cells)
        if self._done:
            self._console.print(f"{self._done} of {self._count} cells need no run", highlight=False)
        self._jobs = min(self._jobs, len(left))
        if self._jobs > 1 and self._console.is_terminal:
            self._status = self._console.status(self._said())
            self._status.start()

    def cell(self, cell: Cell) -> None:
        """Make its bar."""
        if self._console.is_terminal:
            self._bar = Bar(self._console, f"{self._done + 1}/{self._count} {cell.label} · seed {cell.seed}")

    def begin(self, study: Study, simulation: Clocked) -> None:
        """Show the bar."""
        super().begin(study, simulation)
        if self._bar is not None:
            self._bar.begin(study, simulation)

    def end(self) -> None:
        """Take the bar away."""
        super().end()
        if self._bar is not None:
            self._bar.end()

    def outcome(self, outcome: Outcome) -> None:
        """Print its line."""
        self._done += 1
        line = Text(f"{self._done}/{self._count} {outcome.label} · seed {outcome.seed}: {_result(outcome)}")
        self._console.print(line, soft_wrap=True)
        if self._status is not None:
            self._status.update(self._said())

    def close(self) -> None:
        """Leave nothing on the screen that moves."""
        if self._status is not None:
            self._status.stop()

    def interrupt(self, signal_: int, frame: FrameType | None) -> None:
        """Handle SIGINT; whoever leaves at once gets the cursor back, without the locks that `stop` would take."""
        if self.stopped:
            os.write(2, CURSOR)
        super().interrupt(signal_, frame)

    def _said(self) -> str:
        return f"{self._done} of {self._count} cells, {self._jobs} processes"


def compare_command(
    source: str,
    overrides: Sequence[str],
    *,
    schedulers: str | None,
    seeds: int,
    baseline: str | None,
    targets: Sequence[str],
    jobs: int,
    out: Path | None,
    as_json: bool,
) -> int:
    """Compare schedulers from the command line; returns the exit status."""
    asked = everybody() if schedulers in (None, ALL) else written(str(schedulers))
    aims = [_target(text) for text in targets]
    found = contest(source, asked, seeds=seeds, overrides=overrides, updates={}, objects={})

    def run(follower: Follower) -> Comparison:
        return compare_contest(
            found,
            output=Output(out),
            baseline=baseline,
            targets=aims,
            jobs=jobs,
            follower=follower,
            choosing=schedulers is None,
        )

    return followed(run, jobs, COMPARISON, as_json=as_json)


def followed(run: Callable[[Follower], Comparison], jobs: int, layout: Layout, *, as_json: bool) -> int:
    """Run cells with a line for each and Ctrl-C that keeps what is done; print what came of them, return the status."""
    progress = Progress() if as_json else Lines(Console(stderr=True), jobs)
    with interrupts(progress.interrupt):
        try:
            done = run(progress)
        finally:
            if isinstance(progress, Lines):
                progress.close()
    _print(done, layout.report if done.table.columns else layout.document, as_json=as_json)
    return _status(done, stopped=progress.stopped)


def _target(text: str) -> float:
    try:
        return FRACTION.parse(text)
    except ValueError as error:
        raise UserError(f"--target {error}") from error


def _result(outcome: Outcome) -> str:
    if outcome.reason:
        return f"{outcome.status}: {outcome.reason}"
    summary = outcome.summary or {}
    return f"{outcome.status} at {human_seconds(summary['seconds'])}, in {human_seconds(summary['wall_seconds'])}"


def _print(done: Comparison, file: str, *, as_json: bool) -> None:
    """The tables and what is to be said of them."""
    if as_json:
        print(json.dumps(done.summary | {"folder": str(done.folder)}, indent=1))
    else:
        console = wide_console()
        for grid in grids(done.table):
            draw(console, grid)
        known = (one for row in done.table.runs.values() for one in row if one is not None)
        for label in dict.fromkeys(summary.get("energy_label") for summary in known):
            console.print(Text(f"energy: {label}", "dim"), soft_wrap=True)
        print(f"\n{done.folder}/{file}")
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    for trace in done.traces:
        print(trace, file=sys.stderr)


def draw(console: Console, grid: Grid) -> None:
    """A grid in as many tables as the width asks for; `*` marks the best."""
    if grid.heads:
        console.print(Text(grid.title, "bold"))
    for part in _folded(grid, console.width):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", overflow="fold", vertical="bottom")
        for index in part:
            table.add_column(Text(grid.heads[index].head), justify="right", no_wrap=True, vertical="bottom")
        for label, cells in grid.rows.items():
            shown = (Text(*(f"{text}*", "bold green") if best else (text,)) for text, best in _at(cells, part))
            table.add_row(Text(label), *shown)
        console.print(table)
        console.print()
    for note in grid.notes:
        console.print(Text(note), soft_wrap=True)


def _at(cells: Sequence[Any], part: Sequence[int]) -> list[Any]:
    return [cells[index] for index in part]


def _folded(grid: Grid, width: int) -> Iterator[list[int]]:
    """The columns of a grid in groups that fit a width beside the names of its rows."""
    names = max(map(len, grid.rows), default=0)
    part: list[int] = []
    used = names
    for index, column in enumerate(grid.heads):
        size = 2 + max(_breadth(column), *(len(cells[index][0]) + cells[index][1] for cells in grid.rows.values()))
        if part and used + size > width:
            yield part
            part, used = [], names
        part.append(index)
        used += size
    if part:
        yield part


def _breadth(column: Column) -> int:
    return max(map(len, column.head.split("\n")))


def _status(done: Comparison, *, stopped: bool) -> int:
    states = [one.status for one in done.table.outcomes]
    if stopped:
        there = f"{states.count('done')} of {len(states)} cells are done"
        complain(f"interrupted; {there}, and the same command with --out {done.folder} goes on with the others")
        return INTERRUPTED
    lost = len(states) - states.count("done")
    if not lost:
        return 0
    if not done.table.columns:
        complain("no cell came to a result; the reasons stand above")
    else:
        complain(f"{lost} of {len(states)} cells came to no result; --out {done.folder} runs these again")
    return WRONG_INPUT if set(states) == {"refused"} else 1
