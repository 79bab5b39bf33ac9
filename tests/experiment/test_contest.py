"""A scenario under many schedulers: which options reach which, which seeds there are, and every error at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import UserError
from fedsim.experiment.contenders import written
from fedsim.experiment.contest import Contest, contest
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from tests.experiment.toys import TOY

OWN = {**TOY, "scheduler": {"name": "fedavg", "local_epochs": 2}}


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A scheduler without options."""


def under(
    schedulers: str | Mapping[str, Any],
    source: Any = TOY,
    *,
    seeds: int = 1,
    overrides: Sequence[str] = (),
    updates: Mapping[str, Any] | None = None,
) -> Contest:
    """The contest of schedulers as a command line writes them, or by label."""
    asked = written(schedulers) if isinstance(schedulers, str) else schedulers
    return contest(source, asked, seeds=seeds, overrides=overrides, updates=updates or {}, objects={})


def options(found: Contest) -> dict[str, Any]:
    """The schedulers by label."""
    return {cell.label: cell.scenario.scheduler.options for cell in found.cells}


def test_the_scenarios_options_are_for_the_scheduler_that_it_names() -> None:
    """They stand below those of the comparison; a note says that others go without."""
    found = under("fedavg,few=fedavg{local_steps: 3},splitfed", OWN)
    assert options(found) == {
        "fedavg": FedAvg(local_epochs=2),
        "few": FedAvg(local_epochs=2, local_steps=3),
        "splitfed": SplitFed(),
    }
    (note,) = found.notes
    assert note == (
        "the scenario's scheduler.local_epochs: 2 is for fedavg only, not for splitfed; "
        "--set scheduler.local_epochs=2 gives it to all"
    )
    assert not under("fedavg", OWN).notes
    assert not under("splitfed", OWN).notes, "where the scenario's own is not compared, nothing is unequal"


def test_an_override_is_for_all_that_have_the_option() -> None:
    """Below what a scheduler is given itself; a note names those that have no such option."""
    label = f"bare={__name__}:Bare"
    found = under(f"fedavg,few=fedavg{{local_epochs: 4}},splitfed,{label}", OWN, overrides=["scheduler.local_epochs=3"])
    assert options(found) == {
        "fedavg": FedAvg(local_epochs=3),
        "few": FedAvg(local_epochs=4),
        "splitfed": SplitFed(local_epochs=3),
        "bare": Bare(),
    }
    assert found.notes == ("--set scheduler.local_epochs=3 is nothing to bare, without an option local_epochs",)


def test_an_option_that_nobody_has_is_an_error() -> None:
    """Once, with the nearest one."""
    with pytest.raises(UserError) as caught:
        under("fedavg,splitfed", overrides=["scheduler.local_stepz=3"])
    assert str(caught.value).count("did you mean local_steps?") == 1


@pytest.mark.parametrize("text", ["scheduler=fedavg", "scheduler.name=fedavg", "scheduler = {name: fedavg}"])
def test_an_override_names_no_scheduler(text: str) -> None:
    """The comparison does."""
    with pytest.raises(UserError, match="names a scheduler; `compare` takes them from --schedulers"):
        under("fedavg", overrides=[text])


def test_objects_and_updates() -> None:
    """Instances keep their options, also where the scenario names the same scheduler; sections are replaced."""
    found = under({"one": FedAvg(local_steps=7)}, OWN, updates={"until": {"rounds": 9}})
    assert options(found) == {"one": FedAvg(local_steps=7)}
    assert found.cells[0].scenario.until.rounds == 9
    with pytest.raises(UserError, match="scheduler stands beside the schedulers to compare"):
        under("fedavg", updates={"scheduler": "splitfed"})


def test_seeds_follow_the_scenarios_own() -> None:
    """All schedulers with one seed, then all with the next; an override is where they begin."""
    found = under("fedavg,splitfed", seeds=2)
    assert [cell.name for cell in found.cells] == ["fedavg-seed3", "splitfed-seed3", "fedavg-seed4", "splitfed-seed4"]
    assert (found.labels, found.seeds) == (["fedavg", "splitfed"], [3, 4])
    assert under("fedavg", seeds=2, overrides=["seed=8"]).seeds == [8, 9]
    last = under("fedavg", overrides=[f"seed={2**63 - 1}"])
    assert last.seeds == [2**63 - 1]
    with pytest.raises(UserError, match="2 seeds from 9223372036854775807 on, but a seed is less than"):
        under("fedavg", seeds=2, overrides=[f"seed={2**63 - 1}"])
    with pytest.raises(UserError, match="0 seeds; compare with 1 or more"):
        under("fedavg", seeds=0)
    with pytest.raises(UserError, match="there is no scheduler to compare"):
        under({})


def test_cells_differ_in_scheduler_and_seed_only() -> None:
    """The rest is what the comparison is known by."""
    found = under("fedavg,splitfed", seeds=2)
    kept = {"scheduler": found.cells[0].scenario.scheduler, "seed": 3}
    assert all(cell.scenario.model_copy(update=kept) == found.cells[0].scenario for cell in found.cells)
    assert "training" in found.common()
    assert not {"scheduler", "seed"} & found.common().keys()
    assert found.without(["fedavg"]).labels == ["splitfed"]


def test_every_error_at_once(tmp_path: Path) -> None:
    """Those of the schedulers with their names, those of the scenario once and with their line."""
    path = tmp_path / "x.yaml"
    path.write_text(
        "model: {name: mlp, cut: 1}\ndata: digits\nfleet: [{profile: pi-tier-1}]\n"
        "server: {profile: cpu-60g}\ntraning: {}\nuntil: {rounds: 1}\n"
    )
    with pytest.raises(UserError) as caught:
        under("fedavgg,splitfed,fedavg{local_steps: x}", str(path))
    heading, *lines = str(caught.value).split("\n  ")
    assert heading == "3 errors in what is to be compared:"
    assert lines[0].startswith("traning: unknown key; did you mean training?")
    assert lines[0].endswith("line 5)")
    assert lines[1].startswith("scheduler.name: unknown scheduler 'fedavgg'; did you mean fedavg?")
    assert lines[1].endswith("(scheduler fedavgg)")
    assert lines[2].startswith("scheduler.local_steps")
    assert lines[2].endswith("(scheduler fedavg-local_steps-x)")


def test_a_scenario_needs_no_scheduler_of_its_own() -> None:
    """Where the comparison has them all."""
    source = {key: value for key, value in TOY.items() if key != "scheduler"}
    assert options(under("splitfed", source)) == {"splitfed": SplitFed()}
