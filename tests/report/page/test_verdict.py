"""The figures in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsim.report.idle import CAUSES
from fedsim.report.page.systems import Run, System, tabled
from fedsim.report.page.verdict import about, times, wins
from tests.report.page.test_systems import run


def system(name: str, **more: Any) -> System:
    """One run whose summary is changed."""
    one = run()
    summary = {**one.summary, "scheduler": name, **more}
    return System(name, [Run(summary, one.measures, one.scenario)])


def node(busy: float, **causes: float) -> dict[str, Any]:
    """What a summary has of devices or the server."""
    found = {**run().summary["devices"], "busy": busy, "idle": 1 - busy}
    return {**found, "idle_by_cause": {**dict.fromkeys(CAUSES, 0.0), **causes}}


def test_the_winner_of_each_figure_is_named_with_the_next_best() -> None:
    """With both values; a figure in which all are alike has no winner."""
    first, second = system("one", devices=node(0.5)), system("two", devices=node(0.75))
    found = {win.figure: win for win in wins(tabled([first, second]))}
    assert found["devices idle"].winner == "two"
    assert found["devices idle"].value == "25.0 %"
    assert found["devices idle"].margin == "next: one, 50.0 %"
    assert "bytes, both ways" not in found, "they sent the same"


def test_higher_is_better_for_quality() -> None:
    """And lower for what it cost."""
    metric = {"name": "accuracy", "final": 0.9, "best": 0.9}
    one, two = system("one", metric=metric), system("two", metric={**metric, "final": 0.8})
    assert {win.winner for win in wins(tabled([one, two])) if win.figure == "final accuracy"} == {"one"}


def test_who_waited_for_what_largest_first() -> None:
    """The same cause is told of the server in its own words; what is below half a per cent is left out."""
    made = system(
        "a", devices=node(0.25, straggler=0.2, dependency=0.546, model=0.004), server=node(0.1, straggler=0.9)
    )
    server, devices = times(made)
    assert server == (
        "The server was busy 10.0 % of the time, and idle 90.0 %: "
        "90.0 % waiting for the rest of a round's contributions."
    )
    assert devices.startswith(
        "The 2 devices were busy 25.0 % of the time, and idle 75.0 %: 54.6 % waiting for the gradients"
    )
    assert devices.endswith("20.0 % waiting for slower devices of their round.")


def test_a_node_that_never_waited_has_no_causes() -> None:
    """And one device is not many."""
    made = system("a", devices={**node(1.0), "count": 1})
    assert times(made)[1] == "The device was busy 100.0 % of the time."


def test_a_run_is_told_with_its_length_bytes_and_contributions() -> None:
    """In the words of its figures."""
    said = " ".join(about(system("a")))
    assert "The run took 80 ns of its own clock and ended with accuracy 60.0 %; the best was 60.0 %." in said
    assert "208 B went up to the server and 208 B came down." in said
    assert "Every device gave 1 updates that counted." in said


def test_whom_the_others_waited_for_is_named() -> None:
    """The device that waited least for slower ones; nobody, where they hardly did."""
    one = run()
    idle = one.measures.accounts.idle.copy()
    idle[CAUSES.index("straggler")] = 0
    quick = replace(one.measures, accounts=replace(one.measures.accounts, idle=idle))
    assert "Device-1 (pi) waited least for slower devices: 0.0 % of its time." in about(System("a", [one]))
    assert "waited least" not in " ".join(about(System("a", [Run(one.summary, quick, one.scenario)])))
