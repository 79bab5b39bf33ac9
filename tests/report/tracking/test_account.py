"""What trackers are told of a run, worked out on paper."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedsim.report.folder import RunFolder
from fedsim.report.summary import summarise
from fedsim.report.tracking import account as accounts
from fedsim.report.tracking.account import Account, account
from fedsim.script import SERVER
from tests.report.hand_made_traces import Tape, fedavg


def told(tape: Tape) -> Account:
    """The account of a trace."""
    summary = summarise(tape.trace, status="done", wall_seconds=1.0)
    return account(RunFolder(Path("runs/first"), summary, tape.trace))


def published() -> Tape:
    """The round of two devices, with models named at 0 and at 70."""
    tape = fedavg()
    tape.trace.mark(SERVER, 0, "publish", 1)
    tape.trace.mark(SERVER, 70, "publish", 2)
    return tape


def test_series_lie_over_models_and_over_the_runs_clock() -> None:
    """Quality where it was measured; bytes delivered and rounds closed at each model."""
    found = told(published())
    assert found.series == {
        "quality/accuracy": ((1, 70e-9, 0.6),),
        "quality/loss": ((1, 70e-9, 1.5),),
        "progress/rounds": ((1, 0.0, 0.0), (2, 70e-9, 1.0)),
        "progress/bytes/up": ((1, 0.0, 0.0), (2, 70e-9, 208.0)),
        "progress/bytes/down": ((1, 0.0, 0.0), (2, 70e-9, 208.0)),
    }
    assert (found.name, found.scenario, found.last, found.seconds) == ("first", "by-hand", 2, 80e-9)


def test_progress_counts_what_has_happened_by_the_moment_of_a_model() -> None:
    """Up and down apart, what arrives at that instant included, what was lost left out; so with rounds."""
    tape = fedavg()
    tape.send(0, SERVER, "contribution", 20, 25, weights=7)
    tape.send(SERVER, 1, "model", 5, 20, weights=1000, outcome="receiver left")
    for version, moment in enumerate((0, 30, 60), 1):
        tape.trace.mark(SERVER, moment, "publish", version)
    series = {name: [value for *_, value in points] for name, points in told(tape).series.items()}
    assert series["progress/bytes/up"] == [0, 7 + 104, 7 + 208]
    assert series["progress/bytes/down"] == [0, 208, 208]
    assert series["progress/rounds"] == [0, 0, 1]


def test_figures_are_the_numbers_of_the_summary() -> None:
    """All that there are, by their path; parameters are the leaves of the scenario."""
    found = told(published())
    assert found.figures["bytes/up/weights"] == 200
    assert found.figures["accuracy/time_to/0.5"] == 70e-9
    assert "accuracy/time_to/0.9" not in found.figures
    assert all(math.isfinite(value) for value in found.figures.values())
    assert not {"seed", "schema"} & found.figures.keys(), "numbers, but no figures"
    assert found.parameters["scheduler.local_steps"] == "2"
    assert found.parameters["name"] == "by-hand"


def test_what_is_no_number_is_no_point() -> None:
    """A diverged model has an accuracy and no loss."""
    tape = published()
    tape.evaluate(75, 0.1, math.nan, 16, version=2)
    series = told(tape).series
    assert series["quality/accuracy"] == ((1, 70e-9, 0.6), (2, 75e-9, 0.1))
    assert series["quality/loss"] == ((1, 70e-9, 1.5),)


def test_perplexity_is_a_series_of_texts() -> None:
    """Where that is what the run is measured by."""
    tape = published()
    tape.trace.scenario = {
        **tape.trace.scenario,
        "data": {"tokens": {"length": 8}},
        "fleet": [{"count": 2}],
        "x": [1, 2],
    }
    found = told(tape)
    assert found.series["quality/perplexity"] == ((1, 70e-9, math.exp(1.5)),)
    assert found.parameters["fleet.0.count"] == "2"
    assert found.parameters["x"] == "[1, 2]"


def test_of_many_models_some_are_told_and_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """From all over the run."""
    monkeypatch.setattr(accounts, "MOST", 3)
    tape = Tape(1, 100)
    for version in range(1, 11):
        tape.trace.mark(SERVER, 10 * version, "publish", version)
    assert [step for step, *_ in told(tape).series["progress/bytes/up"]] == [1, 5, 10]
