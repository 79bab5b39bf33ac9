"""Whole sweeps from Python: every cell as it would run alone, resumable, checked before anything runs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.errors import UserError
from fedsim.experiment.cells import Follower
from fedsim.experiment.contest import Cell
from fedsim.experiment.sweeping import check_plan, planned
from fedsim.schedulers.fedavg import FedAvg
from tests.experiment.toys import TOY

pytestmark = pytest.mark.slow
OFF: Mapping[str, Any] = {**TOY, "learning": False, "until": {"rounds": 1}}
AXES: Mapping[str, Any] = {"scheduler": ["splitfed", "fedavg"], "model.cut": [1, 2]}


def cells(found: fedsim.Comparison) -> dict[str, Any]:
    """The summaries by cell and seed, without what depends on the machine."""
    return {
        f"{cell['cell']}, seed {cell['seed']}": cell["summary"] and {**cell["summary"], "wall_seconds": 0}
        for cell in found.summary["cells"]
    }


class Log(Follower):
    """The cells that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def cell(self, cell: Cell) -> None:
        self.ran.append(cell.name)


def test_every_cell_is_as_it_would_be_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product of the axes for all seeds, the last axis varying first; without `out`, no file."""
    monkeypatch.chdir(tmp_path)
    found = fedsim.sweep(OFF, AXES, seeds=2)
    assert found.status == "done"
    names = ["splitfed, cut 1", "splitfed, cut 2", "fedavg, cut 1", "fedavg, cut 2"]
    assert list(cells(found)) == [f"{name}, seed {seed}" for seed in (3, 4) for name in names]
    alone = fedsim.run(OFF, scheduler="splitfed", overrides=["model.cut=2"], seed=4).summary
    assert cells(found)["splitfed, cut 2, seed 4"] == {**alone, "wall_seconds": 0}
    assert found.summary["axes"] == {
        "scheduler": {"sets": ["scheduler"], "labels": ["splitfed", "fedavg"]},
        "model.cut": {"sets": ["model.cut"], "labels": ["1", "2"]},
    }
    assert found.summary["cells"][1]["at"] == {"scheduler": "splitfed", "model.cut": "2"}
    assert found.summary["table"]["fedavg, cut 1"]["seconds"]["std"] is not None
    assert not list(tmp_path.iterdir())


def test_a_comparison_is_the_sweep_over_schedulers() -> None:
    """The same figures, table and ratios, cell by cell."""
    compared = fedsim.compare(OFF, ["splitfed", "fedavg"], seeds=2, baseline="fedavg")
    swept = fedsim.sweep(OFF, {"scheduler": ["splitfed", "fedavg"]}, seeds=2, baseline="fedavg")
    both = [[{**cell["summary"], "wall_seconds": 0} for cell in one.summary["cells"]] for one in (compared, swept)]
    assert both[0] == both[1]
    for key in ("table", "ratios", "best", "scenario", "seeds", "baseline"):
        assert compared.summary[key] == swept.summary[key], key


def test_the_folder_of_a_sweep(tmp_path: Path) -> None:
    """A run folder a cell, the document, a row a run with its place on each axis, one report with the grids."""
    out = tmp_path / "s"
    found = fedsim.sweep(OFF, {"rate": {"set": "fleet.*.link", "to": ["wifi5", "lte"]}, "model.cut": [1, 2]}, out=out)
    runs = {f"{rate}-cut-{cut}-seed3" for rate in ("wifi5", "lte") for cut in (1, 2)}
    names = {path.name for path in out.iterdir()}
    assert names == runs | {"sweep.json", "sweep.csv", "report.html"}
    assert json.loads((out / "sweep.json").read_text()) == found.summary
    with (out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rate"], row["model.cut"], row["status"]) for row in rows][1] == ("wifi5", "2", "done")
    page = (out / "report.html").read_text()
    assert "toy: a sweep of 4 cells" in page
    assert "rate ╲ model.cut" in page
    assert "link: lte" in (out / "lte-cut-1-seed3/scenario.yaml").read_text()


def test_started_again_it_keeps_what_is_done(tmp_path: Path) -> None:
    """New values and seeds are added; another scenario is refused, and so is another sweep's folder."""
    out = tmp_path / "s"
    first = fedsim.sweep(OFF, {"model.cut": [1]}, out=out)
    log = Log()
    second = fedsim.sweep(OFF, {"model.cut": [2, 1]}, seeds=2, out=out, follower=log)
    assert log.ran == ["cut-2-seed3", "cut-2-seed4", "cut-1-seed4"]
    assert cells(second)["cut 1, seed 3"] == cells(first)["cut 1, seed 3"]
    with pytest.raises(UserError, match=r"holds the sweep of another scenario: training\.batch is 16 there and 8 here"):
        fedsim.sweep(OFF, {"model.cut": [1]}, out=out, training={"batch": 8})
    with pytest.raises(UserError, match=r"already exists and holds no comparison\.json"):
        fedsim.compare(OFF, ["fedavg"], out=out)


def test_several_processes_give_the_same_figures(tmp_path: Path) -> None:
    """Down to the bytes of the traces."""
    axes = {"training.batch": [8, 16], "data.partition": ["iid", {"kind": "dirichlet", "alpha": 0.5}]}
    many = fedsim.sweep(TOY, axes, jobs=2, out=tmp_path / "many")
    one = fedsim.sweep(TOY, axes, out=tmp_path / "one")
    assert cells(many) == cells(one)
    assert "batch 8, dirichlet alpha 0.5" in many.table.runs
    for folder in ("batch-8-iid-seed3", "batch-16-dirichlet-alpha-0.5-seed3"):
        paths = [tmp_path / which / folder / "trace.parquet" for which in ("many", "one")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_options_reach_the_schedulers_that_have_them() -> None:
    """As in a comparison: the scenario's own are for the one that it names, those on top for all that take them."""
    source = {**OFF, "scheduler": {"name": "fedavg", "local_epochs": 2}}
    axes = {"scheduler": ["fedavg", {"name": "fedavg", "local_steps": 3}, "splitfed", "inference"]}
    found = planned(source, axes, overrides=["scheduler.weighting=uniform"])
    assert found is not None
    made = [one.scenario.scheduler.options for one in found.contest().cells[:2]]
    assert made == [
        FedAvg(local_epochs=2, weighting="uniform"),
        FedAvg(local_epochs=2, local_steps=3, weighting="uniform"),
    ]
    assert any("is nothing to inference, without an option weighting" in note for note in found.notes)
    with pytest.raises(UserError, match="names a scheduler; the sweep takes them from its axis scheduler"):
        planned(source, axes, overrides=["scheduler.name=splitfed"])


def test_objects_and_sequences_of_a_program() -> None:
    """A scheduler may be an object, called by its class; values may stand in any sequence."""
    found = planned(OFF, {"scheduler": (FedAvg(local_steps=7), "splitfed"), "training.batch": (8, 16)})
    assert found is not None
    made = found.contest()
    assert made.labels[:2] == ["FedAvg, batch 8", "FedAvg, batch 16"]
    assert made.cells[0].scenario.scheduler.options == FedAvg(local_steps=7)


def test_a_section_is_set_before_what_is_in_it() -> None:
    """Whatever the order of the axes."""
    found = planned(OFF, {"model.cut": [2], "model": [{"name": "mlp", "hidden": [4, 4]}, {"name": "mlp"}]})
    assert found is not None
    assert [one.scenario.model.cut for one in found.contest().cells] == [2, 2]


def test_all_that_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    """Each thing once, with its line and nearest key, and where it is with some cells only, with these."""
    path = tmp_path / "x.yaml"
    text = json.dumps({key: value for key, value in OFF.items() if key != "name"}) + "\n"
    path.write_text(text[:-2] + ',\n"sweep": {\n"model.cutt": [1],\n"training.batch": [0, 8]}}\n')
    with pytest.raises(UserError) as caught:
        fedsim.sweep(path, out=tmp_path / "s")
    heading, *lines = str(caught.value).split("\n  ")
    assert heading == "2 errors in the cells of the sweep:"
    assert re.match(r"model\.cutt: unknown key; did you mean cut\? \(.*x\.yaml, line 3\)$", lines[0])
    assert "training.batch: 0 does not fit; give 1 or more" in lines[1]
    assert lines[1].endswith("line 4) [1 of 2 cells: cutt 1, batch 0]")
    assert not (tmp_path / "s").exists()


def test_cells_that_cannot_run(tmp_path: Path) -> None:
    """A cut that the model does not have is found by the check, cell by cell; run, the others have their figures."""
    axes = {"model.cut": [1, 9], "training.batch": [8, 16]}
    found = planned({**OFF, "scheduler": "splitfed"}, axes)
    assert found is not None
    checked = check_plan(found)
    assert [bool(one.wrong) for one in checked] == [False, False, True, True]
    assert checked[2].wrong.startswith("cut after unit 9, but mlp has 3 units; choose 1-2")
    assert checked[0].findings is not None
    done = fedsim.sweep({**OFF, "scheduler": "splitfed"}, axes, out=tmp_path / "s")
    assert [cell["status"] for cell in done.summary["cells"]] == ["done", "done", "refused", "refused"]
    assert '<td class="none">refused</td>' in (tmp_path / "s/report.html").read_text()
    with pytest.raises(UserError, match=r"^cut after unit 9"):
        fedsim.sweep({**OFF, "scheduler": "splitfed"}, {"model.cut": [9]})


def test_targets_are_checked_with_the_cells() -> None:
    """No run would accept them: `check` says so, too; where one cell trains, it may reach them."""
    found = planned({**OFF, "sweep": {"model.cut": [1], "targets": [0.5]}})
    assert found is not None
    with pytest.raises(UserError, match="a target accuracy needs learning: on"):
        check_plan(found)
    both = planned({**OFF, "sweep": {"learning": ["off", "on"], "targets": [0.5]}})
    assert both is not None
    assert [one.wrong for one in check_plan(both)] == ["", ""]
    assert fedsim.sweep({**OFF, "sweep": {"learning": ["off", "on"], "targets": [0.01]}}).status == "done"
    none = planned({**OFF, "learning": True, "sweep": {"model.cut": [1], "targets": [0]}})
    assert none is not None
    with pytest.raises(UserError, match="target accuracy 0"):
        check_plan(none)


def test_the_last_seed_is_a_seed() -> None:
    """One more is none."""
    last = 2**63 - 1
    for seeds, right in ((1, True), (2, False)):
        found = planned({**OFF, "seed": last, "sweep": {"model.cut": [1], "seeds": seeds}})
        assert found is not None
        with nullcontext() if right else pytest.raises(UserError, match=f"2 seeds from {last} on, but a seed is less"):
            assert found.contest().seeds == [last]


def test_what_is_no_sweep_and_what_is_one() -> None:
    """Either is sent to the other's function."""
    with pytest.raises(UserError, match="this scenario is no sweep: it has no section sweep; give axes, or run it by"):
        fedsim.sweep(OFF)
    many = {**OFF, "sweep": {"model.cut": [1, 2]}}
    with pytest.raises(UserError, match=r"sweep: this is a sweep, which is many runs; .* and fedsim\.sweep in Python"):
        fedsim.run(many)
    with pytest.raises(UserError, match="sweep: this is a sweep, which is many runs"):
        fedsim.compare(many, ["fedavg"])
    assert fedsim.run(many, overrides=["sweep=off"]).summary["status"] == "done"
    assert fedsim.compare(many, ["fedavg"], overrides=["sweep=off"]).status == "done"
    with pytest.raises(UserError, match="0 seeds; sweep with 1 or more"):
        fedsim.sweep(many, seeds=0)


def test_two_cells_never_share_a_folder() -> None:
    """Labels that differ only in what folders' names cannot hold are refused."""
    with pytest.raises(
        UserError, match=r"the cells 'a/b' and 'a:b' would have the same folder; give one of the values"
    ):
        fedsim.sweep(OFF, {"size": {"set": "training.batch", "to": {"a/b": 8, "a:b": 16}}})


def test_no_folder_looks_like_an_option() -> None:
    """A label may begin with anything: the name of its folder is one that commands take, and that `ls` shows."""
    found = planned(OFF, {"size": {"set": "training.batch", "to": {"<none>": 8, ".a": 16, "plain": 4}}})
    assert found is not None
    assert [cell.name for cell in found.contest().cells] == ["size-none--seed3", "size-.a-seed3", "plain-seed3"]
    alone = planned(OFF, {"scheduler": {"-x": {"scheduler": "fedavg"}, ".y": {"scheduler": "splitfed"}}})
    assert alone is not None
    assert [cell.name for cell in alone.contest().cells] == ["x-seed3", "y-seed3"]


def test_names_of_folders_end(tmp_path: Path) -> None:
    """Long labels are cut, and stay different."""
    long = "x" * 150
    axes = {"size": {"set": "training.batch", "to": {f"{long}1": 8, f"{long}2": 16}}}
    found = fedsim.sweep(OFF, axes, out=tmp_path / "s")
    folders = {cell["folder"] for cell in found.summary["cells"]}
    assert len(folders) == 2
    assert max(map(len, folders)) < 140
