"""`fedsim run` inside one process: what a signal does at each stage, and which option is the last word."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fedsim import report
from fedsim.cli import main
from fedsim.cli.running import run_command
from tests.cli.toys import parsed


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
