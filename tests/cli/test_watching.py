"""Watching a run: what is said of it, that it is right, and that looking changes nothing."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

import fedsim
from fedsim.cli.watching import Bar, Dashboard, Interruptible, Lines, Looking, View, drawn, watching
from fedsim.experiment.building import Study, build
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import Clocked, Run
from fedsim.runtime.sofar import SoFar
from fedsim.scenario.schema import Until
from tests.experiment.toys import TOY

NEVER = 1e9
"""Seconds between looks: none happens by itself."""


class Asked:
    """A run that answers at once with figures that it was given."""

    def __init__(self, figures: SoFar) -> None:
        self.now = figures.now
        self.stopping = False
        self.figures = figures
        self.asked = 0

    def ask(self, look: Callable[[], None], /) -> None:
        """Answer."""
        self.asked += 1
        look()

    def so_far(self) -> SoFar:
        """The figures."""
        return self.figures


FIGURES = SoFar(
    now=4_000_000_000,
    up=1_500,
    down=2_000_000,
    present=7,
    devices=8,
    server_idle=0.25,
    devices_idle=0.5,
    version=3,
    rounds=2,
    accuracy=0.5,
    loss=1.25,
    best_accuracy=0.75,
    best_loss=1.0,
)


def view(figures: SoFar = FIGURES, metric: str = "accuracy", wall: float = 2.0, **until: Any) -> View:
    """What is said of figures."""
    return View("toy · fedavg", Until.model_validate(until), metric, figures, wall)


def test_a_run_is_as_far_as_its_nearest_end() -> None:
    """By rounds that have closed or by the clock; systems without rounds by models of rounds x devices."""
    assert view(rounds=4).share == 0.5
    assert view(rounds=4, time="5 s").share == 0.8
    assert view(rounds=2, time="5 s").share == 1.0
    assert view(rounds=1).share == 1.0, "never farther"
    assert view(accuracy=0.9).share is None
    assert view(SoFar(now=0, version=5, devices=4), rounds=2).share == 0.5
    assert view(SoFar(now=0, devices=4), rounds=2).share == 0.0
    assert view(rounds=4).left == 2.0
    assert view(SoFar(now=0, devices=4), rounds=2).left is None


def test_a_line_says_all_of_it() -> None:
    """For logs; what a run does not have yet is left out."""
    assert view(rounds=4).line() == (
        "toy · fedavg: 4 s (50%) in 2 s, 2x the wall clock; round 2 of 4, model 3; "
        "accuracy 0.5 (best 0.75), loss 1.25; up 1.5 kB, down 2 MB; devices 7 of 8; "
        "idle: server 25.0 %, devices 50.0 %"
    )
    early = view(SoFar(now=0, devices=8, present=8), accuracy=0.9)
    assert early.line() == "toy · fedavg: 0 ns in 2 s, 0x the wall clock; up 0 B, down 0 B; devices 8 of 8"
    assert view(metric="loss", rounds=4).quality() == "loss 1.25 (best 1)"
    assert view(metric="perplexity", rounds=4).quality() == "perplexity 3.49 (best 2.718)"


def test_a_dashboard_shows_the_same() -> None:
    """In lines of their own, with the time that is left."""
    console = Console(file=StringIO(), width=100)
    console.print(drawn(view(rounds=4)))
    assert isinstance(console.file, StringIO)
    lines = [line.split(maxsplit=1) for line in console.file.getvalue().splitlines()]
    assert [line[0] for line in lines] == ["run", "done", "clock", "training", "quality", "bytes", "devices", "idle"]
    said = dict(lines)
    assert said["done"].strip().endswith("50 % about 2 s left")
    assert said["quality"].strip() == "accuracy 0.5 (best 0.75), loss 1.25"


class Peeping(Looking):
    """Asks at every mark, instead of every half second, and keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__(period=NEVER)
        self.seen: list[SoFar] = []
        self.at_end: SoFar | None = None

    def begin(self, study: Study, simulation: Clocked) -> None:
        """Look once, before anything has happened."""
        super().begin(study, simulation)
        self.run = simulation
        simulation.ask(lambda: self.seen.append(simulation.so_far()))

    def mark(self, name: str, value: float) -> None:
        """Look."""
        self.run.ask(lambda: self.seen.append(self.run.so_far()))

    def end(self) -> None:
        """Look a last time."""
        super().end()
        self.at_end = self.run.so_far()


def figures(run: Run) -> dict[str, Any]:
    """Of a summary, what is shown while a run goes on."""
    summary, trace = run.summary, run.trace
    marks = [mark[2] for mark in trace.marks]
    found = {
        "now": trace.end,
        "up": sum(summary["bytes"]["up"].values()),
        "down": sum(summary["bytes"]["down"].values()),
        "server_idle": summary["server"]["idle"],
        "devices_idle": summary["devices"]["idle"],
        "devices": summary["devices"]["count"],
        "rounds": marks.count("round.close"),
        "accuracy": summary["accuracy"]["final"],
        "best_accuracy": summary["accuracy"]["best"],
    }
    return {key: value for key, value in found.items() if value is not None}


CASES: dict[str, dict[str, Any]] = {
    "fedavg": {"evaluate": {"samples": 20}},
    "fedoptima": {"scheduler": "fedoptima", "learning": False},
    "pipar with several lanes": {"scheduler": "pipar", "learning": False},
    "oafl and faults": {
        "scheduler": "oafl",
        "learning": False,
        "faults": [{"device": 1, "leave": "0.2 s", "return": "0.4 s"}],
    },
    "up to a moment": {"scheduler": "splitfed", "learning": False, "until": {"time": "0.3 s"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_figures_so_far_become_those_of_the_summary(name: str) -> None:
    """At the end; on the way none goes back; and the trace is that of a run that nobody looks at."""
    watcher = Peeping()
    run = fedsim.run(TOY, watcher=watcher, **CASES[name])
    last, wanted = watcher.at_end, figures(run)
    assert last is not None
    found = {key: getattr(last, key) for key in wanted}
    assert found == pytest.approx(wanted, rel=1e-12)
    assert len(watcher.seen) > 3
    for key in ("now", "up", "down", "rounds"):
        values = [getattr(one, key) for one in watcher.seen]
        assert values == sorted(values)
    shares = [share for one in watcher.seen for share in (one.server_idle, one.devices_idle) if share is not None]
    assert all(0 <= share <= 1 for share in shares)
    assert fedsim.run(TOY, **CASES[name]).trace == run.trace


@pytest.mark.slow
def test_figures_in_the_middle_are_those_of_a_run_that_ends_there() -> None:
    """Bytes and idle times of a moment in which devices compute, to the last digit of those of a run stopped there."""

    class Stopping(Peeping):
        def mark(self, name: str, value: float) -> None:
            if name == "publish" and value == 4:
                self.run.ask(self._stop)

        def _stop(self) -> None:
            self.seen.append(self.run.so_far())
            self.run.stopping = True

    slow = {"name": "fedasync", "local_steps": 5000}
    watcher = Stopping()
    run = fedsim.run(TOY, watcher=watcher, learning=False, scheduler=slow, until={"rounds": 5})
    assert run.interrupted
    assert any(span[8] and span[4] == run.trace.end for span in run.trace.spans), "a device was computing"
    wanted = figures(run)
    found = {key: getattr(watcher.seen[-1], key) for key in wanted}
    assert found == pytest.approx(wanted, rel=1e-12)
    assert 0 < found["devices_idle"] < 1


def test_whoever_looks_asks_again_and_again() -> None:
    """In a thread of its own that ends with the run; a dear look is followed by a pause that is a hundred times it."""
    study = build(load_scenario(TOY, updates={"learning": False}))
    lines = Looking(period=1e-4)
    run = Asked(FIGURES)
    lines.begin(study, run)
    while run.asked < 3:
        pass
    lines.end()
    asked = run.asked
    assert lines.view is not None
    assert lines.view.figures == FIGURES
    assert lines._thread is not None
    assert not lines._thread.is_alive()
    assert run.asked == asked
    assert lines._cost < 1e-2


class Waits(threading.Event):
    """Keeps for how long it was waited for, and is set after three times."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        """At once."""
        self.seconds.append(timeout)
        return len(self.seconds) == 3


def test_looking_takes_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes on by a second a reading: a look takes one, so there are a hundred before the next."""
    clock = itertools.count()
    monkeypatch.setattr("fedsim.cli.watching.time.monotonic", lambda: float(next(clock)))
    lines = Looking(period=7.0)
    lines._over = waits = Waits()
    lines.begin(build(load_scenario(TOY, updates={"learning": False})), Asked(FIGURES))
    lines.end()
    assert waits.seconds == [7.0, 100.0, 100.0]


def test_nothing_is_shown_before_the_clock_moves() -> None:
    """And the wall time counts from there: the nodes of an emulation may take minutes to start."""
    study = build(load_scenario(TOY, updates={"learning": False}))
    lines = Looking(period=1e-4)
    run = Asked(SoFar(now=0))
    lines.begin(study, run)
    while run.asked < 3:
        pass
    assert lines.view is None
    lines.end()


def test_bars_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar stands where the run is; lines go to standard error; nothing is shown to a program."""
    study = build(load_scenario(TOY, updates={"learning": False, "until": {"rounds": 4}}))
    bar = Bar(Console(file=StringIO()))
    bar.begin(study, Asked(FIGURES))
    bar.show(view(rounds=4))
    bar.end()
    (task,) = bar._progress.tasks
    assert (task.completed, task.total) == (0.5, 1.0)
    assert task.fields["said"] == "4 s (2x)  round 2 of 4, model 3  accuracy 0.5 (best 0.75), loss 1.25"
    Lines().show(view(rounds=4))
    out, err = capsys.readouterr()
    assert (out, err) == ("", view(rounds=4).line() + "\n")


def test_who_looks_decides_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard on a terminal, lines elsewhere, nothing with --json."""
    assert type(watching(as_json=True)) is Interruptible
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert type(watching(as_json=False)) is Lines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert type(watching(as_json=False)) is Dashboard


@pytest.mark.parametrize("kind", [Bar, Dashboard])
def test_whoever_leaves_at_once_gets_the_cursor_back(
    kind: type[Bar] | type[Dashboard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the second Ctrl-C; the first one only asks the run to end."""
    written: list[bytes] = []
    left: list[int] = []
    monkeypatch.setattr("fedsim.cli.watching.os.write", lambda _, said: written.append(said))
    monkeypatch.setattr("fedsim.cli.watching.leave", lambda signal_, _: left.append(signal_))
    shown, run = kind(Console(file=StringIO())), Asked(FIGURES)
    shown.begin(build(load_scenario(TOY, updates={"learning": False})), run)
    shown.interrupt(2, None)
    assert run.stopping
    assert (len(written), left) == (1, [])
    shown.interrupt(2, None)
    shown.end()
    assert written[1:] == [b"\r\x1b[2K\x1b[?25h"]
    assert left == [2]


def test_a_dashboard_comes_and_goes() -> None:
    """And leaves nothing behind where it was."""
    study = build(load_scenario(TOY, updates={"learning": False}))
    console = Console(file=StringIO(), force_terminal=True, width=100)
    dashboard = Dashboard(console)
    dashboard.begin(study, Asked(FIGURES))
    dashboard.end()
    assert isinstance(console.file, StringIO)
    assert "starting" in console.file.getvalue()
    assert console.file.getvalue().rstrip("\n").endswith("\x1b[2K"), "erased"
