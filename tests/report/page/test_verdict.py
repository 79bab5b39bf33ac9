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


def test_who_shares_the_first_place_has_not_won() -> None:
    """Nor is anybody told to be first by the idle time of the whole run beside that of the active time."""
    tied = [system(name, devices=node(busy)) for name, busy in (("one", 0.5), ("two", 0.75), ("three", 0.75))]
    assert not [win for win in wins(tabled(tied)) if win.figure == "devices idle"]
    devices = {**node(0.75), "idle_whole_run": 0.125}
    figures = [win.figure for win in wins(tabled([tied[0], system("two", devices=devices)]))]
    assert "devices idle" in figures
    assert "devices idle, whole run" not in figures


def test_higher_is_better_for_quality() -> None:
    """And lower for what it cost."""
    metric = {"name": "accuracy", "final": 0.9, "best": 0.9}
    one, two = system("one", metric=metric), system("two", metric={**metric, "final": 0.8})
    (win,) = (win for win in wins(tabled([one, two])) if win.figure == "final accuracy")
    assert (win.winner, win.value, win.margin) == ("one", "90.0 %", "next: two, 80.0 %")
    three = system("three", metric={**metric, "final": 0.7})
    assert win in wins(tabled([one, three, two])), "next is the best of the others"


def test_who_waited_for_what_largest_first() -> None:
    """The same cause is told of the server in its own words; what is below half a per cent is left out."""
    made = system(
        "a",
        devices=node(0.25, straggler=0.185, sleep=0.015, dependency=0.546, model=0.004),
        server=node(0.1, straggler=0.9),
    )
    server, devices = times(made)
    assert server == (
        "The server was busy 10.0 % of the time, and idle 90.0 %: "
        "90.0 % waiting for the rest of a round's contributions."
    )
    assert devices.startswith(
        "The 2 devices were busy 25.0 % of the time, and idle 75.0 %: 54.6 % waiting for the gradients"
    )
    assert devices.endswith("18.5 % waiting for slower devices of their round, 1.5 % asleep.")


def test_a_node_that_never_waited_has_no_causes() -> None:
    """And one device is not many."""
    made = system("a", devices={**node(1.0), "count": 1})
    assert times(made)[1] == "The device was busy 100.0 % of the time."


def test_last_and_best_up_and_down_are_told_apart() -> None:
    """Each figure stands behind its own word; contributions as far apart as they are."""
    metric = {"name": "accuracy", "final": 0.5, "best": 0.75}
    way = dict.fromkeys(("weights", "activations", "gradients", "labels", "control"), 0)
    amounts = {"up": {**way, "activations": 3000}, "down": {**way, "weights": 4, "control": 1}}
    given = {**run().summary["contributions"], "min": 2, "max": 1000, "kind": "consumed"}
    said = " ".join(about(system("a", metric=metric, bytes=amounts, contributions=given)))
    assert "ended with accuracy 50.0 %; the best was 75.0 %." in said
    assert "3 kB went up to the server and 5 B came down." in said
    assert "Devices gave between 2 and 1,000 batches that the server used." in said
    text = " ".join(about(system("a", metric={"name": "perplexity", "final": 12.5, "best": 12.25})))
    assert "ended with perplexity 12.5; the best was 12.25." in text


def test_of_several_seeds_the_first_is_told_and_named() -> None:
    """Where the time went is the mean of all."""
    several = System("a", [run(3), run(4)])
    assert "The run took 80 ns of its own clock (seed 3, the first of 2) and ended with" in about(several)[0]


def test_a_run_for_inference_has_given_nothing() -> None:
    """Its contributions are answers, which have a part of their own."""
    assert "that counted" in " ".join(about(system("a")))
    assert "that counted" not in " ".join(about(system("a", inference={})))


def test_a_run_is_told_with_its_length_bytes_and_contributions() -> None:
    """In the words of its figures."""
    said = " ".join(about(system("a")))
    assert "The run took 80 ns of its own clock and ended with accuracy 60.0 %; the best was 60.0 %." in said
    assert "208 B went up to the server and 208 B came down." in said
    assert "Every device gave 1 update that counted." in said


def test_whom_the_others_waited_for_is_named() -> None:
    """The device that waited least for slower ones; nobody, where they hardly did."""
    one = run()
    idle = one.measures.accounts.idle.copy()
    idle[CAUSES.index("straggler")] = 0
    quick = replace(one.measures, accounts=replace(one.measures.accounts, idle=idle))
    assert "Device-1 (pi) waited least for slower devices: 0.0 % of its time." in about(System("a", [one]))
    assert "waited least" not in " ".join(about(System("a", [Run(one.summary, quick, one.scenario)])))
