"""The grids of a sweep: where each figure stands, how dark it is, and which is the best."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from fedsim.report import Outcome, Table
from fedsim.report.show import UNREACHED
from fedsim.report.sweeps import axes_of, grids, overview

AXES = {"rate": ["slow", "fast"], "cut": ["1", "2", "3"]}


def table(seconds: Mapping[tuple[str, ...], float | None], axes: Mapping[str, list[str]] = AXES) -> Table:
    """Outcomes of one figure by place; None is a run that failed."""
    outcomes = []
    for place in product(*axes.values()):
        at, value = dict(zip(axes, place, strict=True)), seconds.get(place)
        label = ", ".join(place)
        summary: dict[str, Any] = {"seconds": value, "devices": {"idle": value}}
        if value is None:
            outcomes.append(Outcome(label, 1, "failed", reason="a reason", at=at))
        else:
            outcomes.append(Outcome(label, 1, "done", summary, at=at))
    return Table(outcomes, outcomes[0].label)


def cells(html: str) -> list[list[str]]:
    """The texts of a table's body, row by row."""
    body = html.partition("<tbody>")[2]
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in body.split("</tr>")[:-1]]


def heats(html: str) -> list[int]:
    """How dark the cells are."""
    return [int(found) for found in re.findall(r"--heat: (\d+)", html)]


SIX = {place: 0.1 * n for n, place in enumerate(product(*AXES.values()), 1)}


def test_rows_and_columns() -> None:
    """The first axis down, the second across, a grid a figure; less idle is darker and the least is marked."""
    found = table(SIX)
    assert axes_of(found) == AXES
    length, idle = grids(found)
    assert "rate ╲ cut" in length
    assert "length of the run (neither more nor less is better)" in length
    assert cells(idle) == [["slow", "10.0 %", "20.0 %", "30.0 %"], ["fast", "40.0 %", "50.0 %", "60.0 %"]]
    assert heats(idle) == [60, 48, 36, 24, 12, 0]
    assert heats(length) == [0, 12, 24, 36, 48, 60]
    assert idle.count("heat best") == 1
    assert re.search(r'class="heat best"[^>]*>10\.0 %', idle)


def test_values_far_apart_go_by_their_logarithm() -> None:
    """Else all but the largest would look alike."""
    length, _ = grids(table({place: 10.0**n for n, place in enumerate(SIX)}))
    assert heats(length) == [0, 12, 24, 36, 48, 60]


def test_a_cell_without_a_figure_says_why() -> None:
    """What became of its run; the others are shaded among each other."""
    length, _ = grids(table({**SIX, ("slow", "2"): None}))
    assert '<td class="none">failed</td>' in length
    assert len(heats(length)) == 5


def test_a_cell_that_has_run_without_a_figure_has_none() -> None:
    """Where that is not because of what became of its run."""
    found = table({("1",): 0.5, ("2",): 0.25}, {"cut": ["1", "2"]})
    last = replace(found.outcomes[-1], summary={"seconds": 0.25})
    (made,) = grids(Table([found.outcomes[0], last], "1"))
    assert [row[1:] for row in cells(made)] == [["500 ms", "250 ms"], ["50.0 %", "–"]]


@pytest.mark.parametrize("reached", [{}, {("slow", "1"): 4.0}, {("slow", "1"): 4.0, ("fast", "3"): 8.0}])
def test_a_target_that_is_not_reached_has_no_shade(reached: Mapping[tuple[str, ...], float]) -> None:
    """It is said; those that reached it are shaded among each other, the earliest darkest; nobody may have."""
    places = list(product(*AXES.values()))
    outcomes = [
        Outcome(
            ", ".join(place),
            1,
            "done",
            {"accuracy": {"best": 0.5, "time_to": {"0.9": reached.get(place)}}},
            at=dict(zip(AXES, place, strict=True)),
        )
        for place in places
    ]
    (late,) = grids(Table(outcomes, outcomes[0].label))
    assert late.count(f"<td>{UNREACHED}</td>") == 6 - len(reached)
    assert heats(late) == {0: [], 1: [0], 2: [60, 0]}[len(reached)]


def test_all_alike() -> None:
    """Nothing is darker, nothing is best."""
    _, idle = grids(table(dict.fromkeys(SIX, 0.5)))
    assert set(heats(idle)) == {0}
    assert "best" not in re.sub("is better", "", idle)


def test_one_axis() -> None:
    """A row a figure."""
    (found,) = grids(table({("1",): 0.5, ("2",): 0.25}, {"cut": ["1", "2"]}))
    assert [row[1:] for row in cells(found)] == [["500 ms", "250 ms"], ["50.0 %", "25.0 %"]]
    assert heats(found) == [60, 0, 0, 60]


def test_a_third_axis_parts_the_grids() -> None:
    """One for each of its choices, named in the caption."""
    axes = {**AXES, "batch": ["8", "16"]}
    found = list(grids(table({place: float(n) for n, place in enumerate(product(*axes.values()), 1)}, axes)))
    assert len(found) == 4
    assert "length of the run, batch 8 (" in found[0]
    assert cells(found[1])[0] == ["slow", "2 s", "4 s", "6 s"]


def test_texts_are_escaped() -> None:
    """What a scenario calls its axes and values cannot become markup."""
    axes = {"<i>": ["<b>", "x"], "y": ["<u>"], "<s>": ["<p>", "<q>"]}
    made = overview(table(dict.fromkeys(product(*axes.values()), 1.0), axes), "a title", "a <note>")
    html = "".join(made.sections)
    assert not {"<i>", "<b>", "<u>", "<s>", "<q>", "<note>"} & set(re.findall(r"<\w+>", html))
    assert "a &lt;note&gt;" in html
