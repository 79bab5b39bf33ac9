"""`fedsim run` and `fedsim check` of a sweep: one table, one report, exit status."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedsim.cli import main
from tests.cli.toys import parsed

pytestmark = pytest.mark.slow
SWEEP = "sweep:\n  scheduler: [fedavg, splitfed]\n  model.cut: [1, 2]\n"


@pytest.fixture
def swept(scenario: str) -> str:
    """The toy scenario with a sweep, timing only."""
    path = Path(scenario)
    path.write_text(path.read_text().replace("rounds: 2", "rounds: 1") + "learning: off\n" + SWEEP)
    return scenario


def test_one_table_and_one_report(swept: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0; a row a cell; the place of the report last; given again, nothing runs."""
    assert main(["run", swept, "--out", "s"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "figures"
    rows = [line for line in lines if line.startswith(("fedavg, cut 1", "splitfed, cut 2"))]
    assert len(rows) >= 2
    assert lines[-1] == "s/report.html"
    assert [line.partition(" · ")[0] for line in err.splitlines()] == [
        *("1/4 fedavg, cut 1", "2/4 fedavg, cut 2", "3/4 splitfed, cut 1", "4/4 splitfed, cut 2")
    ]
    stamp = Path("s/fedavg-cut-1-seed3/summary.json").stat().st_mtime_ns
    assert main(["run", swept, "--out", "s", "--json"]) == 0
    found = parsed(capsys.readouterr().out)
    assert found.pop("folder") == "s"
    assert found == parsed(Path("s/sweep.json").read_text())
    assert Path("s/fedavg-cut-1-seed3/summary.json").stat().st_mtime_ns == stamp


def test_a_folder_of_its_own_and_changes_on_top(swept: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --out: runs/NAME-sweep-UTC; `--set` changes all cells, or an axis."""
    assert main(["run", swept, "--set", "sweep.model.cut=[2]", "--set", "training.batch=8", "--json"]) == 0
    found = parsed(capsys.readouterr().out)
    assert re.match(r"runs/toy-sweep-20\d{6}T\d{6}Z$", found["folder"])
    assert [cell["cell"] for cell in found["cells"]] == ["fedavg, cut 2", "splitfed, cut 2"]
    assert found["scenario"]["training"]["batch"] == 8


def test_check_says_which_cells_are_wrong(swept: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a cell; status 2 with reasons and their cells where one cannot run; nothing is made."""
    assert main(["check", swept]) == 0
    out = capsys.readouterr().out
    assert "model.cut: 1, 2\n4 cells, 1 seed: 4 runs" in out
    assert out.count("right") == 4
    assert main(["check", swept, "--set", "sweep.model.cut=[1, 9]"]) == 2
    out = capsys.readouterr().out
    assert (out.count("right"), out.count("wrong")) == (2, 2)
    assert (
        "fedavg, cut 9; splitfed, cut 9:\ncut after unit 9, but mlp has 3 units; choose 1-2 (--set sweep.model.cut)"
        in out
    )
    assert main(["check", swept, "--set", "sweep.model.cut=[x]", "--json"]) == 2
    found = parsed(capsys.readouterr().out)
    assert [cell["cell"] for cell in found["cells"]] == ["fedavg, x", "splitfed, x"]
    assert found["cells"][0]["wrong"].startswith("model.cut: 'x' does not fit; give the index of a unit, or auto")
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["toy.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--set", "sweep.model.cutt=[1]"],
            "model.cutt: unknown key; did you mean cut? (--set sweep.model.cutt)",
        ),
        (
            ["run", "--ray", "auto"],
            "--ray auto is for one run, and this is a sweep; --jobs N shares its runs, or leave",
        ),
        (["run", "--set", "sweep=off", "--jobs", "2"], "--jobs 2 shares the runs of a sweep, and toy is one run"),
        (
            ["run", "--set", "model.cut=2"],
            "model.cut is what the sweep varies; --set 'sweep.model.cut=[VALUE]' gives it",
        ),
        (["check", "--set", "sweep=3"], "sweep: 3 does not fit; give a mapping of axes or off (--set sweep)"),
        (["compare", "--schedulers", "fedavg"], "sweep: this is a sweep, which is many runs; `fedsim run` and"),
    ],
    ids=str,
)
def test_a_wrong_command_line(
    arguments: list[str], message: str, swept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and the way out, before anything is made."""
    command, *more = arguments
    assert main([command, swept, *more]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["toy.yaml"]
