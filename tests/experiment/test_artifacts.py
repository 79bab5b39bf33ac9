"""A saved model is built again from what its folder says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedsim.errors import UserError
from fedsim.experiment.artifacts import load_model, save_model
from fedsim.experiment.building import build
from fedsim.experiment.loading import load_scenario
from tests.experiment.toys import TOY


def saved(folder: Path, norm: str) -> dict[str, torch.Tensor]:
    """A small network with this norm, written as a run writes it; its tensors."""
    updates = {"model": {"name": "vgg5", "cut": 1}, "norm": norm, "data": {"name": "digits", "samples": 20}}
    study = build(load_scenario(TOY, updates=updates))
    blocks = study.host().core.blocks.values()
    tensors = {name: tensor.clone() for block in blocks for name, tensor in block.initial.named().items()}
    save_model(folder, study, tensors)
    return tensors


@pytest.mark.parametrize("norm", ["bn", "gn", "frozen_bn"])
def test_a_model_comes_back_with_its_norm(norm: str, tmp_path: Path) -> None:
    """Tensor for tensor, in the mode for inference."""
    tensors = saved(tmp_path, norm)
    network = load_model(tmp_path)
    assert not network.training
    assert network.state_dict().keys() == tensors.keys()
    assert all(tensor.equal(tensors[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("schema", [0, 2])
def test_a_model_of_another_version_is_refused(schema: int, tmp_path: Path) -> None:
    """With both numbers."""
    saved(tmp_path, "gn")
    recipe = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(recipe | {"schema": schema}))
    with pytest.raises(UserError, match=rf"model\.json has schema {schema}, but this fedsim reads schema 1"):
        load_model(tmp_path)
