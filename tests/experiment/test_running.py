"""Whole runs from Python: reproducible to the bit, the same with learning off, ended by each limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fedsim
from fedsim.data import load
from fedsim.errors import UserError
from fedsim.experiment.artifacts import load_model
from fedsim.experiment.running import Watcher
from fedsim.report import read_run
from fedsim.trace import Trace
from tests.cli.toys import FILES, ROOT
from tests.experiment.toys import SPLIT, TOY

pytestmark = pytest.mark.slow


def records(trace: Trace, *, values: bool = True) -> tuple[Any, ...]:
    """All of a trace but, if asked, what was learnt."""
    marks = [mark for mark in trace.marks if values or mark[2] != "evaluate"]
    return trace.spans, trace.transfers, trace.waits, marks, trace.end


def test_the_python_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run.summary`, `run.curves`, `run.trace`; updates replace sections; nothing is written without `out`."""
    monkeypatch.chdir(tmp_path)
    run = fedsim.run(TOY, scheduler=SPLIT, until={"rounds": 1})
    assert run.summary["seconds"] > 0
    assert run.summary["scheduler"] == "splitfed"
    assert [row["version"] for row in run.curves] == [1, 2]
    assert list(run.curves[0]) == ["time", "round", "version", "accuracy", "loss", "samples"]
    assert run.curves[-1]["accuracy"] == run.summary["accuracy"]["final"]
    assert run.trace.spans
    assert run.weights is not None
    assert run.folder is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="rouns"):
        fedsim.run(TOY, until={"rouns": 1})


@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed"])
def test_the_resolved_scenario_reproduces_the_run(tmp_path: Path, scheduler: str) -> None:
    """Run again from its own scenario.yaml: the same trace file and the same weights, bit for bit."""
    one = fedsim.run(TOY, scheduler=scheduler, out=tmp_path / "one")
    two = fedsim.run(tmp_path / "one/scenario.yaml", out=tmp_path / "two")
    assert {path.name for path in (tmp_path / "one").iterdir()} == FILES
    same = ("trace.parquet", "scenario.yaml", "curves.csv", "nodes.csv", "model.safetensors", "model.json")
    for name in (*same, "timeline.json.gz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert one.weights is not None
    assert two.weights is not None
    assert all(tensor.equal(two.weights[name]) for name, tensor in one.weights.items())
    assert records(read_run(tmp_path / "one").trace) == records(one.trace)


def test_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the order of sets and dictionaries: two fresh processes with other hash seeds."""
    command = [sys.executable, "-m", "fedsim.cli", "run", "quickstart", "--set", "until.rounds=2", "--out"]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        subprocess.run([*command, str(tmp_path / seed)], env=environment, check=True, capture_output=True)
    for name in ("trace.parquet", "model.safetensors", "scenario.yaml", "report.html"):
        one, two = (tmp_path / seed / name for seed in ("1", "2"))
        if name == "report.html":
            continue  # it shows the wall time
        assert one.read_bytes() == two.read_bytes(), name


@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed"])
@pytest.mark.parametrize("more", [{}, {"faults": [{"device": 1, "leave": "100 ms", "return": "400 ms"}]}], ids=str)
def test_learning_changes_no_time(scheduler: str, more: dict[str, Any]) -> None:
    """Learning off: the same trace but for evaluations, and no quality."""
    on = fedsim.run(TOY, scheduler=scheduler, **more)
    off = fedsim.run(TOY, scheduler=scheduler, learning=False, **more)
    assert records(on.trace, values=False) == records(off.trace)
    assert off.summary["accuracy"]["final"] is None
    assert off.weights is None
    assert on.summary["bytes"] == off.summary["bytes"]


def test_an_accuracy_ends_the_run() -> None:
    """At the first evaluation that reaches it, long before the last round."""
    run = fedsim.run(TOY, until={"accuracy": 0.3, "rounds": 200}, evaluate={"every": "20 ms"})
    assert run.curves[-1]["accuracy"] >= 0.3
    assert all(row["accuracy"] < 0.3 for row in run.curves[:-1])
    assert run.trace.end % 20_000_000 == 0
    assert run.summary["accuracy"]["time_to"] == {"0.3": run.summary["seconds"]}
    assert run.summary["status"] == "done"


def test_a_time_ends_the_run() -> None:
    """To the nanosecond, with an evaluation at the end."""
    run = fedsim.run(TOY, until={"time": "300 ms"})
    assert run.trace.end == 300_000_000
    assert run.curves[-1]["time"] == 0.3
    assert len(run.curves) >= 50


def test_faults() -> None:
    """A device leaves and comes back; the run still ends by its rounds."""
    run = fedsim.run(TOY, faults=[{"device": 2, "leave": "50 ms", "return": "60 ms"}], until={"rounds": 6})
    names = [(mark[0], mark[2]) for mark in run.trace.marks if mark[2] in ("leave", "return")]
    assert names == [(2, "leave"), (2, "return")]
    assert run.summary["status"] == "done"
    assert 0 < run.summary["contributions"]["min"] < run.summary["contributions"]["max"]


@pytest.mark.parametrize(
    "more",
    [
        {
            "norm": "gn",
            "model": {"name": "resnet20", "cut": 2},
            "data": {"name": "digits", "samples": 64, "resize": 32},
        },
        {"training": {"batch": 16, "dtype": "float64"}},
        {"training": {"batch": 16, "optimizer": {"name": "adamw"}, "optimizer_state": "keep"}},
        {"workers": {"memory_format": "default"}, "model": {"name": "cnn", "channels": [2, 2], "hidden": 4, "cut": 2}},
        {"selection": {"kind": "uniform", "count": 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed"])
def test_other_kinds_of_training(scheduler: str, more: dict[str, Any]) -> None:
    """Group norm, float64, Adam, memory formats, selection: they run."""
    run = fedsim.run(TOY, scheduler=scheduler, until={"rounds": 1}, **more)
    assert run.weights is not None
    kinds = {tensor.dtype for tensor in run.weights.values()}
    wide = more.get("training", {}).get("dtype") == "float64"
    assert (torch.float64 if wide else torch.float32) in kinds


def test_text_is_measured_by_perplexity(tmp_path: Path) -> None:
    """A transformer on text: loss and perplexity; the accuracy is that of the next token."""
    (tmp_path / "small.txt").write_text("the cat sat on the mat and the dog sat on the cat. " * 60)
    run = fedsim.run(
        TOY,
        model={"name": "transformer", "blocks": 1, "width": 16, "heads": 2, "cut": 2},
        data={"name": "text", "path": str(tmp_path / "small.txt"), "tokens": {"length": 16, "tokenizer": "bytes"}},
        training={"batch": 4, "optimizer": {"name": "adamw", "lr": 0.01}},
        scheduler=SPLIT,
    )
    assert run.summary["metric"]["name"] == "perplexity"
    assert 1 < run.summary["metric"]["final"] < 256
    assert run.curves[-1]["loss"] < run.curves[0]["loss"]


@pytest.mark.parametrize("more", [{}, {"training": {"batch": 16, "dtype": "float64"}}], ids=str)
def test_the_saved_model_predicts_as_the_run_did(tmp_path: Path, more: dict[str, Any]) -> None:
    """`load_model` gives the network whose accuracy the summary states; its folder may be anywhere by then."""
    run = fedsim.run(TOY, scheduler=SPLIT, out=tmp_path / "x", **more)
    (tmp_path / "x").rename(tmp_path / "y")
    for name in FILES - {"model.json", "model.safetensors"}:
        (tmp_path / "y" / name).unlink()
    network = load_model(tmp_path / "y")
    assert not network.training
    test = load("digits").test
    with torch.inference_mode():
        right = network(torch.tensor(test.inputs).to(getattr(torch, network.dtype))).argmax(-1).numpy() == test.labels
    assert right.mean() == run.summary["accuracy"]["final"]


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    """Learning off leaves none; a damaged one is named."""
    fedsim.run(TOY, learning=False, out=tmp_path / "off")
    with pytest.raises(UserError, match=r"holds no model\.safetensors with its model\.json; give the folder of a run"):
        fedsim.load_model(tmp_path / "off")
    fedsim.run(TOY, out=tmp_path / "on", until={"rounds": 1})
    (tmp_path / "on/model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"the model in .* cannot be loaded"):
        fedsim.load_model(tmp_path / "on")


def test_threads_are_as_they_were() -> None:
    """A run sets PyTorch's threads and restores them, also when it fails."""
    before = torch.get_num_threads()
    seen = []

    class Look(Watcher):
        def mark(self, name: str, value: float) -> None:
            seen.append(torch.get_num_threads())
            if len(seen) > 3:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fedsim.run(TOY, workers={"threads": 3}, watcher=Look())
    assert set(seen) == {3}
    assert torch.get_num_threads() == before


def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    """Whatever a script raises comes out as it is; the folder holds the trace up to there."""
    with pytest.raises(ZeroDivisionError):
        fedsim.run(TOY, scheduler="tests.cli.toys:Broken", out=tmp_path / "x")
    assert read_run(tmp_path / "x").summary["status"] == "failed"


def test_a_run_shows_itself_in_a_line() -> None:
    """Not with its whole trace."""
    run = fedsim.run(TOY, until={"rounds": 1})
    assert repr(run).startswith("Run(")
    assert len(repr(run)) < 200
    assert "samples" in run.curves[-1]
