"""Runs as systems: which belong together, and what is said of several seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from fedsim.report.idle import CAUSES
from fedsim.report.measures import Point, measure
from fedsim.report.page.systems import Run, over, systems, tabled
from fedsim.report.summary import summarise
from tests.report.hand_made_traces import SCENARIO, fedavg


def run(seed: int = 7, points: tuple[tuple[float, float], ...] = ((1.0, 0.5),), **scenario: Any) -> Run:
    """A run by hand, with a curve of (seconds, accuracy)."""
    tape = fedavg()
    tape.trace.scenario = {**SCENARIO, "seed": seed, **scenario}
    found = measure(tape.trace)
    curve = tuple(Point(time, -1, number, accuracy, 1.0, 0) for number, (time, accuracy) in enumerate(points))
    summary = summarise(tape.trace, status="done", wall_seconds=1.0)
    return Run(summary, replace(found, curve=curve), tape.trace.scenario)


def test_seeds_of_one_scenario_are_one_system() -> None:
    """Named by what tells it apart from the others, without its seeds."""
    found = systems([run(1), run(1, scheduler={"name": "ampere"}), run(2), run(2, scheduler={"name": "ampere"})])
    assert [system.name for system in found] == ["fedavg", "ampere"]
    assert [[one.summary["seed"] for one in system.runs] for system in found] == [[1, 2], [1, 2]]


def test_a_seed_that_comes_again_is_another_system() -> None:
    """The same scenario run twice, as before and after a change: no spread over seeds."""
    found = systems([run(1), run(1), run(2)])
    assert [len(system.runs) for system in found] == [2, 1]


def test_whatever_else_differs_makes_another_system() -> None:
    """A key of the scenario that no label shows."""
    found = systems([run(), run(mode="emulate")])
    assert [system.name for system in found] == ["by-hand · fedavg (1)", "by-hand · fedavg (2)"]
    assert len(systems([run(1), run(2, mode="emulate")])) == 2, "with another seed, too"


def test_one_seed_is_drawn_as_it_is() -> None:
    """Its own points and no band; over bytes and joules at the same moments."""
    (system,) = systems([run(points=((10e-9, 0.5), (60e-9, 0.75)))])
    assert over(system, "time", "accuracy").points == [(10e-9, 0.5), (60e-9, 0.75)]
    assert over(system, "time", "accuracy").band == ()
    assert over(system, "bytes", "accuracy").points == [(208.0, 0.5), (416.0, 0.75)]
    (first, second) = over(system, "joules", "accuracy").points
    assert (first[0], second[0]) == pytest.approx((40e-9, 400e-9))


def test_several_seeds_are_their_mean_within_their_range() -> None:
    """Where all have values: from the latest first to the earliest last evaluation."""
    (system,) = systems([run(1, ((0.0, 0.0), (10.0, 1.0))), run(2, ((2.0, 0.5), (6.0, 0.5)))])
    line = over(system, "time", "accuracy")
    assert line.points[0] == pytest.approx((2.0, 0.35))
    assert line.points[-1] == pytest.approx((6.0, 0.55))
    assert line.band[0] == pytest.approx((2.0, 0.2, 0.5))
    assert line.band[-1] == pytest.approx((6.0, 0.5, 0.6))


def test_what_is_no_number_is_no_part_of_a_mean() -> None:
    """Of a seed that diverged, the line goes on over what is known of it."""
    (system,) = systems([run(1, ((0.0, 0.0), (5.0, math.nan), (10.0, 1.0))), run(2, ((0.0, 0.0), (10.0, 1.0)))])
    line = over(system, "time", "accuracy")
    assert line.points[-1] == (10.0, 1.0)
    assert all(math.isfinite(y) for _, y in line.points)


def test_a_loss_may_be_drawn_beside_an_accuracy() -> None:
    """Or as perplexity."""
    (system,) = systems([run()])
    assert over(system, "time", "loss").points == [(1.0, 1.0)]
    assert over(system, "time", "perplexity").points[0] == pytest.approx((1.0, 2.718281828))


def test_idle_time_is_the_mean_over_seeds() -> None:
    """Of what the summaries say."""
    (system,) = systems([run(1), run(2)])
    shares = system.shares("devices")
    assert shares[0] == pytest.approx(system.first.summary["devices"]["busy"])
    assert sum(share or 0.0 for share in shares) == pytest.approx(1.0)


def test_who_took_no_part_is_not_in_the_mean() -> None:
    """Nobody's share is none, not nought."""
    one, two = run(1), run(2)
    nobody = {**two.summary["devices"], "busy": None, "idle_by_cause": dict.fromkeys(CAUSES)}
    absent = replace(two, summary={**two.summary, "devices": nobody})
    assert systems([one, absent])[0].shares("devices") == systems([one])[0].shares("devices")
    assert systems([absent])[0].shares("devices") == [None] * (1 + len(CAUSES))


def test_seeds_that_have_no_time_in_common_are_drawn_as_the_first() -> None:
    """With its own points, without a band."""
    (system,) = systems([run(1, ((1.0, 0.25),)), run(2, ((1.0, 0.75),))])
    line = over(system, "time", "accuracy")
    assert (line.points, line.band) == ([(1.0, 0.25)], ())


def test_the_table_has_a_row_a_system() -> None:
    """With a place a seed, empty where one has not been run: ratios are over the seeds that both have."""
    table = tabled(systems([run(1), run(2), run(2, scheduler={"name": "ampere"})]))
    had = {label: [one is not None for one in row] for label, row in table.runs.items()}
    assert had == {"fedavg": [True, True], "ampere": [False, True]}
    (length,) = (column for column in table.columns if column.key == "seconds")
    assert table.ratio("ampere", length) == 1.0
