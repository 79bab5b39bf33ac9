"""Scenarios that prune: who has what, what it saves, and that every run of them is the same run."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

import fedsim
from fedsim.errors import UserError
from fedsim.experiment.artifacts import load_model
from fedsim.experiment.building import Study, build
from fedsim.experiment.families import relative
from fedsim.experiment.loading import load_scenario
from fedsim.hardware.pricing import seconds as priced
from fedsim.payload.supports import Support
from fedsim.pruning.resizing import sliced
from fedsim.report.variants import variant_line

CROP = "tests.experiment.cropping:Crop"
SCENARIO: dict[str, Any] = {
    "name": "pruned",
    "seed": 3,
    "model": {"name": "vgg5", "cut": 2},
    "data": {"name": "digits", "samples": 200},
    "fleet": [
        {"profile": "raspberry-pi-4b", "count": 2, "link": "wifi5"},
        {"profile": "jetson-nano", "count": 2, "link": "wifi5"},
    ],
    "server": {"profile": "rtx-a6000", "link": {"up": "1 Gbit/s", "down": "1 Gbit/s"}},
    "scheduler": "fedavg",
    "until": {"rounds": 2},
}


def scenario(pruning: Any = None, *groups: Any, **more: Any) -> dict[str, Any]:
    """The scenario with sections for the fleet and for groups."""
    made = deepcopy(SCENARIO) | more
    if pruning is not None:
        made["pruning"] = pruning
    for group, section in zip(made["fleet"], groups, strict=False):
        if section is not None:
            group["pruning"] = section
    return made


def crop(keep: int, **more: Any) -> dict[str, Any]:
    """The method of `cropping`, in so many channels."""
    return {"method": CROP, "keep": keep, **more}


def study(*sections: Any, **more: Any) -> Study:
    """Its parts."""
    return build(load_scenario(scenario(*sections, **more)))


def weights_down(run: fedsim.Run) -> int:
    """Bytes of weights to devices."""
    return int(run.summary["bytes"]["down"]["weights"])


# ------------------------------------------------------------------------------------------- who has what


def test_one_way_for_all_is_a_smaller_model() -> None:
    """Nobody holds the whole one, so the run is that of the pruned model; the server's is as small."""
    made = study(crop(8))
    assert made.assembly.variants == ()
    assert made.assembly.model.units[0].output[0] == 8
    assert made.network().get_parameter("conv1.0.weight").shape == (8, 1, 3, 3)
    assert made.family is not None
    assert [sorted(variant.groups) for variant in made.family.made] == [[0, 1]]


def test_a_group_may_be_pruned_alone() -> None:
    """The others hold the whole model, and so does the server."""
    made = study(None, crop(8))
    (variant,) = made.assembly.variants
    assert variant.groups == {0}
    assert made.assembly.model.units[0].output[0] == 32
    plans = made.assembly.held(made.assembly.blocks())
    assert [plan.weights.shapes[0].shape[0] for plan in plans] == [8, 32]


def test_off_keeps_a_group_whole() -> None:
    """Where the scenario prunes the fleet."""
    made = study(crop(8), None, "off")
    assert [sorted(variant.groups) for variant in made.assembly.variants] == [[0]]


def test_where_everybody_is_pruned_the_server_holds_the_largest_variant() -> None:
    """And those that have it hold all there is; smaller ones lie within it."""
    made = study(crop(8), None, crop(20))
    (variant,) = made.assembly.variants
    assert variant.groups == {0}
    assert made.assembly.model.units[0].output[0] == 20
    inner = variant.support.axes["conv1.0.bias"][0]
    assert inner is not None
    assert len(inner) == 8
    assert inner.max() < 20
    assert made.family is not None
    large, small = made.family.made
    outer = large.support.axes["conv1.0.bias"][0]
    absolute = small.support.axes["conv1.0.bias"][0]
    assert outer is not None
    np.testing.assert_array_equal(outer[inner], absolute)


def test_ways_that_come_to_the_same_plan_are_one_variant() -> None:
    """Whatever machine they are for."""
    made = study(None, crop(8), crop(8))
    assert made.family is not None
    assert [sorted(variant.groups) for variant in made.family.made] == [[0, 1]]


@pytest.mark.slow
def test_groups_that_fit_their_machines_have_variants_of_their_own(tmp_path: Path) -> None:
    """One section for all; where all of the model fits a machine, its group stays whole."""
    whole, narrow = (study(crop(channels)).needs()[0] for channels in (32, 24))
    groups = []
    for name, need in (("roomy", whole), ("tight", narrow)):
        folder = tmp_path / name
        folder.mkdir()
        groups.append({"profile": board(folder, need.model + need.step), "count": 2, "link": "wifi5"})
    made = study({"method": CROP, "fit": "memory"}, fleet=groups)
    (variant,) = made.assembly.variants
    assert variant.groups == {1}
    assert variant.model.units[0].output[0] == 24


def test_each_group_is_pruned_by_its_own_text(tmp_path: Path) -> None:
    """One method with the same options looks at both."""
    texts = {name: tmp_path / f"{name}.txt" for name in ("model", "abc", "xyz")}
    for name, file in texts.items():
        file.write_text(name * 1000)
    sections = [
        {"method": "tests.experiment.cropping:Forget", "calibration": {"path": str(texts[name]), "length": 8}}
        for name in ("abc", "xyz")
    ]
    family = study(
        None,
        *sections,
        model={"name": "transformer", "width": 8, "heads": 2},
        data={"name": "text", "path": str(texts["model"]), "tokens": {"length": 8, "tokenizer": "bytes"}},
    ).family
    assert family is not None
    for variant, group, letters in zip(family.made, (0, 1), ("abc", "xyz"), strict=True):
        (mask,) = variant.support.masks.values()
        assert variant.groups == {group}
        assert np.flatnonzero(mask.all(1)).tolist() == np.flatnonzero(mask.any(1)).tolist() == [*letters.encode()]


def test_variants_are_parts_of_one_model_with_new_values_once() -> None:
    """What a method would give each of its cuts, the common model gets, and variants have its values."""
    made = study(None, crop(8))
    assert made.family is not None
    whole, (part,) = made.family.network, made.family.networks
    assert bool((whole.get_parameter("conv1.0.weight") == 0.1).all())
    assert bool((part.get_parameter("conv1.0.weight") == 0.1).all())
    assert not whole.get_parameter("conv2.0.weight").eq(0.1).any()


@pytest.mark.slow
def test_every_layer_that_some_variant_has_cut_is_new_in_the_common_model() -> None:
    """Whichever of them has cut it; all other layers are the scenario's."""
    common = {"method": "reconvene", "score": "magnitude", "tau": 1.0}
    wide = {**common, "scope": ["conv1", "conv2"], "protected": ["conv2"], "budget": {"params": "95 %"}}
    narrow = {**common, "scope": ["conv2", "conv3"], "protected": ["conv3"], "budget": {"params": "50 %"}}
    groups = [{**SCENARIO["fleet"][0], "pruning": section} for section in (wide, narrow, "off")]
    family = study(fleet=groups).family
    assert family is not None
    cut = [{name.partition(".")[0] for name in variant.support.axes} for variant in family.made]
    assert cut == [{"conv1", "conv2"}, {"conv2", "conv3"}], "from the largest to the smallest"
    before, after = study().network().state_dict(), family.network.state_dict()
    same = {name.partition(".")[0] for name, value in after.items() if value.dim() > 1 and value.equal(before[name])}
    assert same == {"hidden", "head"}
    for variant, part in zip(family.made, family.networks, strict=True):
        for name, value in part.state_dict().items():
            index = variant.support.index(name, tuple(after[name].shape))
            assert value.equal(after[name][index]), name


def test_a_support_is_found_again_within_a_larger_one() -> None:
    """Positions among what the larger one keeps; an axis that both keep alike is whole."""
    outer = Support({"w": (np.array([1, 3, 4, 8]), None), "b": (np.array([0, 2]),)})
    inner = Support({"w": (np.array([3, 8]), np.array([5])), "b": (np.array([0, 2]),)})
    found = relative(inner, outer)
    assert found.axes.keys() == {"w"}
    np.testing.assert_array_equal(found.axes["w"][0], [1, 3])
    np.testing.assert_array_equal(found.axes["w"][1], [5])


# ------------------------------------------------------------------------------------------- what it saves


@pytest.mark.slow
@pytest.mark.parametrize("learning", [True, False])
def test_what_is_kept_is_chosen_by_the_trained_weights(learning: bool, tmp_path: Path) -> None:
    """Whether or not the run goes on to train them."""
    weights = study().network().state_dict()
    weights["conv1.0.weight"][3:7] *= 100
    save_file(weights, tmp_path / "trained.safetensors")
    model = {**SCENARIO["model"], "weights": tmp_path / "trained.safetensors"}
    family = study(crop(4), model=model, learning=learning).family
    assert family is not None
    assert family.network.get_parameter("conv2.0.weight").equal(weights["conv2.0.weight"][:, 3:7])


def test_pruned_devices_are_sent_less_and_compute_less() -> None:
    """As their shapes say; a mask saves bytes, neither memory nor MACs."""
    whole, small, sparse = (
        fedsim.run(scenario(section, learning="off")) for section in (None, crop(8), crop(8, masked=0.5))
    )
    shapes = [study(section).assembly.blocks()["model"] for section in (None, crop(8), crop(8, masked=0.5))]
    for run, plan in zip((whole, small, sparse), shapes, strict=True):
        assert weights_down(run) == 8 * plan.weights.nbytes
    assert weights_down(whole) > weights_down(small) > weights_down(sparse)
    assert whole.summary["devices"]["macs"] > small.summary["devices"]["macs"] == sparse.summary["devices"]["macs"]
    peaks = [run.summary["devices"]["peak_memory_bytes"] for run in (whole, small, sparse)]
    assert peaks[0] > peaks[1] == peaks[2]
    assert whole.summary["seconds"] > small.summary["seconds"]


@pytest.mark.slow
def test_zeros_save_time_where_a_profile_has_measured_that(tmp_path: Path) -> None:
    """A curve for convolutions, on devices with a mask; not on others, and not below its first point."""
    text = (Path(fedsim.__file__).parents[1] / "devices/profiles/raspberry-pi-4b.yaml").read_text()
    said = yaml.safe_load(text)
    said["id"] = "board"
    said["processors"]["cpu"]["sparse"] = {"conv": {"sparsity": ["80 %", "95 %"], "speed": [1.5, 4]}}
    (tmp_path / "board.yaml").write_text(yaml.safe_dump(said))
    fleet = [{"profile": str(tmp_path / "board.yaml"), "count": 2, "link": "wifi5"}]

    def seconds(masked: float, profile: list[Any]) -> float:
        assembly = study(crop(8, masked=masked), fleet=profile).assembly
        (plan,) = assembly.held(assembly.blocks())
        return priced(assembly.fleet.groups[0].machine, plan.train_part(16).cost)

    usual = [{**fleet[0], "profile": "raspberry-pi-4b"}]
    times = {masked: seconds(masked, fleet) for masked in (0.0, 0.6, 0.9)}
    assert times[0.9] < times[0.6] == times[0.0] == seconds(0.0, usual) == seconds(0.9, usual)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [(), (None, "off")], ids=["all", "some"])
def test_trained_weights_are_kept_by_a_method_that_would_draw_new_ones(groups: tuple[Any, ...], tmp_path: Path) -> None:
    """In the variant, and in the model that it is part of."""
    trained = study(seed=8).network().state_dict()
    save_file(trained, tmp_path / "trained.safetensors")
    model = {**SCENARIO["model"], "weights": tmp_path / "trained.safetensors"}
    section = {"method": "reconvene", "score": "magnitude", "density": 0.3, "tau": 1.0}
    with pytest.warns(UserWarning, match="the weights are trained, so they are kept"):
        family = study(section, *groups, model=model).family
    assert family is not None
    (variant,) = family.made
    assert len(variant.support.axes) > 10
    (part,) = family.networks or (family.network,)
    for name, value in part.named_parameters():
        assert value.equal(trained[name][variant.support.index(name, tuple(trained[name].shape))]), name
    if groups:
        assert all(value.equal(trained[name]) for name, value in family.network.named_parameters())


def test_installing_takes_the_delay_and_the_goodput_of_a_link() -> None:
    """Index lists, 4 bytes each, and masks, a bit each, once to every device; of a line rate what headers leave."""
    lists, mask = 4 * 7 * 8, 64 * 8 * 9 // 8
    links = (
        ({"up": "1 MB/s", "down": "8 Mbit/s", "latency": "50 ms"}, 0.05 + (lists + mask) / (1e6 * 0.8)),
        ({"up": "1 MB/s", "down": "2 MB/s", "rate": "goodput", "rtt": "40 ms"}, 0.02 + (lists + mask) / 2e6),
    )
    fleet = [{**group, "link": link} for group, (link, _) in zip(SCENARIO["fleet"], links, strict=True)]
    made = study(crop(8, masked=0.5), fleet=fleet, network={"efficiency": "80 %"})
    *groups, variant = made.assembly.deployment
    assert [(each["group"], each["bytes"]) for each in groups] == [(0, 2 * (lists + mask)), (1, 2 * (lists + mask))]
    assert [each["seconds"] for each in groups] == pytest.approx([seconds for _, seconds in links])
    assert variant == {"groups": [0, 1], "macs": 107}


@pytest.mark.slow
def test_the_summary_says_what_was_made_and_installed() -> None:
    """From the trace alone: variants with their sizes and checks; bytes and seconds of lists and masks."""
    run = fedsim.run(scenario(crop(8, masked=0.5), None, crop(20)))
    large, small = run.summary["pruning"]["variants"]
    assert (large["groups"], small["groups"]) == ([1], [0])
    assert small["parameters"]["nonzero"] < small["parameters"]["held"] < large["parameters"]["held"]
    assert small["checks"]["difference"] <= 1e-5
    assert small["share"] == small["parameters"]["held"] / small["parameters"]["parent"]
    lists = {8: 4 * 7 * 8, 20: 4 * 7 * 20}
    mask = 64 * 8 * 9 // 8
    assert run.summary["deployment"]["bytes"] == 2 * (lists[8] + mask) + 2 * lists[20]
    assert 0 < run.summary["deployment"]["seconds"] < 0.1
    assert run.summary["deployment"]["macs"] == 2 * 7 + 100
    assert "pruning" not in fedsim.run(scenario(learning="off")).summary


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["fedavg", "fedoptima", "ampere"])
def test_the_same_scenario_gives_the_same_run(scheduler: str, tmp_path: Path) -> None:
    """Variants are made again from the seed; timing only takes the same way; the model can be loaded."""
    more = {"scheduler": scheduler, "until": {"rounds": 1}}
    sections = (crop(8, masked=0.5), None, crop(20))
    first = fedsim.run(scenario(*sections, **more), out=tmp_path / "first")
    again = fedsim.run(tmp_path / "first" / "scenario.yaml")
    timing = fedsim.run(scenario(*sections, **more, learning="off"))
    assert first.weights is not None
    assert again.weights is not None
    assert all(first.weights[name].equal(again.weights[name]) for name in first.weights)
    assert first.summary["seconds"] == again.summary["seconds"] == timing.summary["seconds"]
    assert first.summary["bytes"] == timing.summary["bytes"]
    model = load_model(tmp_path / "first")
    assert model.get_parameter("conv1.0.weight").equal(first.weights["conv1.0.weight"])
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.slow
def test_each_variant_is_measured_at_the_end() -> None:
    """What it has of the last model, on the test data; who has all of it is as good as the run's model."""
    sections = (crop(8, masked=0.5), None, crop(20))
    run = fedsim.run(scenario(*sections))
    large, small = run.summary["pruning"]["variants"]
    assert large["quality"]["accuracy"] == run.summary["accuracy"]["final"]
    made = study(*sections)
    assert made.family is not None
    assert run.weights is not None
    whole, (smaller,) = made.family.network, made.family.smaller
    whole.load_state_dict(run.weights)
    x, y = made.samples().held_out("test", 0, 360)

    def judged(network: nn.Module) -> dict[str, Any]:
        with torch.no_grad():
            out = network.eval()(x)
        right, loss = (out.argmax(-1) == y).float().mean(), cross_entropy(out, y)
        return {"accuracy": pytest.approx(right.item(), abs=1e-6), "loss": pytest.approx(loss.item(), rel=1e-5)}

    assert small["quality"] == judged(sliced(whole, smaller.support))
    assert small["quality"]["loss"] != large["quality"]["loss"]
    fresh = study(*sections)
    assert fresh.family is not None
    (untrained,) = fresh.family.networks
    assert small["quality_at_start"] == judged(untrained)
    assert large["quality_at_start"] is None


# ------------------------------------------------------------------------------------------- what fits


def board(folder: Path, room: float) -> str:
    """The profile of a board whose process leaves so many bytes for a model."""
    text = (Path(fedsim.__file__).parents[1] / "devices/profiles/raspberry-pi-4b.yaml").read_text()
    said = yaml.safe_load(text)
    said["id"], name = "board", folder / "board.yaml"
    said["memory"] |= {"capacity": "9 GB", "runtime": "1 MB", "workspace": "0 B", "usable": f"{1e6 + room} B"}
    name.write_text(yaml.safe_dump(said))
    return str(name)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [32, 24, 3])
def test_fit_takes_the_largest_model_that_the_device_can_train(tmp_path: Path, channels: int) -> None:
    """All of it where there is room, else the largest of 95 %, 90 %, ... that does."""
    exact = study(crop(channels)).needs()[0]
    room = exact.model + exact.step
    group = {
        "profile": board(tmp_path, room),
        "count": 1,
        "pruning": {"method": CROP, "fit": "memory"},
        "link": "wifi5",
    }
    made = study(fleet=[group])
    tried = [32, *(max(1, round(32 * n / 20)) for n in range(19, 0, -1))]
    assert made.assembly.model.units[0].output[0] == max(each for each in tried if each <= channels)
    assert all(need.fits for need in made.needs())


@pytest.mark.slow
def test_fit_refuses_a_device_that_can_train_no_size(tmp_path: Path) -> None:
    """With the least that is needed."""
    group = {
        "profile": board(tmp_path, 200e3),
        "count": 1,
        "pruning": {"method": CROP, "fit": "memory"},
        "link": "wifi5",
    }
    with pytest.raises(
        UserError, match=r"no size that crop can reach fits board.*: the smallest needs .* are free; take"
    ):
        study(fleet=[group])


def test_variants_that_share_a_server_block_are_alike_behind_the_cut() -> None:
    """With scope: model, one variant for all may shrink it; several may not."""
    budget = {"method": "reconvene", "budget": {"params": "30 %"}}
    more = {"scheduler": "splitfed", "model": {"name": "vgg5", "cut": 2}}
    with pytest.raises(
        UserError, match=r"groups hold different variants, but conv3\S* is behind the cut.*device-block"
    ):
        study({**budget, "scope": "model"}, "off", **more)
    alike = study({**budget, "scope": "model"}, **more)
    assert alike.assembly.model.units[2].output[0] < 64
    assert alike.assembly.variants == ()


def test_what_a_method_lacks_is_said() -> None:
    """With what one has."""
    with pytest.raises(UserError, match=r"pruning method .* has no study and no plan"):
        study({"method": "tests.scenario.toys:Crop"})


def test_statistics_of_different_widths_are_warned_of() -> None:
    """With batch norm, and only where widths differ."""
    assert any("norm: gn" in text for text in study(None, crop(8)).warnings())
    assert not study(crop(8)).warnings()
    assert not any("norm: gn" in text for text in study(None, crop(8), norm="frozen_bn").warnings())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pruning": "reconvene"}, "neither a budget nor a density is given; set budget.params to 25 %"),
        ({"pruning": {"method": "mosaic"}}, "mosaic prunes language models by what they do on text, and there is none"),
        (
            {"pruning": {"method": "reconvene", "budget": {"params": "0.01 %"}}},
            "params 0.01 % of vgg5 cannot be reached: the smallest is",
        ),
        (
            {"pruning": {"method": "reconvene", "fit": "memory", "budget": {"params": "20 %"}}},
            "fit: memory takes the largest model that the device can train, so budget would change nothing; leave one",
        ),
        ({"pruning": {"manifest": "/nowhere"}}, "/nowhere has no manifest.json; give a folder that fedsim prune has"),
        (
            {"pruning": {"method": "reconvene", "density": 0.1}, "scheduler": "splitfed", "model": "vgg5"},
            "cuts the model, but model.cut is not given",
        ),
        (
            {
                "pruning": {"method": "reconvene", "density": 0.1},
                "scheduler": "splitfed",
                "model": {"name": "vgg5", "cut": 1},
            },
            "nothing in vgg5 may be cut: conv1 must stay whole and nothing outside conv1 may change",
        ),
        (
            {
                "pruning": {"method": "reconvene", "density": 0.1},
                "model": {"name": "transformer", "width": 8, "heads": 2},
                "data": {"name": "text", "path": __file__, "tokens": {"length": 8, "tokenizer": "bytes"}},
            },
            "reconvene prunes networks on images or vectors, and this one takes tokens; take mosaic",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_pruned_is_said(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What, the value, the rule, the way out; and where it stands."""
    if "data" in more:
        text = tmp_path / "text.txt"
        text.write_text(Path(__file__).read_text())
        more = {**more, "data": {**more["data"], "path": str(text)}}
    with pytest.raises(UserError, match=re.escape(message)):
        build(load_scenario(scenario(**more)))


def test_the_device_block_needs_a_cut() -> None:
    """Systems that train whole models have none."""
    with pytest.raises(UserError, match="scope: device-block, but scheduler fedavg does not cut the model"):
        study({**crop(8), "scope": "device-block"})


def test_reports_of_variants_survive_in_the_run_folder(tmp_path: Path) -> None:
    """`summary.json` has them."""
    fedsim.run(scenario(crop(8), until={"rounds": 1}), out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["pruning"]["variants"][0]["method"] == "crop"


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed", "fedoptima", "ampere"])
def test_a_budget_of_memory_is_what_the_device_needs(scheduler: str) -> None:
    """Its auxiliary head, and what goes to the server and back, are in it."""
    whole = study(scheduler=scheduler).needs()[0]
    budget = round(0.4 * (whole.model + whole.step))
    made = study({"method": "reconvene", "budget": {"memory": f"{budget} B"}, "tau": 1.0}, scheduler=scheduler)
    need = made.needs()[0]
    assert 0.85 * budget < need.model + need.step <= budget


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "batch"),
    [("fedavg", 128), ("inference", 48), ({"name": "pipar", "micro_batches": 4}, 48)],
    ids=["a batch that nobody fills", "answers", "micro-batches"],
)
def test_what_fits_as_it_is_stays_whole(scheduler: Any, batch: int, tmp_path: Path) -> None:
    """Devices have 50 samples each; a step takes those, and some systems' devices do something else."""
    more = {"scheduler": scheduler, "training": {"batch": batch}}
    need = study(**more).needs()[0]
    budget = need.model + need.step
    fleet = [{"profile": board(tmp_path, budget), "count": 4, "link": "wifi5"}]
    roomy = study({"method": CROP, "fit": "memory"}, fleet=fleet, **more)
    assert roomy.family is not None
    assert not roomy.family.made
    (line,) = roomy.assembly.pruning
    assert variant_line(line).startswith("group 0: whole: fits; on the device ")
    tight = [{"profile": board(tmp_path, 0.9 * budget), "count": 4, "link": "wifi5"}]
    smaller = study({"method": CROP, "fit": "memory"}, fleet=tight, **more)
    assert all(each.fits for each in smaller.needs()[:-1])
    section = {"method": "reconvene", "score": "magnitude", "tau": 1.0, "budget": {"memory": f"{0.9 * budget:.0f} B"}}
    need = study(section, **more).needs()[0]
    assert 0.75 * budget < need.model + need.step <= 0.9 * budget


@pytest.mark.slow
@pytest.mark.parametrize(
    "training",
    [{"batch": 1, "optimizer": {"name": "adamw", "lr": 0.001}}, {"batch": 50, "optimizer": "sgd"}],
    ids=["moments", "activations"],
)
def test_a_budget_of_memory_is_used_up_whatever_takes_it(training: Any) -> None:
    """Most of it is AdamW's two moments a parameter, or the activations of a large batch; both shrink with the cut."""
    more = {"scheduler": "splitfed", "training": training}
    whole = study(**more).needs()[0]
    budget = round(0.6 * (whole.model + whole.step))
    section = {"method": "reconvene", "score": "magnitude", "tau": 1.0, "budget": {"memory": f"{budget} B"}}
    need = study(section, **more).needs()[0]
    assert 0.95 * budget < need.model + need.step <= budget


@pytest.mark.slow
def test_what_is_chosen_within_a_private_choice_is_private() -> None:
    """A list of channels among those that data have picked depends on the data, whatever scored them."""
    wide = {"method": "reconvene", "score": "snip", "tau": 1.0, "budget": {"params": "60 %"}}
    narrow = {"method": "reconvene", "score": "random", "tau": 1.0, "budget": {"params": "30 %"}}
    family = study(None, wide, narrow, learning=False).family
    assert family is not None
    assert [each["privacy"] for each in family.report] == ["device-private", "device-private"]
    outer, inner = (variant.support.axes for variant in family.made)
    for name, axes in outer.items():
        for large, small in zip(axes, inner[name], strict=True):
            if large is not None:
                assert small is not None
                assert set(small.tolist()) < set(large.tolist()), "variants nest"
    alone = study(None, narrow, learning=False).family
    assert alone is not None
    assert [each["privacy"] for each in alone.report] == ["data-free"]


def test_zeros_on_the_device_are_those_of_the_device() -> None:
    """Those behind the cut are the server's."""
    for cut, zeros in ((1, 0), (2, 9214)):
        model = {"name": "vgg5", "cut": cut}
        family = study({**crop(32, masked=0.5), "scope": "model"}, scheduler="splitfed", model=model).family
        assert family is not None
        (said,) = family.report
        assert said["device"]["pruned"]["zeros"] == zeros
        assert said["parameters"]["held"] - said["parameters"]["nonzero"] == 9214


def test_what_a_device_holds_is_told_without_its_auxiliary_head() -> None:
    """Two convolutions with their norms, counted by hand on 8x8 and 4x4 pixels; the head only makes messages longer."""
    with_head, without = (study(crop(8), scheduler=scheduler).family for scheduler in ("fedoptima", "splitfed"))
    assert with_head is not None
    assert without is not None
    for width, name in ((32, "parent"), (8, "pruned")):
        parameters = 9 * width + 3 * width + 64 * 9 * width + 3 * 64
        macs = 8 * 8 * 9 * width + 4 * 4 * 64 * 9 * width
        ours, theirs = (family.report[0]["device"][name] for family in (with_head, without))
        assert (ours["parameters"], ours["macs"]) == (parameters, macs)
        assert (theirs["parameters"], theirs["macs"]) == (parameters, macs)
        assert ours["message_bytes"] > theirs["message_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", {"name": "adamw", "lr": 0.001}])
@pytest.mark.parametrize("batch", [4, 32])
def test_memory_is_counted_alike_for_plans_and_for_devices(optimizer: Any, batch: int) -> None:
    """Whatever is trained with, and however much is cut."""
    from fedsim.pruning.reconvene.costing import Costing
    from fedsim.pruning.reconvene.coupling import couple

    training = {"optimizer": optimizer, "batch": batch}
    whole = study(training=training)
    network, slots = whole.network(), whole.assembly.training.optimizer.slots
    coupling = couple(network, torch.zeros(2, 1, 8, 8))
    costed = Costing(batch=batch, slots=slots).of(network, coupling)
    need = whole.needs()[0]
    assert costed.memory(coupling.units) == need.model + need.step
    made = study(crop(5), training=training)
    (kept,) = [i for i, each in enumerate(coupling.sets) if any(port.layer == "conv1.0" for port in each.places)]
    units = coupling.units.copy()
    units[kept] = 5
    need = made.needs()[0]
    assert costed.memory(units) == need.model + need.step
