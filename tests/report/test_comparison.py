"""A comparison's table from summaries alone: means and spreads by hand, the best, ratios, what is infinite."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from fedsim.report.comparison import Column, Outcome, Statistic, Table, grids
from fedsim.report.html import Run, render
from fedsim.report.measures import measure
from fedsim.report.summary import summarise
from fedsim.units import human_seconds
from tests.report.hand_made_traces import fedavg


def summary(**more: Any) -> dict[str, Any]:
    """The figures of a run that a table looks at, without those that tests do not ask for."""
    found: dict[str, Any] = {
        "seconds": 10.0,
        "metric": {"name": "accuracy", "final": 0.5, "best": 0.5},
        "accuracy": {"final": 0.5, "best": 0.5, "time_to": {}},
        "server": {"idle": 0.5},
        "bytes": {"up": {"weights": 3, "control": 1}, "down": {"weights": 2, "control": 1}, "total": 7},
    }
    return found | more


def table(*rows: tuple[str, Sequence[dict[str, Any] | None]], baseline: str | None = None) -> Table:
    """Rows of summaries by scheduler, seeds from 1 on; None is a run that failed."""
    outcomes = [
        Outcome(name, seed, "failed", reason="a reason", at={"scheduler": name})
        if one is None
        else Outcome(name, seed, "done", one, at={"scheduler": name})
        for name, row in rows
        for seed, one in enumerate(row, 1)
    ]
    return Table(outcomes, baseline or rows[0][0])


def column(found: Table, key: str) -> Column:
    """A column by its key."""
    return next(one for one in found.columns if one.key == key)


def timed(target: float | None) -> dict[str, Any]:
    """A summary of a run that took so long to 60 %."""
    return summary(accuracy={"final": 0.5, "best": 0.5, "time_to": {"0.6": target}})


def test_mean_and_spread_by_hand() -> None:
    """10, 12 and 17: the mean is 13, the sample's variance (9 + 1 + 16) / 2."""
    found = table(("a", [summary(seconds=seconds) for seconds in (10.0, 12.0, 17.0)]))
    statistic = found.statistic("a", column(found, "seconds"))
    assert statistic.mean == 13.0
    assert statistic.std == pytest.approx(math.sqrt(13))
    assert Statistic((4.0,)).std is None, "one seed has no spread"
    assert Statistic((None, None)).mean is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((6.33,), "6.33 s"),
        ((6.0, 7.0), "6.5 ± 0.7 s"),
        ((0.1, 0.3), "200 ± 141 ms"),
        ((600.0, 660.0), "10.5 ± 0.7 min"),
        ((5.0, 5.0), "5 ± 0 s"),
        ((0.0, 0.0), "0 ± 0 ns"),
        ((None, 4.0), "4 s"),
        ((math.inf, 4.0), "reached 1 of 2"),
        ((math.inf, math.inf), "not reached"),
        ((None,), "–"),
    ],
    ids=str,
)
def test_a_figure_over_seeds_as_people_read_it(values: tuple[float | None, ...], text: str) -> None:
    """The spread in the unit of the mean and to its last digit; what was never reached is not averaged away."""
    assert Statistic(values).text(human_seconds) == text


def test_numbers_too_small_for_plain_digits() -> None:
    """The spread has two digits then."""
    assert Statistic((1e-5, 2e-5)).text("{:.4g}".format) == "1.5e-05 ± 7.1e-06"


def test_the_best_depends_on_the_column() -> None:
    """The highest accuracy, the fewest bytes; a longer run is neither better nor worse."""
    better = summary(seconds=5.0, metric={"name": "accuracy", "final": 0.7, "best": 0.7})
    less = summary(bytes={"up": {"weights": 1}, "down": {"weights": 1}, "total": 2})
    found = table(("a", [better]), ("b", [less]))
    assert found.best(column(found, "final_accuracy")) == {"a"}
    assert found.best(column(found, "bytes_total")) == {"b"}
    assert found.best(column(found, "bytes_up")) == {"b"}
    assert found.best(column(found, "seconds")) == set()


def test_none_is_best_where_all_look_alike() -> None:
    """Equal, or different beyond the digits that are shown; two of three may share it; a lone figure has no rival."""
    alike = table(("a", [summary(server={"idle": 0.50001})]), ("b", [summary(server={"idle": 0.5})]))
    assert alike.best(column(alike, "server_idle")) == set()
    shared = table(("a", [summary()]), ("b", [summary()]), ("c", [summary(server={"idle": 0.6})]))
    assert shared.best(column(shared, "server_idle")) == {"a", "b"}
    lone = table(("a", [summary()]), ("b", [None]))
    assert lone.best(column(lone, "server_idle")) == set()


def test_a_target_that_was_not_reached_is_infinitely_late() -> None:
    """It loses to any time, makes its mean infinite, and is never dropped."""
    found = table(("a", [timed(None), timed(1.0)]), ("b", [timed(50.0), timed(70.0)]))
    late = column(found, "time_to_0.6")
    assert late.label == "time to 60 % accuracy"
    assert found.statistic("a", late).mean == math.inf
    assert found.best(late) == {"b"}
    assert found.ratio("a", late) is None, "infinity by infinity"
    assert found.ratio("b", late) == 0, "only the baseline did not reach it"
    document = found.document()["table"]["a"]["time_to_0.6"]
    assert document == {"mean": None, "std": None, "values": [None, 1.0], "reached": 1}
    json.dumps(found.document(), allow_nan=False)


def test_targets_stand_from_the_lowest_up_and_only_where_asked_for() -> None:
    """A timing-only run, which looks at no accuracy, has no such time."""
    many = summary(accuracy={"final": 0.5, "best": 0.5, "time_to": {"0.9": None, "0.25": 1.0}})
    blind = summary(accuracy={"final": None, "best": None, "time_to": {"0.9": None}})
    found = table(("a", [many]), ("b", [blind]))
    assert [c.key for c in found.columns if c.key.startswith("time_to")] == ["time_to_0.25", "time_to_0.9"]
    assert found.statistic("b", column(found, "time_to_0.9")).values == (None,)


def test_ratios_are_of_means_over_the_seeds_that_both_have() -> None:
    """The second seed of `b` failed, so the baseline's second does not count either."""
    row: list[dict[str, Any] | None] = [summary(seconds=10.0), summary(seconds=90.0)]
    found = table(("a", row), ("b", [summary(seconds=30.0), None]))
    seconds = column(found, "seconds")
    assert found.ratio("b", seconds) == 3.0
    assert found.ratio("a", seconds) == 1.0
    assert table(("a", row), ("b", [None, None])).ratio("b", seconds) is None
    other = table(("a", row), ("b", [summary(seconds=30.0), None]), baseline="b")
    assert other.ratio("a", seconds) == pytest.approx(1 / 3)
    nothing = table(("a", [summary(server={"idle": 0.0})]), ("b", [summary()]))
    assert nothing.ratio("b", column(nothing, "server_idle")) is None, "a ratio to nothing is no number"


def test_columns_that_no_run_has_are_left_out() -> None:
    """Summaries of other versions may lack a figure, or be null there; figures that are there stand in their order."""
    found = table(("a", [summary(server={"idle": None, "joules": 4})]))
    keys = [one.key for one in found.columns]
    assert keys == [
        "seconds",
        "final_accuracy",
        "best_accuracy",
        "bytes_total",
        "bytes_up",
        "bytes_down",
        "server_joules",
    ]
    assert table(("a", [None])).columns == ()
    assert table(("a", [None])).document()["table"] == {"a": {}}


def test_a_real_summary_has_every_column() -> None:
    """Under the names that summaries have now."""
    found = table(("a", [summarise(fedavg().trace, status="done", wall_seconds=1.0)]))
    keys = {one.key for one in found.columns}
    assert keys == {
        "seconds",
        "final_accuracy",
        "best_accuracy",
        "time_to_0.5",
        "end_to_end_samples_per_s",
        "server_idle",
        "devices_idle",
        "devices_idle_whole_run",
        "contributions_min",
        "contributions_max",
        "contributions_jain",
        "bytes_total",
        "bytes_up",
        "bytes_down",
        "devices_macs",
        "devices_joules",
        "server_joules",
    }


def test_a_loss_is_better_the_lower_it_is() -> None:
    """And perplexity is written as a number."""
    losses = [summary(metric={"name": "loss", "final": loss, "best": loss}) for loss in (0.5, 0.25)]
    found = table(("a", losses[:1]), ("b", losses[1:]))
    assert found.best(column(found, "final_loss")) == {"b"}


def test_balance_is_compared_where_all_contribute_the_same_kind() -> None:
    """Batches consumed against updates delivered say nothing."""
    given = {"min": 1, "max": 2, "jain": 0.9}
    updates = [summary(contributions={**given, "jain": jain, "kind": "delivered"}) for jain in (0.9, 1.0)]
    same = table(("a", updates[:1]), ("b", updates[1:]))
    assert same.best(column(same, "contributions_jain")) == {"b"}
    batches = summary(contributions={**given, "kind": "consumed"})
    mixed = table(("a", [batches]), ("b", updates[1:]))
    assert mixed.best(column(mixed, "contributions_jain")) == set()


def test_rows_for_other_programs() -> None:
    """One for each run, also for one that failed, with its reason; a target that was not reached is `inf`."""
    rows = list(table(("a", [timed(None), None])).rows())
    assert [(row["scheduler"], row["seed"], row["status"]) for row in rows] == [("a", 1, "done"), ("a", 2, "failed")]
    assert (rows[0]["time_to_0.6"], rows[0]["bytes_up"], rows[0]["reason"]) == (math.inf, 4.0, "")
    assert (rows[1]["seconds"], rows[1]["reason"]) == (None, "a reason")
    assert list(rows[0]) == list(rows[1])


def test_grids_say_what_failed() -> None:
    """Behind the scheduler's name, with the reasons below; ratios have no row for what never ran."""
    figures, ratios = grids(table(("a", [summary(), summary()]), ("b", [summary(), None]), ("c", [None, None])))
    assert list(figures.rows) == ["a", "b (1 of 2 failed)", "c (failed)"]
    assert figures.title == "figures, mean ± standard deviation over 2 seeds"
    assert figures.notes == [f"{name}, seed {seed}: failed; a reason" for name, seed in (("b", 2), ("c", 1), ("c", 2))]
    assert list(ratios.rows) == ["a", "b (1 of 2 failed)"]
    assert ratios.title == "ratios to a"
    assert {text for cells in ratios.rows.values() for text, _ in cells} == {"1x"}
    assert [grid.title for grid in grids(table(("a", [summary()])))] == ["figures"], (
        "one alone is compared with nothing"
    )


def test_where_nothing_ran_there_are_only_reasons() -> None:
    """No ratios of nothing."""
    (only,) = grids(table(("a", [None]), ("b", [None])))
    assert not only.heads
    assert only.notes == ["a, seed 1: failed; a reason", "b, seed 1: failed; a reason"]


def test_ratios_as_people_read_them() -> None:
    """Three digits; a target that only the baseline reached is `not reached`."""
    _, ratios = grids(table(("a", [timed(3.0)]), ("b", [{**timed(None), "seconds": 123.45}])))
    row = dict(zip((one.key for one in ratios.heads), (text for text, _ in ratios.rows["b"]), strict=True))
    assert (row["seconds"], row["time_to_0.6"]) == ("12.3x", "not reached")


def test_the_page_has_the_tables_behind_the_answer() -> None:
    """Behind the answer and its pictures, with the best marked, and names as text, not as markup."""
    trace = fedavg().trace
    runs = [Run(summarise(trace, status="done", wall_seconds=1.0), measure(trace), trace.scenario)]
    page = render(runs, grids(table(("a", [summary()]), ("<b>", [summary(server={"idle": 0.25})]), ("c", [None]))))
    top, rest = page.split("<h2>Who did what when", 1)
    assert "Comparison: ratios to a" in top
    assert '<td class="best">25.0 %</td>' in top
    assert "<th>&lt;b&gt;</th>" in top
    assert "<p>c, seed 1: failed; a reason</p>" in top
    assert "Comparison" not in rest
