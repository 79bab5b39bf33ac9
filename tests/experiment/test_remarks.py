"""What a reader of a run's figures is told."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import fedsim
from fedsim.experiment.running import Run
from fedsim.report.measures import Point
from tests.experiment.toys import TOY


def after(run: Run, *evaluations: tuple[float, float]) -> list[str]:
    """The remarks, had these accuracies and losses been measured."""
    curve = tuple(Point(float(n), n, n, accuracy, loss, 0) for n, (accuracy, loss) in enumerate(evaluations))
    return dataclasses.replace(run, measures=dataclasses.replace(run.measures, curve=curve)).remarks()


def test_a_goal_that_was_missed_and_a_loss_that_is_no_number_are_remarked_on() -> None:
    """Reaching the goal exactly is reaching it; the last loss counts, since one may recover."""
    run = fedsim.run(TOY, until={"accuracy": 0.75, "rounds": 1})
    missed = "until.accuracy 0.75 was not reached"
    diverged = "the loss is not a finite number at the end; a lower training.optimizer.lr may help"
    assert after(run, (0.1, 2.0), (0.74, 1.0)) == [missed]
    assert after(run, (0.1, 2.0), (0.75, 1.0), (0.5, 1.0)) == []
    assert after(run, (0.8, 2.0), (0.1, math.nan)) == [diverged]
    assert after(run, (0.8, math.nan), (0.8, 1.0)) == []
    assert after(run, (0.1, math.inf)) == [diverged, missed]


def test_a_run_without_learning_has_nothing_to_remark_on() -> None:
    """It has no model because none was wanted."""
    assert fedsim.run(TOY, learning=False).remarks() == []


def test_data_that_never_came_are_remarked_on() -> None:
    """Ampere's pool without what a device had not sent when it left."""
    ampere: dict[str, Any] = {
        "scheduler": {"name": "ampere", "device_rounds": 1, "server_epochs": 1},
        "learning": False,
    }
    whole = fedsim.run(TOY, **ampere)
    assert whole.summary["contributions"]["coverage"] == 1
    assert whole.remarks() == []
    export = next(row[10] for row in whole.trace.transfers if row[3] == "Export") / 1e9
    faults = [{"device": 0, "leave": f"{export + 1e-6} s"}]
    part = fedsim.run(TOY, **ampere, faults=faults)
    (text,) = part.remarks()
    assert text.startswith("devices left before they had sent all: the server trained on ")
