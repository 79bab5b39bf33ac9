"""A run may start from trained weights: of an earlier run's folder, or of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from fedsim import load_model
from fedsim.errors import UserError
from fedsim.experiment.building import build
from fedsim.experiment.checking import check
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.networks import build_network
from fedsim.experiment.running import run
from fedsim.experiment.starting import fill
from fedsim.models.options import Mlp, Vgg
from fedsim.models.units import UnitList
from fedsim.scenario import resolved
from tests.experiment.toys import TOY

OPTIONS = {"name": "mlp", "hidden": [8, 8], "cut": 1}


def network(hidden: tuple[int, ...] = (8, 8), *, dtype: str = "float32", device: str = "cpu") -> UnitList:
    """The network of the toy."""
    options = Mlp(hidden=list(hidden))
    keys: dict[str, Any] = {"input": (1, 8, 8), "classes": 10, "kind": "image", "norm": "bn", "dtype": dtype}
    return build_network("mlp", options, **keys, seed=1, device=device)


def saved(folder: Path) -> Path:
    """The toy's weights, by another seed, in a file."""
    save_file(network().state_dict(), folder / "mine.safetensors")
    return folder / "mine.safetensors"


@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed"])
def test_a_run_goes_on_where_another_ended(scheduler: str, tmp_path: Path) -> None:
    """Its first evaluation is the last of the earlier run, whichever system trains, from a folder or its file."""
    first = run(TOY, out=tmp_path / "first")
    last = first.curves[-1]
    for weights in (tmp_path / "first", tmp_path / "first" / "model.safetensors"):
        second = run(TOY, scheduler=scheduler, model={**OPTIONS, "weights": weights}, until={"rounds": 1})
        begin = second.curves[0]
        assert (begin["accuracy"], begin["loss"]) == (last["accuracy"], last["loss"])
        assert begin["time"] == 0
    drawn = run(TOY, scheduler=scheduler, until={"rounds": 1}).curves[0]
    assert drawn["loss"] != last["loss"]


def test_a_scenario_names_them_relative_to_itself(tmp_path: Path) -> None:
    """The resolved one says where they are, and what a run leaves is loaded without them."""
    saved(tmp_path)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**TOY, "model": {**OPTIONS, "weights": "mine.safetensors"}}))
    scenario = load_scenario(tmp_path / "x.yaml")
    assert resolved(scenario)["model"]["weights"] == str(tmp_path / "mine.safetensors")
    assert resolved(load_scenario(TOY))["model"]["weights"] is None
    done = run(tmp_path / "x.yaml", out=tmp_path / "out")
    (tmp_path / "mine.safetensors").unlink()
    assert done.weights is not None
    assert all(tensor.equal(done.weights[name]) for name, tensor in load_model(tmp_path / "out").state_dict().items())


def test_every_host_begins_with_them(tmp_path: Path) -> None:
    """Device block and server block; in a scenario's own type of number."""
    wanted = load_file(saved(tmp_path))
    updates = {"model": {**OPTIONS, "weights": saved(tmp_path)}, "scheduler": "splitfed"}
    for dtype in (torch.float32, torch.float64):
        training = {"training": {"dtype": str(dtype).removeprefix("torch.")}}
        blocks = build(load_scenario(TOY, updates=updates | training)).host().core.blocks.values()
        found = {name: tensor for block in blocks for name, tensor in block.initial.named().items()}
        assert len(blocks) == 2
        assert found.keys() == wanted.keys()
        assert all(tensor.equal(wanted[name].to(dtype)) for name, tensor in found.items())


def test_weights_of_batch_norm_fit_fixed_statistics(tmp_path: Path) -> None:
    """Which then are those that were learnt; group norm has none."""

    def vgg(norm: str, weights: Path | None = None) -> UnitList:
        options = Vgg(width_ratio=0.0625, hidden=4)
        keys: dict[str, Any] = {"input": (3, 32, 32), "classes": 4, "kind": "image", "dtype": "float32"}
        return build_network("vgg11", options, **keys, norm=norm, weights=weights)

    learnt = vgg("bn")
    learnt(torch.randn(4, 3, 32, 32))
    save_file(learnt.state_dict(), tmp_path / "bn.safetensors")
    frozen = vgg("frozen_bn", tmp_path / "bn.safetensors")
    assert all(tensor.equal(learnt.state_dict()[name]) for name, tensor in frozen.state_dict().items())
    with pytest.raises(UserError, match=r"there is no conv1\.1\.running_mean here; there is no conv1\.1\.running_var"):
        vgg("gn", tmp_path / "bn.safetensors")


def test_on_meta_they_are_compared_and_not_read(tmp_path: Path) -> None:
    """What is counted has shapes only."""
    bare = network(device="meta")
    fill(bare, saved(tmp_path))
    assert all(tensor.is_meta for tensor in bare.state_dict().values())
    with pytest.raises(UserError, match=r"hidden1\.1\.weight is \(8, 64\) there, but \(9, 64\) here"):
        fill(network((9, 8), device="meta"), saved(tmp_path))


def test_timing_only_needs_no_weights(tmp_path: Path) -> None:
    """Nothing is trained; the file need not be there."""
    model = {**OPTIONS, "weights": tmp_path / "elsewhere"}
    assert run(TOY, learning=False, model=model).summary["seconds"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden": [8, 9]},
            "the weights in {file} are not those of this mlp: hidden2.0.weight is (8, 8) there, but (9, 8) here; "
            "hidden2.0.bias is (8,) there, but (9,) here; head.weight is (10, 8) there, but (10, 9) here; give those "
            "of the same model, with the same options, norm and kind of data (",
        ),
        (
            {"hidden": [8, 8, 10, 10]},
            "hidden3.0.weight is not there; hidden3.0.bias is not there; hidden4.0.weight is not there; and 2 more; ",
        ),
        ({"hidden": [8]}, ": there is no hidden2.0.bias here; there is no hidden2.0.weight here; give"),
    ],
)
def test_weights_of_another_network_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """With the first differences, in the network's order; by `check` as well."""
    file = saved(tmp_path)
    scenario = load_scenario(TOY, updates={"model": {**OPTIONS, **change, "weights": file}})
    with pytest.raises(UserError, match=re.escape(message.format(file=file))):
        check(scenario)


def test_weights_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    """No such path, or a folder without a model."""
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(UserError, match=rf"there are no weights in {path}; give the folder of a run with learning"):
            build(load_scenario(TOY, updates={"model": {**OPTIONS, "weights": path}}))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Such as one that is cut short."""
    file = saved(tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"the weights in .*mine\.safetensors cannot be read \(.*\); save them again"):
        build(load_scenario(TOY, updates={"model": {**OPTIONS, "weights": file}}))


def test_a_path_that_is_none_is_refused() -> None:
    """By the scenario, before anything is built."""
    with pytest.raises(UserError, match=r"model\.weights: 3 does not fit; give a path"):
        load_scenario(TOY, updates={"model": {**OPTIONS, "weights": 3}})
