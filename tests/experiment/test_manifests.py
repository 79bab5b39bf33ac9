"""Scenarios whose variants were made by `fedsim prune`: the same model, or a sentence that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fedsim
from fedsim.cli import main
from fedsim.errors import UserError
from fedsim.experiment.building import Study, build
from fedsim.experiment.loading import load_scenario
from fedsim.pruning.manifest import WEIGHTS
from fedsim.pruning.storing import read
from tests.experiment.pruning.models import LLAMA, published, text
from tests.experiment.test_variants import scenario

Made = dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folders of vgg5 for digits, of the scenario's seed: cut, masked, cut in its first two units, of another seed."""
    place = tmp_path_factory.mktemp("made")
    common = ("prune", "vgg5", "--data", "digits", "--set", "budget.params=40 %", "--json")
    block = ("--set", "scope=[conv1, conv2]", "--set", "protected=[conv2]", "--set", "tau=1.0")
    assert main([*common, "--seed", "3", "--out", f"{place}/cut", "--baselines", "upai"]) == 0
    assert main([*common, "--seed", "3", "--out", f"{place}/block", *block, "--set", "budget.params=90 %"]) == 0
    assert main([*common, "--seed", "4", "--out", f"{place}/other"]) == 0
    small = ("--set", "budget.params=20 %", "--set", "score=magnitude", "--set", "tau=1.0", "--baselines", "upai")
    assert main([*common, "--seed", "3", "--out", f"{place}/small", *small]) == 0
    names = {"cut": "cut", "masked": "cut-upai", "block": "block", "other": "other", "sparse": "small-upai"}
    return {name: f"{place}/{folder}" for name, folder in names.items()} | {"small": f"{place}/small"}


def study(*sections: Any, **more: Any) -> Study:
    """Its parts."""
    return build(load_scenario(scenario(*sections, **more)))


@pytest.mark.slow
def test_all_devices_hold_what_the_folder_holds(made: Made) -> None:
    """Values and all, although layers of it had new initial values."""
    network = study({"manifest": made["cut"]}).network()
    stored = read(Path(made["cut"])).module
    for name, tensor in stored.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.mark.slow
def test_the_manifest_itself_names_the_folder_too(made: Made) -> None:
    """For people who point at files."""
    one, other = (study({"manifest": f"{made['cut']}{end}"}).assembly.model for end in ("", "/manifest.json"))
    assert one == other


@pytest.mark.slow
def test_groups_hold_parts_of_one_model(made: Made) -> None:
    """The whole one has the variant's values where the variant has any."""
    found = study(None, {"manifest": made["cut"]})
    assert found.family is not None
    stored = read(Path(made["cut"]))
    (part,) = found.family.networks
    whole = found.family.network.state_dict()
    for name, tensor in stored.module.state_dict().items():
        assert torch.equal(part.state_dict()[name], tensor), name
        index = stored.support.index(name, tuple(whole[name].shape))
        assert torch.equal(whole[name][index], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut", "masked"])
@pytest.mark.parametrize("alone", [True, False])
def test_timing_only_runs_open_no_tensors_and_take_as_long(kind: str, alone: bool, made: Made, tmp_path: Path) -> None:
    """The same bytes and seconds as a run that learns, from the manifest alone."""
    groups = () if alone else (None, {"manifest": made["cut"]})
    learned = fedsim.run(scenario({"manifest": made[kind]}, *groups), out=tmp_path / "learned")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "manifest.json").write_bytes(Path(made[kind], "manifest.json").read_bytes())
    assert not (bare / WEIGHTS).exists()
    timed = fedsim.run(scenario({"manifest": str(bare)}, *groups, learning="off"), out=tmp_path / "timed")
    for key in ("seconds", "bytes"):
        assert timed.summary[key] == learned.summary[key]


@pytest.mark.slow
def test_masks_stay_while_devices_train(made: Made, tmp_path: Path) -> None:
    """What the folder has as zero is zero in the model that was trained."""
    fedsim.run(scenario({"manifest": made["masked"]}), out=tmp_path / "run")
    trained = fedsim.load_model(tmp_path / "run").state_dict()
    masks = read(Path(made["masked"])).support.masks
    assert masks
    for name, mask in masks.items():
        assert not trained[name][torch.from_numpy(~mask)].any()


@pytest.mark.slow
def test_a_device_block_keeps_what_the_server_needs(made: Made) -> None:
    """One that was cut in its units alone runs under a scheduler that cuts the model there."""
    run = fedsim.run(scenario(None, {"manifest": made["block"]}, scheduler="splitfed"))
    assert run.summary["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more", "pieces"),
    [
        ("other", {}, ("made of other weights", "it had seed 4")),
        ("cut", {"seed": 9}, ("made of other weights", "it had seed 3")),
        ("cut", {"model": {"name": "cnn", "cut": 2}}, ("is of another network", "take model vgg5")),
        ("cut", {"norm": "gn"}, ("is of another network",)),
        ("cut", {"scheduler": "splitfed"}, ("only conv1, conv2 may shrink", "scope: model")),
    ],
)
def test_what_does_not_fit_the_scenario_is_refused(
    kind: str, more: dict[str, Any], pieces: tuple[str, ...], made: Made
) -> None:
    """With what to do about it."""
    with pytest.raises(UserError) as error:
        study({"manifest": made[kind]}, **more)
    for piece in pieces:
        assert piece in str(error.value)


@pytest.mark.slow
def test_other_weights_do_not_matter_to_times(made: Made) -> None:
    """Without learning nobody looks at them."""
    assert study({"manifest": made["other"]}, learning="off").family is not None


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    """And so is a manifest that was changed."""
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        study({"manifest": str(tmp_path)})
    (tmp_path / "manifest.json").write_text('{"schema": "fedsim-pruned/1"}', encoding="utf-8")
    with pytest.raises(UserError, match="was changed after it was written"):
        study({"manifest": str(tmp_path)})


# ------------------------------------------------------------------------------------------------- text


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_pruned_as_transformers_has_it_is_part_of_units(
    tied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks get other names; its weights must be those of the scenario's model all the same."""
    words = text(tmp_path)
    published(tmp_path / "model", tied=tied)
    asked = ("--tokenizer", "bytes", "--calibration", words, "--length", "16", "--windows", "4")
    options = ("--set", "sparsity=0.5", "--set", "alpha=0.5", "--set", "round_to=1")
    assert main(["prune", str(tmp_path / "model"), *asked, *options, "--out", str(tmp_path / "small"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    data = {"name": "text", "path": words, "tokens": {"length": 16, "tokenizer": "bytes"}}
    model = {"name": "llama", "path": str(tmp_path / "model"), "cut": 2}
    runs = [
        fedsim.run(
            scenario({"manifest": str(tmp_path / "small")}, model=model, data=data, learning=learning, norm="bn"),
            out=tmp_path / learning,
        )
        for learning in ("on", "off")
    ]
    assert runs[0].summary["seconds"] == runs[1].summary["seconds"]
    assert runs[0].summary["bytes"] == runs[1].summary["bytes"]
    (variant,) = runs[0].summary["pruning"]["variants"]
    tensors = document["pruned"]["parameters"] + (256 * 36 if tied else 0)  # units do not share the embedding
    assert variant["parameters"]["held"] == tensors


@pytest.mark.slow
def test_units_that_were_pruned_as_such_come_back(tmp_path: Path) -> None:
    """`fedsim prune llama` with the scenario's own sizes and seed."""
    words = text(tmp_path)
    asked = ("--calibration", words, "--length", "16", "--windows", "4", "--seed", "3", "--set", "sparsity=0.5")
    assert main(["prune", *LLAMA, *asked, "--out", str(tmp_path / "small"), "--json"]) == 0
    sizes = {"width": 36, "heads": 9, "kv_heads": 3, "blocks": 2, "intermediate": 24}
    data = {"name": "text", "path": words, "tokens": {"length": 16, "tokenizer": "bytes"}}
    found = study({"manifest": str(tmp_path / "small")}, model={"name": "llama", **sizes}, data=data)
    assert found.family is not None
    assert found.family.support.masks


@pytest.mark.slow
def test_values_that_are_not_those_of_the_folder_are_warned_of(made: Made) -> None:
    """Each of two folders has new values of its own; one model can have those of one of them."""
    two = study(None, {"manifest": made["cut"]}, {"manifest": made["small"]}, norm="frozen_bn")
    (warning,) = two.warnings()
    assert f"group 1 begin with other values than {made['small']} has" in warning
    assert study(None, {"manifest": made["cut"]}, None, norm="frozen_bn").warnings() == []


@pytest.mark.slow
def test_coverage_is_told_where_masks_are_known(made: Made) -> None:
    """Without learning nobody looks where two masks have zeros, so nobody says what they have in common."""
    sections = ({"manifest": made["masked"]}, {"manifest": made["sparse"]})
    on, off = (fedsim.run(scenario(None, *sections, learning=state, until={"rounds": 1})) for state in (True, False))
    assert on.summary["seconds"] == off.summary["seconds"]
    assert on.summary["bytes"] == off.summary["bytes"]
    masks = [read(Path(made[name])).support.masks for name in ("masked", "sparse")]
    assert on.weights is not None
    have = total = 0
    for name, tensor in on.weights.items():
        if "running" in name or "tracked" in name:
            continue
        total += tensor.numel()
        one, other = (each.get(name) for each in masks)
        have += tensor.numel() if one is None or other is None else int((one | other).sum())
    assert on.summary["pruning"]["coverage"]["mean"] == pytest.approx(have / total)
    assert off.summary["pruning"]["coverage"] is None
