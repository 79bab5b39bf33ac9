"""A run while it goes on: a dashboard or a bar where somebody looks, a line now and then where nobody does; Ctrl-C.

Whoever watches has a thread that asks the run for its figures at intervals of the wall clock. The run answers between
two of its events, so looking changes nothing in it, and reads each record once. A look that took long is followed by a
pause that is as much longer, so that looking takes about a hundredth of the wall time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedsim.cli import leave
from fedsim.experiment.building import Study
from fedsim.experiment.running import Clocked, Watcher
from fedsim.report.summary import metric_name, perplexity
from fedsim.runtime.sofar import SoFar
from fedsim.scenario.schema import Until
from fedsim.units import human_count, human_seconds

LOOK: Final = 0.5
"""Seconds between looks where somebody watches."""

LINE: Final = 5.0
"""Seconds between lines where nobody does."""

SHARE: Final = 0.01
"""Of the wall time, what looks may take."""

STOPPING: Final = b"\nstopping here; Ctrl-C again leaves at once\n"
"""What is said of the first Ctrl-C."""

CURSOR: Final = b"\r\x1b[2K\x1b[?25h"
"""What brings the cursor back where something has moved on a terminal."""


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
            os.write(2, STOPPING)


@dataclass(frozen=True, slots=True)
class View:
    """What can be said of a run at a moment.

    `metric` is what its quality is measured by, `wall` the seconds since its clock began to move, nearly.
    """

    title: str
    until: Until
    metric: str
    figures: SoFar
    wall: float

    @property
    def share(self) -> float | None:
        """How far the run is: by rounds or by the clock, whichever is nearer to its end; None where neither ends it.

        Systems without barriers count `until.rounds` times as many aggregations as there are devices. Those that make
        several aggregations one model seem slower than they are.
        """
        shares, figures = [], self.figures
        if self.until.rounds is not None:
            alone = (figures.version or 1) - 1, self.until.rounds * max(figures.devices, 1)
            done, of = (figures.rounds, self.until.rounds) if figures.rounds else alone
            shares.append(done / of)
        if self.until.time is not None:
            shares.append(figures.now / 1e9 / self.until.time)
        return min(max(shares), 1.0) if shares else None

    @property
    def left(self) -> float | None:
        """Wall seconds that it still takes, if it goes on like this."""
        share = self.share
        return self.wall * (1 / share - 1) if share else None

    def clock(self) -> str:
        """The run's own clock."""
        return human_seconds(self.figures.now / 1e9)

    def speed(self) -> str:
        """How much faster the run's own clock is than that on the wall."""
        return f"{self.figures.now / 1e9 / self.wall:.3g}x" if self.wall > 0 else "–"

    def progress(self) -> str:
        """Of rounds and models."""
        figures = self.figures
        rounds = f"round {figures.rounds}" + (f" of {self.until.rounds}" if self.until.rounds else "")
        version = "" if figures.version is None else f"model {figures.version}"
        return ", ".join(filter(None, (rounds if figures.rounds else "", version)))

    def quality(self) -> str:
        """The last one and the best; nothing where none was measured."""
        figures = self.figures
        if figures.accuracy is None or figures.loss is None:
            return ""
        last, best = figures.loss, figures.best_loss
        if self.metric == "accuracy":
            last, best = figures.accuracy, figures.best_accuracy
        elif self.metric == "perplexity":
            last, best = perplexity(last), None if best is None else perplexity(best)
        text = f"{self.metric} {last:.4g}" + ("" if best is None else f" (best {best:.4g})")
        return text + (f", loss {figures.loss:.4g}" if self.metric == "accuracy" else "")

    def bytes(self) -> str:
        """By direction."""
        return f"up {human_count(self.figures.up, 'B')}, down {human_count(self.figures.down, 'B')}"

    def idle(self) -> str:
        """Of the server and of devices, so far."""
        shares = (("server", self.figures.server_idle), ("devices", self.figures.devices_idle))
        return ", ".join(f"{whose} {share:.1%}".replace("%", " %") for whose, share in shares if share is not None)

    def presence(self) -> str:
        """Of devices."""
        return f"{self.figures.present} of {self.figures.devices}"

    def line(self) -> str:
        """All of it, for a log."""
        share = self.share
        done = "" if share is None else f" ({share:.0%})"
        parts = (
            f"{self.clock()}{done} in {human_seconds(self.wall)}, {self.speed()} the wall clock",
            self.progress(),
            self.quality(),
            self.bytes(),
            f"devices {self.presence()}",
            f"idle: {self.idle()}" if self.idle() else "",
        )
        return f"{self.title}: " + "; ".join(filter(None, parts))


class Looking(Interruptible):
    """Asks a run for its figures again and again, and shows them.

    Args:
        name: of the run; None: that of its scenario and its scheduler.
        period: seconds from one look to the next.
    """

    def __init__(self, name: str | None = None, period: float = LOOK) -> None:
        super().__init__()
        self.view: View | None = None
        """What the last look has found."""
        self._name = name
        self._period = period
        self._cost = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def show(self, view: View) -> None:
        """Show what a look has found; in a thread of the run's, which waits for it."""

    def begin(self, study: Study, simulation: Clocked) -> None:
        """Begin to look."""
        super().begin(study, simulation)
        scenario = study.scenario
        title = self._name or f"{scenario.name} · {scenario.scheduler.name}"
        metric = metric_name(study.assembly.scenario)
        began = time.monotonic()

        def look() -> None:
            nonlocal began
            started = time.monotonic()
            figures = simulation.so_far()
            if figures.now == 0:  # as long as the nodes of an emulation start
                began = started
                return
            self.view = View(title, scenario.until, metric, figures, started - began)
            self.show(self.view)
            self._cost = time.monotonic() - started

        def ask() -> None:
            while not self._over.wait(max(self._period, self._cost / SHARE)):
                simulation.ask(look)

        self._thread = threading.Thread(target=ask, name="looking", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()


class Lines(Looking):
    """A line on standard error now and then."""

    def __init__(self, name: str | None = None, period: float = LINE) -> None:
        super().__init__(name, period)

    def show(self, view: View) -> None:
        """Print it."""
        print(view.line(), file=sys.stderr, flush=True)


def watching(*, as_json: bool) -> Interruptible:
    """What shows a single run: a dashboard to somebody, lines to a file, nothing where a program reads."""
    if as_json:
        return Interruptible()
    return Dashboard(Console(stderr=True)) if sys.stderr.isatty() else Lines()


class Moving(Looking):
    """On a terminal, where the cursor is hidden meanwhile."""

    def interrupt(self, signal_: int, frame: FrameType | None) -> None:
        """Handle SIGINT; whoever leaves at once gets the cursor back, without the locks that `stop` would take."""
        if self.pressed:
            os.write(2, CURSOR)
        super().interrupt(signal_, frame)


class Bar(Moving):
    """One line that moves: the time that is left, the clock of the run and the last quality."""

    def __init__(self, console: Console, name: str | None = None) -> None:
        super().__init__(name)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[said]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID | None = None

    def begin(self, study: Study, simulation: Clocked) -> None:
        """Show the bar."""
        until = study.scenario.until
        name = self._name or f"{study.scenario.name} · {study.scenario.scheduler.name}"
        total = 1.0 if until.rounds or until.time else None
        self._task = self._progress.add_task(escape(name), total=total, said="")
        self._progress.start()
        super().begin(study, simulation)

    def show(self, view: View) -> None:
        """Move the bar on."""
        if self._task is not None:
            said = "  ".join(filter(None, (f"{view.clock()} ({view.speed()})", view.progress(), view.quality())))
            self._progress.update(self._task, completed=view.share or 0.0, said=escape(said))

    def end(self) -> None:
        """Take the bar away."""
        super().end()
        self._progress.stop()


class Dashboard(Moving):
    """Everything that is known of a run, in a few lines that move."""

    def __init__(self, console: Console, name: str | None = None) -> None:
        super().__init__(name)
        self._live = Live(console=console, get_renderable=self._drawn, refresh_per_second=4, transient=True)

    def begin(self, study: Study, simulation: Clocked) -> None:
        """Show it."""
        self._live.start()
        super().begin(study, simulation)

    def _drawn(self) -> Table | Text:
        """By rich's own thread."""
        return Text("starting …", "dim") if self.view is None else drawn(self.view)

    def end(self) -> None:
        """Take it away."""
        super().end()
        self._live.stop()


def drawn(view: View) -> Table:
    """A view as a table."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    share, left = view.share, view.left
    table.add_row(Text("run"), Text(view.title, "bold"))
    if share is not None:
        row = Table.grid(padding=(0, 1))
        rest = "" if left is None else f"about {human_seconds(left)} left"
        row.add_row(ProgressBar(1.0, share, width=40), f"{share:.0%}".replace("%", " %"), rest)
        table.add_row("done", row)
    table.add_row("clock", f"{view.clock()} in {human_seconds(view.wall)}, {view.speed()} the wall clock")
    for name, said in (
        ("training", view.progress()),
        ("quality", view.quality()),
        ("bytes", view.bytes()),
        ("devices", view.presence()),
        ("idle", view.idle()),
    ):
        if said:
            table.add_row(name, Text(said))
    return table


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
