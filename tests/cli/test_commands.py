"""Every command in this process: what it prints, its JSON, its exit status, and what it says of mistakes."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from fedsim.cli import main
from tests.cli.toys import FILES, TOY, parsed, written

SUMMARY = {
    "schema",
    "name",
    "scheduler",
    "mode",
    "seed",
    "status",
    "seconds",
    "wall_seconds",
    "accuracy",
    "server",
    "devices",
    "bytes",
    "throughput",
    "metric",
    "deployment",
    "contributions",
    "identity",
}
CAUSES = {"dependency", "straggler", "flow", "model", "unselected", "load", "sleep"}


@pytest.mark.slow
def test_run_writes_its_folder_and_prints_a_table(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0, exactly the files of the interface, the place of the report last."""
    assert main(["run", scenario, "--out", "here"]) == 0
    assert {path.name for path in Path("here").iterdir()} == FILES
    out, err = capsys.readouterr()
    assert "final accuracy" in out
    assert out.rstrip().endswith("here/report.html")
    assert err == "", "no progress bar where nobody looks"


@pytest.mark.slow
def test_run_makes_folders_of_its_own(scenario: str) -> None:
    """Without --out: runs/NAME-SCHEDULER-UTC, another one each time, however quick."""
    for _ in range(2):
        assert main(["run", scenario, "--set", "learning=off"]) == 0
    folders = sorted(path.name for path in Path("runs").iterdir())
    assert len(folders) == 2
    assert all(name.startswith("toy-fedavg-20") for name in folders)


@pytest.mark.slow
@pytest.mark.parametrize("learning", ["on", "off"])
def test_run_as_json_is_the_summary(scenario: str, learning: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All keys of the interface; nothing else on standard output."""
    assert main(["run", scenario, "--json", "--out", "x", "--set", f"learning={learning}"]) == 0
    out, err = capsys.readouterr()
    found = parsed(out)
    assert found.keys() >= SUMMARY | {"folder"}
    assert found["folder"] == "x"
    assert (found["status"], found["mode"], found["schema"]) == ("done", "simulate", 1)
    assert set(found["devices"]["idle_by_cause"]) == CAUSES
    assert set(found["bytes"]["up"]) == {"activations", "gradients", "weights", "labels", "control"}
    assert set(found["accuracy"]) == {"final", "best", "time_to"}
    assert (found["accuracy"]["final"] is None) == (learning == "off")
    assert err == ""
    stored = parsed(Path("x/summary.json").read_text())
    assert {key: value for key, value in found.items() if key != "folder"} == stored


@pytest.mark.slow
def test_run_overrides_fields(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--set reaches any field, later ones win, --mode is one of them."""
    arguments = ["--set", "scheduler.name=splitfed", "--set", "until.rounds=1", "--set", "learning=off"]
    assert main(["run", scenario, *arguments, "--mode", "simulate", "--json"]) == 0
    found = parsed(capsys.readouterr().out)
    assert found["scheduler"] == "splitfed"
    assert Path(found["folder"]).name.startswith("toy-splitfed-")


@pytest.mark.slow
def test_check_prints_all_there_is(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenario, units and cut, fleet, times, memory, who holds what, and what is assumed; it writes nothing."""
    assert main(["check", scenario]) == 0
    out = capsys.readouterr().out
    for part in ("resolved scenario", "hidden1", "cut", "pi-tier-1", "ethernet-1g", "by device and class"):
        assert part in out
    for part in ("weights, both ways", "everything fits", "how far to trust it", "the server receives 941 Mbit/s"):
        assert part in out
    assert max(map(len, out.splitlines())) < 250
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["toy.yaml"]


@pytest.mark.slow
def test_check_of_a_run_that_would_not_fit(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints everything, with the verdict, and its status is wrong input, unless the scenario wants to see it."""
    text = Path(scenario).read_text().replace("profile: pi-tier-1", "profile: raspberry-pi-zero-2w")
    big = "model: {name: mlp, hidden: [3000, 3000], cut: 1}"
    Path(scenario).write_text(re.sub(r"model: .*", big, text))
    assert main(["check", scenario]) == 2
    out = capsys.readouterr().out
    assert "does not fit" in out
    assert "raspberry-pi-zero-2w needs at least" in out
    assert "give a smaller training.batch, another cut, model or profile, or on_oom: leave or record" in out
    assert main(["check", scenario, "--set", "on_oom=record"]) == 0
    assert main(["run", scenario, "--out", "never"]) == 2
    assert "raspberry-pi-zero-2w needs at least" in capsys.readouterr().err
    assert not Path("never").exists()


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed"])
def test_check_as_json(scenario: str, scheduler: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain data with the resolved scenario, model, data, fleet and assumptions."""
    assert main(["check", scenario, "--json", "--set", f"scheduler={scheduler}"]) == 0
    found = parsed(capsys.readouterr().out)
    assert found.keys() >= {"scenario", "model", "data", "fleet", "server", "trust", "energy", "assumptions"}
    assert found["fits"] is True
    assert found["model"]["cut"] == (1 if scheduler == "splitfed" else None)
    assert [unit["name"] for unit in found["model"]["units"]] == ["hidden1", "hidden2", "head"]
    assert found["model"]["macs"] == 64 * 8 + 8 * 8 + 8 * 10
    assert found["data"]["train"] == 200
    assert sum(group["count"] for group in found["fleet"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["schedulers", "models", "data", "profiles", "links", "scenarios"])
def test_list_names_what_there_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each; as JSON the same names with a sentence each."""
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["list", kind, "--json"]) == 0
    found = parsed(capsys.readouterr().out)
    assert [line.split()[0] for line in lines] == list(found)
    assert all(isinstance(text, str) and text for text in found.values())
    known = {"schedulers": "fedavg", "models": "cnn", "data": "digits", "profiles": "cpu-60g", "links": "lte"}
    assert known.get(kind, "quickstart") in found


@pytest.mark.slow
def test_report_of_one_and_of_several(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Makes report.html again, or a comparison; --json gives the summaries and the file."""
    for name in ("a", "b"):
        assert main(["run", scenario, "--out", name, "--set", "learning=off", "--json"]) == 0
    capsys.readouterr()
    before = Path("a/report.html").read_bytes()
    Path("a/report.html").unlink()
    assert main(["report", "a"]) == 0
    assert Path("a/report.html").read_bytes() == before
    assert main(["report", "a", "b", "--out", "both.html"]) == 0
    assert Path("both.html").stat().st_size > 1000
    capsys.readouterr()
    assert main(["report", "a", "b", "--json"]) == 0
    found = parsed(capsys.readouterr().out)
    assert found["report"] == "comparison.html"
    assert [run["name"] for run in found["runs"]] == ["toy", "toy"]


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the installed package, and nothing else."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fedsim {metadata.version('fedsim-edge')}\n"


def test_help_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0 with the commands' names; no command at all shows the same."""
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("run", "check", "list", "report"))
    for command in ("run", "check", "list", "report"):
        assert main([command, "-h"]) == 0
        assert "Usage: fedsim" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "No such command 'rum'"),
        (["run"], "Missing argument 'SCENARIO'"),
        (["run", "quickstart", "--oops"], "No such option: --oops"),
        (["list", "things"], "'things' is not one of"),
        (["report"], "Missing argument"),
    ],
    ids=str,
)
def test_a_wrong_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and the reason on standard error."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in " ".join(err.split())
    assert out == ""


CUT = TOY.replace("scheduler: fedavg", "scheduler: splitfed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "sets", "message"),
    [
        (TOY + "traning: {}\n", [], r"traning: unknown key; did you mean training? (toy.yaml, line 12)"),
        (TOY.replace("fedavg", "fedavgg"), [], "did you mean fedavg?"),
        (TOY, ["scheduler.local_stepz=3"], "did you mean local_steps?"),
        (TOY, ["scheduler.local_stepz=3"], "(--set scheduler.local_stepz)"),
        (TOY, ["until"], "'until' has no '='"),
        (TOY, ["until.rounds=x"], "until.rounds"),
        (TOY.replace("wifi5", "wifi55"), [], "unknown link 'wifi55'; did you mean wifi5?"),
        (TOY.replace("pi-tier-1", "pi-teir-1"), [], "did you mean pi-tier-1?"),
        (CUT.replace("cut: 1", "cut: 3"), [], "cut after unit 3, but mlp has 3 units; choose 1-2 (toy.yaml, line 3)"),
        (
            CUT.replace(", cut: 1", ""),
            [],
            "scheduler splitfed cuts the model, but model.cut is not given; add cut: auto, or 1 to 2",
        ),
        (TOY, ["mode=emulate", "learning=off"], "emulate does the real work, so it needs learning: on"),
        (TOY + "checkpoint: {every: 3}\n", [], "checkpoint: not in this version of fedsim; remove the key"),
        (TOY.replace("samples: 200", "samples: 5000"), [], "but the training set of digits has"),
        (TOY.replace("samples: 200", "samples: 5000"), [], "(toy.yaml, line 4)"),
        (TOY.replace("name: mlp, hidden: [8, 8]", "name: transformer"), [], "but this is image data; choose"),
        (TOY.replace("name: mlp, hidden: [8, 8]", "name: transformer"), [], "(toy.yaml, line 3)"),
        (TOY.replace("name: digits, samples: 200", "name: mnist, path: nowhere"), [], "line 4)"),
        (TOY.replace("link: wifi5", "link: {up: 0, down: 1 Mbit/s}"), [], "(toy.yaml, line 6)"),
        ("", [], "nothing is there"),
        ("a: [", [], "not valid YAML"),
    ],
    ids=range(20),
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_wrong_scenario(
    command: str, text: str, sets: list[str], message: str, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2; the message names the fault, its place and the way out; no folder is left behind."""
    written(Path.cwd(), text)
    options = [word for change in sets for word in ("--set", change)]
    assert main([command, "toy.yaml", *options]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("error: ")
    assert out == ""
    assert not Path("runs").exists()


def test_an_unknown_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    """By name: the nearest one; by path: where it was looked for."""
    assert main(["run", "quikstart"]) == 2
    assert "unknown scenario 'quikstart'; did you mean quickstart?" in capsys.readouterr().err
    assert main(["check", "./nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.slow
def test_out_must_be_new(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that holds something, or a file, is refused before anything is built; an empty one is taken."""
    Path("full").mkdir()
    Path("full/x").touch()
    for out in ("full", "toy.yaml"):
        assert main(["run", scenario, "--out", out]) == 2
        assert f"--out {out} already exists and is not empty; choose another folder" in capsys.readouterr().err
    assert main(["run", scenario, "--out", "toy.yaml/x"]) == 2
    assert "cannot be made: Not a directory; choose another folder" in capsys.readouterr().err
    Path("empty").mkdir()
    assert main(["run", scenario, "--out", "empty", "--set", "learning=off"]) == 0


@pytest.mark.slow
def test_report_on_what_is_no_run(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a summary, no folder, a place that cannot be written: exit status 2 and the reason."""
    Path("empty").mkdir()
    assert main(["report", "empty"]) == 2
    assert "empty has no summary.json, so its run did not finish" in capsys.readouterr().err
    assert main(["report", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert main(["run", scenario, "--out", "a", "--set", "learning=off"]) == 0
    assert main(["report", "a", "--out", "nowhere/x.html"]) == 2
    assert "nowhere/x.html cannot be written: No such file or directory; name another file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_hangs_has_failed(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A deadlock of the user's own scheduler: exit status 1, a folder that says so and can be reported."""
    assert main(["run", scenario, "--out", "x", "--set", "scheduler.name=tests.cli.toys:Waits"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: deadlock at 0 s: every script waits")
    assert "Traceback" not in err
    assert parsed(Path("x/summary.json").read_text())["status"] == "failed"
    assert main(["report", "x"]) == 0


@pytest.mark.slow
def test_a_mistake_in_the_users_own_scheduler(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is shown as Python shows it, from our first frame on, its author's line last; the run has failed."""
    assert main(["run", scenario, "--out", "x", "--set", "scheduler.name=tests.cli.toys:Broken"]) == 1
    said = capsys.readouterr().err
    assert said.rstrip().endswith("ZeroDivisionError: a mistake")
    assert "typer" not in said
    assert parsed(Path("x/summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_run_that_diverges_is_still_a_run(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses that are no numbers end up as null in the summary."""
    assert main(["run", scenario, "--json", "--set", "training.optimizer.lr=1e30"]) == 0
    out = capsys.readouterr().out
    assert "NaN" not in out
    assert "Infinity" not in out
    folder = Path(parsed(out)["folder"])
    assert parsed((folder / "summary.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_a_full_disk_is_an_error_not_a_traceback(
    scenario: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever cannot be written: exit status 1, the folder, the system's reason."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsim.report.folder.write", full)
    assert main(["run", scenario, "--out", "x", "--set", "learning=off"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: run folder x could not be written: No space left on device; make room")
    assert not Path("x/summary.json").exists()


def test_what_a_reader_should_know_is_said(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that is no number, and a goal that was not reached, are notes below the figures."""
    assert main(["run", scenario, "--set", "training.optimizer.lr=1e30", "--set", "until.accuracy=99.9 %"]) == 0
    said = capsys.readouterr().err
    assert "note: the loss is not a finite number at the end" in said
    assert "note: until.accuracy 0.999 was not reached" in said


def test_a_scheduler_without_its_parts_is_refused(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything runs."""
    assert main(["check", scenario, "--set", "scheduler={name: 'fedsim.models.options:Plain'}"]) == 2
    assert "has no device; a scheduler has the scripts device(me) and server(me)" in capsys.readouterr().err
