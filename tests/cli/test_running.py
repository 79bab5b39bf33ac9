"""The bar and Ctrl-C inside one process: how far the bar stands, and what a signal does at each stage."""

from __future__ import annotations

import os
import signal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedsim import report
from fedsim.cli import main
from fedsim.cli.running import Bar, run_command
from fedsim.experiment.building import Study, build
from fedsim.experiment.loading import load_scenario
from tests.cli.toys import parsed
from tests.experiment.toys import TOY


def bar(**until: Any) -> Bar:
    """The bar of a toy run that has not started, where nobody looks."""
    study: Study = build(load_scenario(TOY, updates={"learning": False, "until": until}))
    found = Bar(Console(file=StringIO()))
    found.begin(study, study.assembly.simulation())
    return found


def stands(found: Bar) -> tuple[float, float | None]:
    """How far, of how much."""
    (task,) = found._progress.tasks
    return task.completed, task.total


def test_a_bar_counts_the_rounds_that_are_done() -> None:
    """The first model is published before any round; the last one fills the bar."""
    found = bar(rounds=4)
    try:
        shares = []
        for version in range(1, 6):
            found.mark("publish", version)
            shares.append(stands(found))
    finally:
        found.end()
    assert shares == [(0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 1.0)]


def test_a_bar_goes_by_whatever_is_nearer_to_its_end() -> None:
    """Time or rounds; it never goes back; it says the clock and the last accuracy."""
    found = bar(rounds=4, time="10 s")
    try:
        assert found._simulation is not None
        found._simulation.now = 4_000_000_000
        found.mark("round.open", 0)
        assert stands(found) == (0.4, 1.0)
        found.mark("publish", 4)
        assert stands(found) == (0.75, 1.0)
        found._simulation.now = 5_000_000_000
        found.mark("evaluate", 0.625)
        assert stands(found) == (0.75, 1.0)
        (task,) = found._progress.tasks
        assert (task.fields["clock"], task.fields["quality"]) == ("5 s", "accuracy 0.625")
    finally:
        found.end()


def test_a_run_of_unknown_length_has_a_bar_without_an_end() -> None:
    """Where only a goal of quality ends it."""
    study = build(load_scenario(TOY, updates={"until": {"accuracy": 0.9}}))
    found = Bar(Console(file=StringIO()))
    found.begin(study, study.assembly.simulation())
    found.mark("publish", 3)
    found.end()
    assert stands(found) == (0.0, None)


def test_ctrl_c_while_the_folder_is_written(
    scenario: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written to its end; the exit status says that somebody pressed, the summary that the run was done."""

    def pressed(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        report.write_run(*arguments)

    monkeypatch.setattr("fedsim.experiment.running.write_run", pressed)
    assert main(["run", scenario, "--out", "x", "--set", "learning=off", "--json"]) == 130
    out, err = capsys.readouterr()
    assert parsed(out)["status"] == parsed(Path("x/summary.json").read_text())["status"] == "done"
    assert "error: interrupted after the run had ended; x holds all of it" in err


def test_signals_are_as_they_were_afterwards(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever calls `main`, or a command, from Python keeps the handler of their own."""

    def own(*_: object) -> None:
        """Somebody's handler."""

    before = signal.signal(signal.SIGINT, own)
    try:
        assert main(["list", "links"]) == 0
        assert signal.getsignal(signal.SIGINT) is own
        assert run_command(scenario, ["learning=off"], Path("x"), as_json=True) == 0
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ""


def test_the_mode_of_the_command_line_is_the_last_word(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--mode` comes after every `--set`."""
    arguments = ["--set", "mode=emulate", "--set", "learning=off", "--mode", "simulate", "--out", "x", "--json"]
    assert main(["run", scenario, *arguments]) == 0
    assert parsed(capsys.readouterr().out)["mode"] == "simulate"
