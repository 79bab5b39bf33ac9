"""The table after a run."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from fedsim.report.show import best_of, figures, labels, show, table
from fedsim.report.summary import summarise
from tests.report.hand_made_traces import SCENARIO, Tape, fedavg


def summary(scheduler: str = "fedavg", accuracy: float = 0.6, **more: Any) -> dict[str, Any]:
    """A summary of the run by hand, with another scheduler and accuracy."""
    found = summarise(fedavg().trace, status="done", wall_seconds=1.5)
    metric = {"name": "accuracy", "final": accuracy, "best": accuracy}
    return {**found, "scheduler": scheduler, "metric": metric, **more}


def printed(summaries: list[dict[str, Any]], width: int = 80) -> str:
    """What a pipe of this width gets."""
    console = Console(file=StringIO(), width=width)
    show(summaries, console=console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_one_run_shows_its_key_figures() -> None:
    """With the causes of idle time from the largest down, and plain text where nobody looks."""
    text = printed([summary()])
    for said in ("by-hand · fedavg", "60.0 %", "87.5 %", "416 B", "dependency 50.0 %, straggler 37.5 %"):
        assert said in text
    assert "\x1b" not in text
    assert "status" not in text
    assert "failed" in printed([summary(status="failed")])


def test_samples_a_second_are_never_in_powers_of_ten() -> None:
    """Four digits of small rates, all before the point of large ones."""
    for rate, said in ((11347.6, "11,348"), (8409.2, "8,409"), (12.3456, "12.35")):
        run = {**summary(), "throughput": {**summary()["throughput"], "end_to_end_samples_per_s": rate}}
        assert lines(printed([run]))["samples a second, end to end"] == said


def lines(text: str) -> dict[str, str]:
    """The rest of each line by its label."""
    found = (line.split("  ", 1) for line in text.splitlines() if "  " in line)
    return {label.strip(): rest.strip() for label, rest in found}


def given(kind: str, least: int | None, most: int | None) -> dict[str, Any]:
    """Contributions of a summary."""
    return {**summary()["contributions"], "kind": kind, "min": least, "max": most}


def test_idle_devices_never_stand_without_what_devices_gave() -> None:
    """A device can be busy and useless: the line below, or the column beside, says what the least and the most gave."""
    one, other = summary(), summary("fedoptima", contributions=given("consumed", 3, 20))
    for runs in ([one], [one, other], [one, other, other, one, one]):
        names = [figure.label for figure in figures(runs)]
        at = names.index("devices idle, mean")
        assert names[at + 1] == ("contributions a device" if len(runs) == 5 else "updates a device")
    assert lines(printed([other]))["batches consumed a device"] == "3–20"
    both = lines(printed([one, other]))
    assert both["updates a device"].split() == ["1", "–"], "batches and updates are not compared"
    assert both["batches consumed a device"].split() == ["–", "3–20"]
    uneven = summary("ampere", contributions={**given("delivered", 1, 3), "jain": 0.8})
    assert lines(printed([one, uneven]))["balance of these (Jain)"].split() == ["1.000*", "0.800"]
    assert lines(printed([other, uneven]))["balance of these (Jain)"].split() == ["1.000", "0.800"]
    five = printed([one, other, other, one, one])
    assert "each: fewest–most contributions of a device" in " ".join(five.split())
    assert [line.split()[-4] for line in five.splitlines() if "fedoptima" in line] == ["3–20", "3–20"]


def test_a_target_that_was_not_reached_is_said_and_never_dropped() -> None:
    """Also where no run reached it; each target has a line. A run that was never evaluated has no such figure."""
    late = {"final": 0.5, "best": 0.5, "time_to": {"0.5": 70e-9, "0.9": None}}
    never = {**late, "time_to": {"0.5": None, "0.9": None}}
    text = lines(printed([summary("a", accuracy=0.5) | {"accuracy": late}, summary("b") | {"accuracy": never}]))
    assert text["time to 50 % accuracy"] == "70 ns*  not reached"
    assert text["time to 90 % accuracy"].split() == ["not", "reached", "not", "reached"]
    timing = {"final": None, "best": None, "time_to": {"0.9": None}}
    assert "time to" not in printed([{**summary(), "accuracy": timing}])


def test_several_runs_stand_side_by_side_with_the_best_marked() -> None:
    """A star for the best where there is a better end and the runs differ."""
    text = printed([summary(), summary("ampere", 0.7)])
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert lines["final accuracy"].split()[-4:] == ["60.0", "%", "70.0", "%*"]
    assert "*" not in lines["server idle"], "all alike"
    assert "*" not in lines["length of the run"], "longer is not worse"
    assert max(map(len, text.splitlines())) <= 80


def test_many_runs_stand_in_rows() -> None:
    """Six schedulers fit 80 columns, a line each."""
    text = printed([summary(f"system-{n}", 0.1 * n) for n in range(6)])
    assert len([line for line in text.splitlines() if "system-" in line]) == 6
    assert "50.0 %*" in text


def test_runs_are_named_by_what_tells_them_apart() -> None:
    """Scheduler, scenario or seed; numbers where nothing does."""
    assert labels([summary(), summary("ampere")]) == ["fedavg", "ampere"]
    assert labels([summary(seed=1), summary(seed=2)]) == ["1", "2"]
    assert labels([summary(), summary()]) == ["by-hand · fedavg (1)", "by-hand · fedavg (2)"]
    assert labels([summary()]) == ["by-hand · fedavg"]


def test_figures_that_no_run_has_are_left_out() -> None:
    """A timing-only run has no accuracy, and a gap where only the other one has it."""
    timing = summarise(Tape(1, 10, {**SCENARIO, "until": {"rounds": 1}}).trace, status="done", wall_seconds=1.0)
    assert "final accuracy" not in [figure.label for figure in figures([timing])]
    assert "–" in printed([timing, summary("ampere")])
    accuracy = next(figure for figure in figures([summary()]) if figure.label == "final accuracy")
    assert best_of(accuracy, [timing, summary()]) == {1}


def test_names_are_text_and_never_markup() -> None:
    """A scenario may be called [bold]."""
    assert "[bold]x" in printed([summary(name="[bold]x")])
    assert table([summary()], names=["given"]).title is not None


def test_the_lowest_is_best_where_less_is_better() -> None:
    """Bytes, idle time, and a loss; up and down are not mixed up."""
    less = summary("ampere")
    up = dict.fromkeys(less["bytes"]["up"], 1)
    less["bytes"] = {**less["bytes"], "up": up, "total": 7}
    found = {figure.label: figure for figure in figures([summary(), less])}
    assert found["bytes up"].find(less) == 5
    assert found["bytes down"].find(less) == 208
    assert best_of(found["bytes up"], [summary(), less]) == {1}
    assert best_of(found["bytes, both ways"], [summary(), less]) == {1}
    losses = [summary(metric={"name": "loss", "final": loss, "best": loss}) for loss in (0.5, 0.25)]
    assert best_of(next(f for f in figures(losses) if f.label == "final loss"), losses) == {1}


def test_causes_below_a_tenth_of_a_percent_are_left_out() -> None:
    """And those that are there stand from the largest down."""
    causes = {"dependency": 0.0004, "straggler": 0.001, "model": 0.5}
    text = printed([summary(devices={**summary()["devices"], "idle_by_cause": causes})])
    assert "model 50.0 %, straggler 0.1 %" in text
    assert "dependency 0.0 %" not in text


def test_four_runs_stand_in_columns() -> None:
    """Five stand in rows, with the short names of the figures."""
    four = printed([summary(f"s{n}", 0.1 * n) for n in range(4)], width=120)
    assert "devices idle, mean" in four
    assert "devices idle, mean" not in printed([summary(f"s{n}", 0.1 * n) for n in range(5)], width=120)


def test_an_emulation_says_how_well_its_works_were_paced() -> None:
    """Dilation, overruns, lag and whether it was faithful; a simulation beside it has none of that."""
    fidelity = {"faithful": False, "dilation": 5.0, "overrun_ratio": 0.0625, "lag_s": 0.25}
    emulated = summary("splitfed") | {"fidelity": fidelity}
    found = lines(printed([emulated]))
    assert found["emulation"] == "not faithful"
    assert found["wall seconds a second"] == "5"
    assert found["works that overran"] == "6.2 %"
    assert found["time lost to that, all nodes"] == "250 ms"
    assert "faithful" not in printed([summary()])
    both = next(figure for figure in figures([summary(), emulated]) if figure.label == "emulation")
    assert [both.text(one) for one in (summary(), emulated)] == ["–", "not faithful"]
    fidelity["faithful"] = True
    assert lines(printed([emulated]))["emulation"] == "faithful"
