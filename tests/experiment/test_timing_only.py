"""How runs end, shown on runs without learning, which take milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.errors import AccountingError
from fedsim.experiment.building import Study
from fedsim.experiment.running import Clocked, Watcher
from fedsim.simulation import Simulation
from tests.experiment.toys import TOY


class Follower(Watcher):
    """Notes the stages of a run; `at_begin` is called with the simulation."""

    def __init__(self, at_begin: Any = None) -> None:
        self.stages: list[str] = []
        self._at_begin = at_begin

    def begin(self, study: Study, simulation: Clocked) -> None:
        self.stages.append("begin")
        if self._at_begin is not None:
            self._at_begin(simulation)

    def mark(self, name: str, value: float) -> None:
        if name not in self.stages:
            self.stages.append(name)

    def end(self) -> None:
        self.stages.append("end")


def test_a_watcher_follows_a_run() -> None:
    """From before the clock starts to after it has stopped."""
    watcher = Follower()
    run = fedsim.run(TOY, learning=False, watcher=watcher)
    assert (watcher.stages[0], watcher.stages[-1]) == ("begin", "end")
    assert {"publish", "round.open", "round.close"} <= set(watcher.stages)
    assert (run.summary["status"], run.interrupted) == ("done", False)


def test_a_run_that_is_stopped_says_so() -> None:
    """In its summary and to whoever called it."""

    def stop(simulation: Simulation) -> None:
        simulation.stopping = True

    run = fedsim.run(TOY, learning=False, watcher=Follower(stop))
    assert (run.summary["status"], run.interrupted) == ("stopped", True)


def test_the_accounts_of_every_run_are_checked() -> None:
    """A nanosecond too much is an error, and the watcher hears of the end all the same."""

    def forge(simulation: Simulation) -> None:
        simulation.trace.spans.append((0, 0, "step", 0, 1, 0, 0, 0, False, 0))

    with pytest.raises(AccountingError, match=r"node 0 \(device 0\)"):
        fedsim.run(TOY, learning=False, watcher=Follower(forge))
    watcher = Follower()
    with pytest.raises(ZeroDivisionError):
        fedsim.run(TOY, learning=False, scheduler="tests.cli.toys:Broken", watcher=watcher)
    assert watcher.stages[-1] == "end"


def test_a_failure_that_cannot_be_written_either_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own error comes first, with a note about the folder."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsim.experiment.running.write_run", full)
    with pytest.raises(ZeroDivisionError) as caught:
        fedsim.run(TOY, learning=False, scheduler="tests.cli.toys:Broken", out=tmp_path / "x")
    assert [
        note.endswith("could not be written either: [Errno 28] No space left on device")
        for note in caught.value.__notes__
    ] == [True]
