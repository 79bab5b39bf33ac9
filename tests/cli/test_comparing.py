"""`fedsim compare` in this process and as a real one: tables, JSON, exit status, a terminal, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedsim.cli import main
from fedsim.cli.comparing import Lines, draw
from fedsim.experiment.contest import Cell
from fedsim.experiment.loading import load_scenario
from fedsim.report import Outcome
from fedsim.report.comparison import Column, Grid
from tests.cli.toys import COMMAND, environment, parsed, written
from tests.experiment.toys import TOY

pytestmark = pytest.mark.slow
OWN = "tests.cli.toys:"


def compare(scenario: str, *arguments: str) -> int:
    """Run the command without learning."""
    return main(["compare", scenario, "--set", "learning=off", *arguments])


def test_tables_and_folder(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0; figures with the best marked, ratios to the first, the place of the report last; no bar."""
    assert main(["compare", scenario, "--schedulers", "fedavg,splitfed", "--target", "60 %", "--out", "c"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "figures"
    fedavg = next(line for line in lines if line.startswith("fedavg"))
    assert "*" in fedavg
    assert "not reached" in fedavg
    assert "ratios to fedavg" in lines
    assert lines[-1] == "c/comparison.html"
    assert "\x1b" not in out
    cells = err.splitlines()
    assert [line.partition(": done at ")[0] for line in cells[:2]] == ["1/2 fedavg · seed 3", "2/2 splitfed · seed 3"]
    assert cells[2].startswith("note: accuracy is looked at with each new model")
    assert err.count("\n") == 3


def test_folders_of_its_own(scenario: str) -> None:
    """Without --out: runs/NAME-compare-UTC, another one each time, however quick."""
    for _ in range(2):
        assert compare(scenario, "--schedulers", "fedavg") == 0
    folders = sorted(path.name for path in Path("runs").iterdir())
    assert len(folders) == 2
    assert all(re.match(r"toy-compare-20\d{6}T\d{6}Z", name) for name in folders)


def test_json_is_the_document(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """That of the folder, with its place, and nothing else on standard output; several seeds have means and spreads."""
    arguments = ["--schedulers", "few=fedavg{local_steps: 1},fedavg", "--seeds", "3", "--baseline", "fedavg"]
    assert compare(scenario, *arguments, "--set", "training.batch=8", "--out", "c", "--json") == 0
    out, err = capsys.readouterr()
    found = parsed(out)
    assert found.pop("folder") == "c"
    assert found == parsed(Path("c/comparison.json").read_text())
    assert (found["baseline"], found["seeds"], found["status"]) == ("fedavg", [3, 4, 5], "done")
    assert found["scenario"]["training"]["batch"] == 8
    assert found["table"]["few"]["devices_macs"]["std"] is not None
    assert found["ratios"]["few"]["devices_macs"] < 1
    assert err == ""


def test_everybody(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`all` is the catalogue, with what cannot run; without --schedulers that is left out, with a note."""
    Path(scenario).write_text(Path(scenario).read_text().replace(", cut: 1", ""))
    assert compare(scenario, "--schedulers", "all", "--set", "until.rounds=1", "--json") == 1
    out, err = capsys.readouterr()
    found = parsed(out)
    assert main(["list", "schedulers", "--json"]) == 0
    assert found["schedulers"].keys() == parsed(capsys.readouterr().out).keys()
    states = {cell["scheduler"]: cell["status"] for cell in found["cells"]}
    assert (states["fedavg"], states["splitfed"]) == ("done", "refused")
    assert "cells came to no result; --out runs/toy-compare-" in err
    assert compare(scenario, "--set", "until.rounds=1", "--json") == 0
    out, err = capsys.readouterr()
    assert parsed(out)["schedulers"].keys() == {name for name, state in states.items() if state == "done"}
    assert "note: splitfed is left out: scheduler splitfed cuts the model, but model.cut is not given" in err


def test_a_cell_that_fails(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1; it stands in the table with its reason; a mistake in code is shown as Python shows it."""
    arguments = ["--schedulers", f"fedavg,{OWN}Waits,{OWN}Broken", "--out", "c", "--seeds", "2"]
    assert compare(scenario, *arguments) == 1
    out, err = capsys.readouterr()
    assert "Waits (failed)" in out
    assert "Waits, seed 3: failed; deadlock at 0 s: every script waits" in out
    assert err.count("\nZeroDivisionError: a mistake") == 1, "one trace of a mistake, however many seeds"
    assert err.rstrip().endswith("error: 4 of 6 cells came to no result; --out c runs these again")
    assert compare(scenario, *arguments) == 1


def test_nothing_that_runs(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All fail: 1, and the document is where to look. All are refused: 2, and no folder."""
    assert compare(scenario, "--schedulers", f"{OWN}Waits", "--out", "c") == 1
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("c/comparison.json")
    assert not Path("c/comparison.html").exists()
    assert err.rstrip().endswith("error: no cell came to a result; the reasons stand above")
    assert out.startswith("Waits, seed 3: failed; "), "no table of nothing"
    text = Path(scenario).read_text().replace("profile: pi-tier-1", "profile: raspberry-pi-zero-2w")
    Path(scenario).write_text(text.replace("[8, 8]", "[3000, 3000]"))
    assert compare(scenario, "--schedulers", "fedavg", "--out", "never") == 2
    assert "error: raspberry-pi-zero-2w needs at least" in capsys.readouterr().err
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schedulers", "fedavgg,splitfed"], "unknown scheduler 'fedavgg'; did you mean fedavg?"),
        (["--schedulers", "fedavg{local_stepz: 2}"], "did you mean local_steps? (scheduler fedavg-local_stepz-2)"),
        (["--schedulers", "fedavg", "--set", "scheduler.name=splitfed"], "--set scheduler.name names a scheduler"),
        (["--schedulers", "fedavg", "--baseline", "splitfed"], "unknown baseline 'splitfed'"),
        (
            ["--schedulers", "fedavg", "--target", "60 s"],
            "--target '60 s' has the unit 's', but a fraction is given in %",
        ),
        (
            ["--schedulers", "fedavg", "--target", "60"],
            "target accuracy 60.0; give a share above 0, at most 1, as in '90 %'",
        ),
        (
            ["--schedulers", "fedavg", "--out", "toy.yaml"],
            "toy.yaml cannot be made: File exists; choose another folder",
        ),
        (["--schedulers", "fedavg", "--seeds", "0"], "'--seeds': Input should be greater than or equal to 1"),
        (["--schedulers", "fedavg", "--jobs", "0"], "'--jobs': Input should be greater than or equal to 1"),
        ([], "Missing argument 'SCENARIO'"),
    ],
    ids=str,
)
def test_a_wrong_command_line(
    arguments: list[str], message: str, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and the way out, before anything is made."""
    assert main(["compare", *([scenario] if arguments else []), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in " ".join(err.replace("│", " ").split())
    assert out == ""
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["toy.yaml"]


def drawn(width: int, columns: int) -> list[str]:
    """The lines of a table of so many columns in a terminal of a width."""
    heads = [Column(str(n), f"column {n}", f"head\n{n}", lambda _: None, str) for n in range(columns)]
    rows = {name: [(f"{name}{n}", n == 0) for n in range(columns)] for name in ("one", "two")}
    console = Console(file=StringIO(), width=width)
    draw(console, Grid("a title", heads, rows, ["a note"]))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_a_table_goes_on_below_where_the_width_ends() -> None:
    """With the names of the rows again; every column is there once, none is cut."""
    wide, narrow = drawn(80, 6), drawn(24, 6)
    assert wide[-2].split() == ["two", "two0*", "two1", "two2", "two3", "two4", "two5"]
    assert (wide[0], wide[-1]) == ("a title", "a note")
    assert max(map(len, narrow)) <= 24
    cells = [cell for line in narrow if line.startswith("one") for cell in line.split()[1:]]
    assert cells == ["one0*", "one1", "one2", "one3", "one4", "one5"]
    assert len([line for line in drawn(5, 3) if line.strip() == "head"]) == 3, "a column a table where there is no room"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The command stands among the others and explains itself."""
    assert main(["--help"]) == 0
    assert "compare" in capsys.readouterr().out
    assert main(["compare", "-h"]) == 0
    assert "--schedulers" in capsys.readouterr().out


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[Any], seconds: float = 60) -> None:
    """Until the condition holds; fails if the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a comparison whose second cell never ends; no process of it outlives the test."""
    written(tmp_path)
    running: list[subprocess.Popen[str]] = []

    def start(*more: str) -> subprocess.Popen[str]:
        arguments = ["compare", "toy.yaml", "--schedulers", f"fedavg,{OWN}Endless,splitfed", "--out", "c", *more]
        one = subprocess.Popen(
            [*COMMAND, *arguments, "--set", "learning=off"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(one)
        return one

    yield start
    for one in running:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_leaves_what_is_done(
    jobs: str, scenario: str, endless: Callable[..., subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """130; cells that are done are in the table, the others run when the same command is given again."""
    one = endless("--jobs", jobs)
    wait_for(Path("going").is_file, one)
    wait_for(Path("c/fedavg-seed3/summary.json").is_file, one)
    os.killpg(one.pid, signal.SIGINT)  # as a terminal does it: every process gets it
    out, err = one.communicate(timeout=60)
    assert one.returncode == 130
    assert "Traceback" not in err
    assert "Endless (stopped)" in out
    assert "of 3 cells are done, and the same command with --out c goes on with the others" in err
    assert parsed(Path("c/comparison.json").read_text())["status"] == "stopped"
    assert parsed(Path("c/Endless-seed3/summary.json").read_text())["status"] == "stopped"
    capsys.readouterr()
    assert compare("toy.yaml", "--schedulers", "fedavg,splitfed", "--out", "c", "--json") == 0
    assert [cell["status"] for cell in parsed(capsys.readouterr().out)["cells"]] == ["done", "done"]


def test_a_second_ctrl_c_takes_every_process_along(
    tmp_path: Path, endless: Callable[..., subprocess.Popen[str]]
) -> None:
    """At once, 130."""
    (tmp_path / "stuck.py").write_text(
        "import os, time\nfrom dataclasses import dataclass\nfrom tests.cli.toys import Waits\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Stuck(Waits):\n"
        "    async def go_on(self):\n        open('in', 'w').write(str(os.getpid())); time.sleep(60)\n"
    )
    one = endless("--jobs", "2", "--schedulers", "stuck:Stuck,splitfed")
    wait_for(lambda: (tmp_path / "in").is_file() and bool((tmp_path / "in").read_text()), one)
    os.killpg(one.pid, signal.SIGINT)
    assert one.stderr is not None
    assert any("stopping here" in line for line in one.stderr)
    began = time.monotonic()
    one.send_signal(signal.SIGINT)
    assert one.wait(timeout=60) == 130
    assert time.monotonic() - began < 10
    worker = Path("/proc") / (tmp_path / "in").read_text()
    end = time.monotonic() + 10
    while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2]:
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.05)


def test_a_terminal_has_a_line_a_cell(scenario: str) -> None:
    """As they end, and those that were there before are counted; what moves is gone at the end."""
    assert compare(scenario, "--schedulers", "fedavg", "--out", "c") == 0
    arguments = [scenario, "--set", "learning=off", "--schedulers", f"fedavg,splitfed,{OWN}Waits", "--out", "c"]
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "compare", *arguments],
        env=environment(TERM="xterm", COLUMNS="120"),
        stdout=subprocess.PIPE,
        stderr=follower,
    ) as running:
        os.close(follower)
        said = b""
        while select.select([leader], [], [], 60)[0]:
            try:
                said += os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
        running.communicate()
    os.close(leader)
    assert running.returncode == 1
    text = said.decode()
    assert "1 of 3 cells need no run" in text
    assert "2/3 splitfed · seed 3 " in text, "the bar"
    assert re.search(r"2/3 splitfed · seed 3: done at [\d.]+ m?s, in", text)
    assert re.search(r"3/3 Waits · seed 3: failed: deadlock at 0 s", text)
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") > 0, "the cursor is back"


def test_lines_of_several_processes() -> None:
    """How many there are of how many, until the end."""
    cells = [Cell(label, load_scenario(TOY)) for label in ("a", "b", "c")]
    console = Console(file=StringIO(), force_terminal=True, width=80)
    lines = Lines(console, jobs=4)
    lines.ready(cells, cells[1:])
    lines.outcome(Outcome("b", 3, "failed", reason="a reason"))
    lines.outcome(Outcome("c", 3, "done", {"seconds": 12.0, "wall_seconds": 0.5}))
    lines.close()
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    for said in (
        "1 of 3 cells need no run",
        "1 of 3 cells, 2 processes",
        "2/3 b · seed 3: failed: a reason",
        "3/3 c · seed 3: done at 12 s, in 500 ms",
    ):
        assert said in text
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") == 1
