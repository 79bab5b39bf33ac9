"""Who is asked in a round, who completes it, and when it ends without the others."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from fedsim.experiment.running import Run, run
from fedsim.experiment.selection import Asked, asked
from fedsim.scenario import Selection
from fedsim.trace import Mark
from tests.experiment.toys import TOY


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, Asked(7, None, None)),
        ({"window": "90 s"}, Asked(7, None, 90.0)),
        ({"kind": "uniform", "count": 3}, Asked(3, None, None)),
        ({"kind": "fraction", "fraction": "30 %"}, Asked(2, None, None)),
        ({"kind": "fraction", "fraction": 0.01, "window": "1 min"}, Asked(1, None, 60.0)),
        ({"kind": "over", "count": 4, "over": 3}, Asked(7, 4, None)),
        ({"kind": "over", "count": 1, "over": 2, "window": "250 ms"}, Asked(3, 1, 0.25)),
    ],
    ids=str,
)
def test_a_selection_comes_to_numbers(selection: dict[str, Any], expected: Asked) -> None:
    """Of seven devices: how many are asked, how many are needed, how long is waited."""
    assert asked(Selection.model_validate(selection), 7) == expected


def timed(**updates: Any) -> Run:
    """The toy on its clock alone, for three rounds; its third device is by far the slowest."""
    return run(TOY, **{"learning": False, "until": {"rounds": 3}, **updates})


def lengths(done: Run) -> list[int]:
    """Of each round, in nanoseconds."""
    marks = [Mark(*mark) for mark in done.trace.marks if mark[2] in ("round.open", "round.close")]
    assert [mark.name for mark in marks] == ["round.open", "round.close"] * 3
    return [after.time - before.time for before, after in list(pairwise(marks))[::2]]


@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed"])
def test_the_first_to_contribute_complete_a_round(scheduler: str) -> None:
    """Two of three: nobody waits for the slowest, who is asked all the same."""
    everybody = timed(scheduler=scheduler)
    first = timed(scheduler=scheduler, selection={"kind": "over", "count": 2, "over": 1})
    assert max(lengths(first)) < min(lengths(everybody)) / 2
    assert first.summary["contributions"]["min"] < 3
    opened = [mark for mark in first.trace.marks if mark[2] == "round.open"]
    assert {mark[4] for mark in opened} == {'{"nodes": [0, 1, 2], "need": 2}'}


@pytest.mark.parametrize("kind", [{}, {"kind": "over", "count": 2, "over": 1}, {"kind": "uniform", "count": 3}])
def test_a_window_ends_a_round_that_is_not_complete(kind: dict[str, Any]) -> None:
    """To the nanosecond, with those that came; a round that is complete before ends before."""
    short = timed(selection={**kind, "window": "1 ms"})
    assert lengths(short) == [1_000_000] * 3
    whole = timed(selection=kind)
    assert lengths(timed(selection={**kind, "window": "10 s"})) == lengths(whole)
    assert max(lengths(whole)) > 1_000_000
