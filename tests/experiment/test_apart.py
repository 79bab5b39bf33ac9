"""Scenarios whose variants are models of their own: `pruning.aggregation: per-variant`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.errors import UserError
from fedsim.experiment.artifacts import load_model
from fedsim.experiment.building import Study
from fedsim.learning.bundles import of_member
from tests.experiment.test_variants import CROP, SCENARIO, board, crop, scenario, study


def groups(*sections: Any) -> dict[str, Any]:
    """A fleet with a group for each of these, and variants of their own."""
    return {
        "fleet": [
            {"profile": "raspberry-pi-4b", "count": number, "link": "wifi5", "pruning": section}
            for number, section in enumerate(sections, 1)
        ],
        "pruning": {"aggregation": "per-variant"},
    }


def kinds(made: Study) -> list[list[int]]:
    """The groups of each variant."""
    return [sorted(variant.groups) for variant in made.assembly.variants]


def test_everybody_has_a_model_of_their_own() -> None:
    """A variant each, and the whole one for those who have that; the server holds all of them."""
    made = study(**groups(crop(8), crop(20), "off"))
    assert kinds(made) == [[2], [1], [0]]
    assert made.assembly.apart
    blocks = made.assembly.blocks()
    whole, *members = blocks.values()
    assert [plan.weights.shapes[0].shape[0] for plan in members] == [32, 20, 8]
    assert whole.state_bytes == sum(plan.state_bytes for plan in members)
    assert whole.bundle is not None
    assert whole.bundle.devices == (3, 2, 1)
    assert made.needs()[-1].model == whole.state_bytes


def test_one_way_for_all_is_one_model() -> None:
    """As without the option: there is nothing to keep apart."""
    made = study(**groups(crop(8), crop(8)))
    assert made.assembly.variants == ()
    assert not made.assembly.apart


def test_each_variant_is_given_its_values_by_its_own_method() -> None:
    """New values for every cut by itself, and the scenario's for the whole one; nothing is planned within another."""
    made = study(**groups(crop(8), "off"))
    assert made.family is not None
    whole, part = made.family.networks
    assert bool((part.get_parameter("conv1.0.weight") == 0.1).all())
    fresh = study().network()
    assert all(tensor.equal(fresh.state_dict()[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.slow
def test_reconvene_draws_each_variant_by_itself() -> None:
    """Every variant is what it would be if the whole fleet had it."""
    small, large = ({"method": "reconvene", "budget": {"params": f"{n} %"}} for n in (20, 60))
    family = study(**groups(small, large)).family
    assert family is not None
    for section, network in zip((large, small), family.networks, strict=True):
        lonely = study(section).network().state_dict()
        assert all(tensor.equal(lonely[name]) for name, tensor in network.state_dict().items())


def test_a_server_block_is_shared_by_all() -> None:
    """Device blocks are kept apart; what is behind the cut must be alike."""
    made = study(**groups(crop(8), "off"), scheduler="splitfed")
    assert made.family is not None
    whole, part = (network.state_dict() for network in made.family.networks)
    assert part["conv3.0.weight"].data_ptr() == whole["conv3.0.weight"].data_ptr()
    assert list(made.assembly.blocks()) == ["device", "server", "device#1", "device#2"]
    section = {"method": "reconvene", "budget": {"params": "30 %"}}
    more = groups(section, "off") | {"pruning": {"aggregation": "per-variant", "scope": "model"}}
    with pytest.raises(UserError, match=r"conv3\S* is behind the cut.*has one server block for all; set scope: device"):
        study(**more, scheduler="splitfed")


def test_statistics_of_models_of_their_own_are_not_mixed() -> None:
    """So nobody is warned of batch norm."""
    assert not study(**groups(crop(8), "off")).warnings()


@pytest.mark.slow
def test_the_report_has_the_quality_of_each(tmp_path: Path) -> None:
    """Of the run: what a device has on average; of each variant in the summary and, over time, in curves.csv."""
    run = fedsim.run(scenario(**groups(crop(8, masked=0.5), "off"), evaluate={"every": "20 ms"}), out=tmp_path / "run")
    whole, small = run.summary["pruning"]["variants"]
    assert (whole["method"], whole["groups"], whole["variant"]) == ("whole", [1], 1)
    assert (small["method"], small["groups"], small["variant"]) == ("crop", [0], 2)
    average = (2 * whole["quality"]["accuracy"] + small["quality"]["accuracy"]) / 3
    assert run.summary["accuracy"]["final"] == pytest.approx(average)
    assert whole["quality"] != small["quality"]
    assert whole["quality_at_start"]["loss"] != whole["quality"]["loss"]
    assert run.summary["pruning"]["coverage"] == {"min": 1.0, "mean": 1.0, "max": 1.0}
    with (tmp_path / "run" / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1
    last = rows[-1]
    assert float(last["accuracy_1"]) == whole["quality"]["accuracy"]
    assert float(last["loss_2"]) == pytest.approx(small["quality"]["loss"])
    assert float(last["accuracy"]) == run.summary["accuracy"]["final"]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["fedavg", "ampere"])
def test_every_variant_is_saved(scheduler: str, tmp_path: Path) -> None:
    """In a folder of its own, with the server block where there is one; timing only takes the same way."""
    sections = groups(crop(8), crop(20), "off") | {"scheduler": scheduler}
    run = fedsim.run(scenario(**sections), out=tmp_path / "run")
    again = fedsim.run(tmp_path / "run" / "scenario.yaml")
    timing = fedsim.run(scenario(**sections, learning="off"))
    assert run.weights is not None
    assert again.weights is not None
    assert all(tensor.equal(again.weights[name]) for name, tensor in run.weights.items())
    assert (run.summary["seconds"], run.summary["bytes"]) == (timing.summary["seconds"], timing.summary["bytes"])
    for number, width in ((1, 32), (2, 20), (3, 8)):
        model = load_model(tmp_path / "run" / f"variant-{number}")
        assert model.get_parameter("conv1.0.weight").shape[0] == width
        own = of_member(number, run.weights)
        assert all(tensor.equal(own[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(
        UserError, match=r"holds a model for each variant; give one of variant-1, variant-2, variant-3 "
    ):
        load_model(tmp_path / "run")


@pytest.mark.slow
def test_what_fits_whole_has_a_line_beside_the_others(tmp_path: Path) -> None:
    """In both ways to put variants together; with its own quality where it has one."""
    roomy, tight = (study(crop(channels)).needs()[0] for channels in (32, 24))
    fleet = []
    for name, need in (("roomy", roomy), ("tight", tight)):
        folder = tmp_path / name
        folder.mkdir()
        fleet.append({"profile": board(folder, need.model + need.step), "count": 2, "link": "wifi5"})
    for aggregation in ("index-map", "per-variant"):
        section = {"method": CROP, "fit": "memory", "aggregation": aggregation}
        made = study(section, fleet=fleet)
        whole, small = made.assembly.pruning
        assert (whole["method"], whole["fit"], whole["groups"]) == ("whole", "memory", [0])
        assert (small["method"], small["fit"], small["groups"]) == ("crop", "memory", [1])
    run = fedsim.run(SCENARIO | {"fleet": fleet, "pruning": section})
    whole, small = run.summary["pruning"]["variants"]
    assert run.summary["accuracy"]["final"] == pytest.approx(
        (whole["quality"]["accuracy"] + small["quality"]["accuracy"]) / 2
    )
