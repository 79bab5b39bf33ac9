"""Whole comparisons from Python: fair, resumable, none lost by another, the same whoever shares the work."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import fedsim
from fedsim import data as data_sets
from fedsim.data import DataSet
from fedsim.errors import UserError
from fedsim.experiment.building import Study, build
from fedsim.experiment.cells import Follower
from fedsim.experiment.contest import Cell
from fedsim.experiment.dealing import data_kept, deal
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import Clocked
from fedsim.report import Outcome, read_run
from tests.cli.toys import Waits
from tests.experiment.toys import TOY, data, model

pytestmark = pytest.mark.slow
BROKEN = "tests.cli.toys:Broken"
OFF: Mapping[str, Any] = {**TOY, "learning": False}


def states(found: fedsim.Comparison) -> dict[tuple[str, int], str]:
    """What became of each cell."""
    return {(one.label, one.seed): one.status for one in found.table.outcomes}


def figures(found: fedsim.Comparison) -> list[Any]:
    """The summaries in their order, without what depends on the machine."""
    cells = found.summary["cells"]
    return [None if cell["summary"] is None else cell["summary"] | {"wall_seconds": 0} for cell in cells]


class Log(Follower):
    """Remembers what it is told; stops where it is asked to."""

    def __init__(self, stop_at: str | None = None) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.told: list[tuple[str, int, str]] = []
        self.left: list[str] = []
        self._stop_at = stop_at

    def ready(self, cells: Sequence[Cell], left: Sequence[Cell]) -> None:
        self.left = [cell.name for cell in left]

    def cell(self, cell: Cell) -> None:
        self.ran.append(cell.name)

    def begin(self, study: Study, simulation: Clocked) -> None:
        super().begin(study, simulation)
        if self.ran[-1] == self._stop_at:
            self.stop()

    def outcome(self, outcome: Outcome) -> None:
        self.told.append((outcome.label, outcome.seed, outcome.status))


def test_a_comparison_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document with its table, ratios to the baseline, the best; each cell as `fedsim.run` gives it; no file."""
    monkeypatch.chdir(tmp_path)
    found = fedsim.compare(
        TOY, ["fedavg", "splitfed"], seeds=2, baseline="splitfed", targets=[0.05], until={"rounds": 1}
    )
    assert found.status == "done"
    summary = found.summary
    assert (summary["name"], summary["baseline"], summary["seeds"]) == ("toy", "splitfed", [3, 4])
    assert summary["schedulers"]["fedavg"]["local_epochs"] == 1
    alone = fedsim.run(TOY, scheduler="splitfed", seed=4, until={"rounds": 1}).summary
    inside = summary["cells"][3]["summary"]
    assert {**inside, "wall_seconds": 0, "accuracy": 0} == {**alone, "wall_seconds": 0, "accuracy": 0}
    assert inside["accuracy"]["time_to"]["0.05"] is not None
    total = summary["table"]["splitfed"]["bytes_total"]
    assert total["values"] == [cell["summary"]["bytes"]["total"] for cell in summary["cells"][1::2]]
    other = summary["table"]["fedavg"]["bytes_total"]["mean"]
    assert summary["ratios"]["fedavg"]["bytes_total"] == pytest.approx(other / total["mean"])
    assert summary["best"]["bytes_total"] == ["fedavg" if other < total["mean"] else "splitfed"]
    assert repr(found) == "Comparison(fedavg, splitfed; 4 cells, done, folder None)"
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_comparison(tmp_path: Path) -> None:
    """A run folder a cell, the document, a row a run, and one report of all."""
    out = tmp_path / "c"
    found = fedsim.compare(TOY, ["fedavg", "splitfed"], targets=[0.99], out=out)
    names = {path.name for path in out.iterdir()}
    assert names == {"fedavg-seed3", "splitfed-seed3", "comparison.json", "comparison.csv", "comparison.html"}
    assert json.loads((out / "comparison.json").read_text()) == found.summary
    assert json.loads((out / "fedavg-seed3/summary.json").read_text()) == found.summary["cells"][0]["summary"]
    with (out / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["scheduler"], row["seed"], row["status"]) for row in rows] == [
        ("fedavg", "3", "done"),
        ("splitfed", "3", "done"),
    ]
    assert float(rows[1]["seconds"]) == found.summary["cells"][1]["summary"]["seconds"]
    assert rows[0]["time_to_0.99"] == "inf"
    assert rows[0]["server_samples_per_s"] == "", "what a system does not have"
    page = (out / "comparison.html").read_text()
    assert "ratios to fedavg" in page
    assert "splitfed" in page
    assert found.notes == (
        "accuracy is looked at with each new model, so not equally often; evaluate.every looks at equal intervals",
    )


def test_the_same_seed_gives_all_the_same_start(tmp_path: Path) -> None:
    """Data, shards and fleet, and initial weights by their loss before any training; another seed gives others."""
    fedsim.compare(TOY, ["fedavg", "splitfed"], seeds=2, until={"rounds": 1}, out=tmp_path / "c")
    names = ("fedavg-seed3", "splitfed-seed3", "fedavg-seed4")
    losses = []
    for name in names:
        with (tmp_path / "c" / name / "curves.csv").open(newline="") as file:
            losses.append(next(csv.DictReader(file))["loss"])
    assert losses[0] == losses[1] != losses[2]
    one, two, other = (build(load_scenario(tmp_path / "c" / name / "scenario.yaml")) for name in names)
    assert (one.shards.indices == two.shards.indices).all()
    assert (one.shards.indices != other.shards.indices).any()
    assert one.data is not None
    assert two.data is not None
    assert (one.data.train.inputs == two.data.train.inputs).all()
    fleets = [read_run(tmp_path / "c" / name).trace.nodes for name in names[:2]]
    assert fleets[0] == fleets[1]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The data sets that are read, as they are read."""
    found: list[Any] = []
    load = data_sets.load

    def counted(name: Any, **arguments: Any) -> DataSet:
        found.append((name, arguments["seed"]))
        return load(name, **arguments)

    monkeypatch.setattr("fedsim.experiment.dealing.data_sets.load", counted)
    return found


def test_data_are_read_once(reads: list[Any]) -> None:
    """For all cells with the same data; a subset is drawn by the seed, so it is read for each, and not more often."""
    whole = {**TOY, "data": "digits"}
    fedsim.compare(whole, ["fedavg", "splitfed"], seeds=2, until={"rounds": 1})
    assert len(reads) == 1
    reads.clear()
    fedsim.compare(TOY, ["fedavg", "splitfed"], seeds=2, until={"rounds": 1})
    assert [seed for _, seed in reads] == [3, 4]
    reads.clear()
    labels = {**OFF, "data": {"name": "digits", "partition": {"kind": "dirichlet", "alpha": 1.0}}}
    fedsim.compare(labels, ["fedavg", "splitfed"], until={"rounds": 1})
    assert len(reads) == 1, "for the labels, without learning"


def test_data_are_kept_where_asked_for_only(reads: list[Any]) -> None:
    """The last set, within; nothing is kept outside, and other data are never mistaken for it."""
    one, other = load_scenario(TOY), load_scenario(TOY, updates={"data": {"name": "digits", "samples": 100}})
    with data_kept():
        first = deal(one)[1]
        assert deal(one)[1] is first
        with data_kept():
            assert deal(one)[1] is first, "one inside of another shares its data"
        second = deal(other)[1]
        assert second is not None
        assert len(second.train) == 100
        assert deal(one)[1] is not first
    assert len(reads) == 3
    assert deal(one)[1] is not deal(one)[1]
    assert len(reads) == 5


def test_started_again_it_keeps_what_is_done(tmp_path: Path) -> None:
    """Runs that are done are not touched, new seeds and schedulers are added, what did not finish is run again."""
    out = tmp_path / "c"
    first = fedsim.compare(OFF, ["fedavg", "splitfed"], out=out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*-seed3/*")}
    again = Log()
    second = fedsim.compare(OFF, ["fedavg", "splitfed"], out=out, follower=again)
    assert again.ran == again.left == []
    assert second.summary == first.summary
    assert {path: path.stat().st_mtime_ns for path in out.glob("*-seed3/*")} == before
    (out / "fedavg-seed3/summary.json").unlink()
    (out / "splitfed-seed3/trace.parquet").unlink()
    more = Log()
    third = fedsim.compare(
        OFF, ["splitfed", "fedavg", {"name": "fedavg", "local_steps": 1}], seeds=2, out=out, follower=more
    )
    cells = [f"{label}-seed{seed}" for seed in (3, 4) for label in ("splitfed", "fedavg", "fedavg-local_steps-1")]
    assert more.ran == more.left == cells
    assert figures(third)[1] == figures(first)[0]
    assert len(more.told) == 6


def test_what_was_chosen_for_a_run_is_found_again(tmp_path: Path) -> None:
    """The run folder has numbers where the comparison's scenario says `auto`: they have to be those it comes to."""
    auto = {**OFF, "model": {**TOY["model"], "cut": "auto"}}
    out = tmp_path / "c"
    for _ in range(2):
        log = Log()
        assert fedsim.compare(auto, ["splitfed", "pipar"], out=out, follower=log).status == "done"
    assert log.ran == []
    path = out / "pipar-seed3/scenario.yaml"
    assert "cut: auto" not in path.read_text()
    path.write_text(re.sub("micro_batches: [0-9]+", "micro_batches: 77", path.read_text()))
    with pytest.raises(
        UserError, match=r"pipar-seed3 holds another run: scheduler.micro_batches is 77 there and \d+ here"
    ):
        fedsim.compare(auto, ["pipar"], out=out)


def test_a_new_target_is_looked_up_in_runs_that_are_done(tmp_path: Path) -> None:
    """As if they had been asked for it."""
    out = tmp_path / "c"
    fedsim.compare(TOY, ["fedavg", "splitfed"], out=out, targets=[0.01])
    log = Log()
    found = fedsim.compare(TOY, ["fedavg", "splitfed"], out=out, targets=[0.01, 0.08], follower=log)
    assert log.ran == []
    fresh = fedsim.compare(TOY, ["fedavg", "splitfed"], targets=[0.01, 0.08])
    assert figures(found) == figures(fresh)
    assert "0.08" in json.loads((out / "fedavg-seed3/summary.json").read_text())["accuracy"]["time_to"]


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    """Another scenario's comparison, another run, no comparison, a file; each with what differs, and left as it was."""
    out = tmp_path / "c"
    fedsim.compare(OFF, ["fedavg"], out=out)

    def refused(message: str, schedulers: Any = ("fedavg",), folder: Path = out, **updates: Any) -> None:
        before = sorted(path for path in tmp_path.rglob("*"))
        with pytest.raises(UserError) as caught:
            fedsim.compare(OFF, schedulers, out=folder, **updates)
        assert message in str(caught.value)
        assert sorted(path for path in tmp_path.rglob("*")) == before

    refused(
        "holds the comparison of another scenario: training.batch is 16 there and 8 here; choose another folder",
        training={"batch": 8},
    )
    refused("fleet has 2 items there and 1 here", fleet=TOY["fleet"][:1])
    refused(
        "fedavg-seed3 holds another run: scheduler.local_steps is null there and 5 here",
        {"fedavg": {"name": "fedavg", "local_steps": 5}},
    )
    shutil.copytree(out / "fedavg-seed3", out / "splitfed-seed3")
    refused("splitfed-seed3 holds another run: scheduler.name is 'fedavg' there and 'splitfed' here", ["splitfed"])
    (out / "splitfed-seed3/scenario.yaml").unlink()
    refused("splitfed-seed3 is in the way and is no run of this comparison", ["splitfed"])
    with (out / "fedavg-seed3/scenario.yaml").open("a") as file:
        file.write("extra: 1\n")
    refused("extra is 1 there and absent here")
    (out / "comparison.json").write_text("{")
    refused("comparison.json cannot be read; choose another folder with --out, or remove it")
    (out / "comparison.json").unlink()
    refused("already exists and holds no comparison.json")
    refused("cannot be made: Not a directory", folder=out / "fedavg-seed3/scenario.yaml/x")


def test_nobody_else_works_in_the_folder(tmp_path: Path) -> None:
    """While a comparison is under way."""
    seen: list[str] = []

    class Second(Follower):
        def cell(self, cell: Cell) -> None:
            with pytest.raises(UserError) as caught:
                fedsim.compare(OFF, ["fedavg"], out=tmp_path / "c")
            seen.append(str(caught.value))

    fedsim.compare(OFF, ["fedavg"], out=tmp_path / "c", follower=Second())
    assert seen == [f"another comparison is at work in {tmp_path / 'c'}; wait for it, or choose another folder"]
    assert fedsim.compare(OFF, ["fedavg"], out=tmp_path / "c").status == "done"


def test_a_cell_that_fails_does_not_cost_the_others(tmp_path: Path) -> None:
    """It stands there with its reason and where the mistake is, and is run again the next time."""
    out = tmp_path / "c"
    found = fedsim.compare(OFF, {"hangs": Waits(), "broken": BROKEN, "fine": "fedavg"}, out=out, seeds=2)
    assert found.status == "failed"
    assert states(found) == {
        (name, seed): status
        for seed in (3, 4)
        for name, status in (("hangs", "failed"), ("broken", "failed"), ("fine", "done"))
    }
    hangs, broken, fine = found.summary["cells"][:3]
    assert hangs["reason"].startswith("deadlock at 0 s: every script waits")
    assert "\n" not in hangs["reason"]
    assert broken["reason"].startswith("ZeroDivisionError: a mistake (")
    assert broken["reason"].rstrip(")0123456789").endswith("toys.py, line ")
    assert (fine["reason"], broken["summary"]) == (None, None)
    (trace,) = found.traces
    assert trace.rstrip().endswith("ZeroDivisionError: a mistake")
    assert json.loads((out / "broken-seed3/summary.json").read_text())["status"] == "failed"
    assert found.summary["ratios"]["fine"]["seconds"] is None, "the baseline has no figures"
    log = Log()
    fedsim.compare(OFF, {"hangs": Waits(), "broken": BROKEN, "fine": "fedavg"}, out=out, seeds=2, follower=log)
    assert log.ran == [f"{name}-seed{seed}" for seed in (3, 4) for name in ("hangs", "broken")]


TINY = {
    **OFF,
    "model": {"name": "mlp", "hidden": [3000, 3000], "cut": 1},
    "fleet": [{"profile": "raspberry-pi-zero-2w", "count": 2, "link": "wifi5"}],
}


def test_what_one_scheduler_cannot_do_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """For lack of memory or of a cut; by default such schedulers are left out, with a note; named, they stand there."""
    named = Log()
    found = fedsim.compare(TINY, ["splitfed", "fedavg"], follower=named, seeds=2)
    assert states(found)["fedavg", 3] == "refused"
    assert "raspberry-pi-zero-2w needs at least" in found.summary["cells"][1]["reason"]
    assert named.left[0] == "splitfed-seed3"
    assert "fedavg-seed3" not in named.left
    uncut = {**OFF, "model": {"name": "mlp", "hidden": [8, 8]}, "until": {"rounds": 1}}
    chosen = fedsim.compare(uncut, out=tmp_path / "c")
    assert chosen.status == "done"
    assert "fedavg" in chosen.table.runs
    assert "splitfed" not in chosen.table.runs
    note = next(note for note in chosen.notes if note.startswith("splitfed is left out: "))
    assert "model.cut is not given" in note


def test_where_all_are_refused_nothing_is_begun(tmp_path: Path) -> None:
    """One reason is said once, several with their schedulers; no folder is made."""
    big = {**TINY, "model": {**TINY["model"], "cut": 2}}
    with pytest.raises(UserError, match=r"^raspberry-pi-zero-2w needs at least"):
        fedsim.compare(big, ["fedavg", {"name": "fedavg", "local_steps": 2}], out=tmp_path / "c")
    mixed = {**big, "model": {"name": "mlp", "hidden": [3000, 3000]}}
    with pytest.raises(UserError, match=r"none of the schedulers can run this scenario:\n  fedavg: .*\n  splitfed: .*"):
        fedsim.compare(mixed, ["fedavg", "splitfed"], out=tmp_path / "c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "splitfedd"}, "unknown baseline 'splitfedd'; did you mean splitfed?"),
        ({"targets": [0.5]}, "a target accuracy needs learning: on"),
        ({"targets": [60]}, "target accuracy 60; give a share above 0, at most 1, as in '90 %'"),
        ({"jobs": 0}, "0 jobs; give 1 or more"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Refused before anything is made."""
    with pytest.raises(UserError, match=message):
        fedsim.compare(OFF, ["fedavg", "splitfed"], out=tmp_path / "c", **options)
    assert not list(tmp_path.iterdir())


def test_a_comparison_that_is_stopped_goes_on_later(tmp_path: Path) -> None:
    """The run under way ends where it is, no other begins, and the figures of both halves are those of a whole."""
    out, log = tmp_path / "c", Log(stop_at="splitfed-seed3")
    found = fedsim.compare(OFF, ["fedavg", "splitfed"], seeds=2, out=out, follower=log)
    assert found.status == "stopped"
    assert list(states(found).values()) == ["done", "stopped", "pending", "pending"]
    assert json.loads((out / "comparison.json").read_text())["status"] == "stopped"
    assert json.loads((out / "splitfed-seed3/summary.json").read_text())["status"] == "stopped"
    assert log.told == [("fedavg", 3, "done"), ("splitfed", 3, "stopped")]
    again = Log()
    whole = fedsim.compare(OFF, ["fedavg", "splitfed"], seeds=2, out=out, follower=again)
    assert again.ran == ["splitfed-seed3", "fedavg-seed4", "splitfed-seed4"]
    assert figures(whole) == figures(fedsim.compare(OFF, ["fedavg", "splitfed"], seeds=2))


def test_a_folder_says_that_it_is_under_way(tmp_path: Path) -> None:
    """For whoever finds it after a power failure."""
    seen: list[Any] = []

    class Look(Follower):
        def cell(self, cell: Cell) -> None:
            seen.append(json.loads((tmp_path / "c/comparison.json").read_text()))

    fedsim.compare(OFF, ["fedavg"], out=tmp_path / "c", follower=Look())
    assert [found["status"] for found in seen] == ["running"]
    assert [cell["status"] for cell in seen[0]["cells"]] == ["pending"]


def test_objects_of_a_program() -> None:
    """A model, data and a scheduler of one's own, which may be no more than functions in this file."""
    found = fedsim.compare(
        TOY, {"own": Waits(), "fedavg": "fedavg"}, model={"name": model, "width": 3, "cut": 1}, data=lambda: data(None)
    )
    assert list(states(found).values()) == ["failed", "done"]


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh processes find `tests`, as a command does in the folder of its scenario."""
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("_importable")
def test_several_processes_give_the_same_figures(tmp_path: Path) -> None:
    """Whatever they share, down to the bytes of traces and models; a cell that fails costs them nothing either."""
    schedulers = {"fedavg": "fedavg", "broken": BROKEN, "splitfed": "splitfed"}
    log = Log()
    many = fedsim.compare(TOY, schedulers, seeds=2, out=tmp_path / "many", jobs=2, targets=[0.1], follower=log)
    one = fedsim.compare(TOY, schedulers, seeds=2, out=tmp_path / "one", targets=[0.1])
    assert figures(many) == figures(one)
    assert states(many) == states(one)
    assert many.summary["table"] == one.summary["table"]
    for name in ("fedavg-seed3", "splitfed-seed4"):
        for file in ("trace.parquet", "model.safetensors", "scenario.yaml"):
            assert (tmp_path / "many" / name / file).read_bytes() == (tmp_path / "one" / name / file).read_bytes(), file
    assert log.ran == [], "nothing ran here"
    assert sorted(told[:2] for told in log.told) == sorted(states(one))
    assert many.traces


@dataclass(frozen=True, kw_only=True)
class Dies(Waits):
    """A system whose process is killed."""

    splits: ClassVar[bool] = False

    async def go_on(self) -> None:
        os._exit(9)


@pytest.mark.usefixtures("_importable")
def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """Its cell has failed, with a reason; those that it took along run again, one at a time, and a note says so."""
    schedulers = {"dies": f"{__name__}:Dies", "fedavg": "fedavg", "splitfed": "splitfed"}
    log = Log()
    found = fedsim.compare(OFF, schedulers, jobs=2, out=tmp_path / "c", follower=log)
    assert list(states(found).values()) == ["failed", "done", "done"]
    assert found.summary["cells"][0]["reason"] == "its process was killed, perhaps for want of memory"
    assert figures(found)[1:] == figures(fedsim.compare(OFF, ["fedavg", "splitfed"]))
    assert any("from here on one ran alone; use fewer jobs" in note for note in found.notes)
    assert sorted(told[0] for told in log.told) == sorted(schedulers), "each once"


def test_what_cannot_be_sent_to_another_process() -> None:
    """Is said before any is started."""
    with pytest.raises(UserError, match=r"another process .*; name it as module:Class, or use one job"):
        fedsim.compare(TOY, ["fedavg", "splitfed"], jobs=2, data=lambda: data(None))
