"""What pruning methods see of a scenario: samples of every class, pieces of text, what a device needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.errors import UserError
from fedsim.experiment.building import build
from fedsim.experiment.dealing import read_data
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.materials import Materials
from fedsim.scenario import Calibration
from tests.experiment.test_variants import scenario


def materials(**more: Any) -> Materials:
    """Of the scenario of `test_variants`, with changes."""
    found = load_scenario(scenario(**more))
    study = build(found)
    return Materials(
        scenario=found,
        network=study.network(),
        info=study.info,
        data=lambda: read_data(found),
        training=study.assembly.training,
        cut=study.assembly.cut,
        head=study.assembly.head,
        measure=lambda network: study.assembly.model,
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of its own kind: a byte counts up."""
    file = tmp_path / "text.txt"
    file.write_text("".join(chr(97 + number % 26) for number in range(4000)))
    return file


def on_text(text: Path) -> Mapping[str, Any]:
    """A language model on it."""
    return {
        "model": {"name": "transformer", "width": 8, "heads": 2},
        "data": {"name": "text", "path": str(text), "tokens": {"length": 8, "tokenizer": "bytes"}},
    }


def test_a_batch_has_so_many_samples_of_every_class() -> None:
    """Or all there are; normalised as devices see them, the same every time."""
    made = materials()
    inputs, labels = made.batch(5)
    again, _ = made.batch(5)
    assert inputs.equal(again)
    assert np.bincount(labels.numpy()).tolist() == [5] * 10
    assert inputs.shape == (50, 1, 8, 8)
    many, _ = made.batch(10**6)
    assert len(many) == len(read_data(made.scenario).train.labels)


def test_windows_are_training_data_unless_there_is_public_text(text: Path, tmp_path: Path) -> None:
    """Drawn by the seed; as long as the model takes, or shorter."""
    made = materials(**on_text(text))
    own = made.windows(None)
    rows = {tuple(row) for row in read_data(made.scenario).train.inputs.tolist()}
    assert own.shape == (32, 8)
    assert {tuple(row) for row in own.tolist()} <= rows
    public = tmp_path / "public.txt"
    public.write_text("z" * 3000)
    given = made.windows(Calibration(path=public, windows=4, length=6))
    assert given.equal(torch.full((4, 6), ord("z")))
    machine = build(made.scenario).assembly.fleet.groups[0].machine
    assert made.of(machine, 16).private
    assert not made.of(machine, 16, Calibration(path=public)).private


def test_calibration_has_the_tokens_of_the_model(text: Path, tmp_path: Path) -> None:
    """A tokenizer that follows the text would give others."""
    public = tmp_path / "public.txt"
    public.write_text("xyz" * 1000)
    data = {"name": "text", "path": str(text), "tokens": {"length": 8, "tokenizer": "chars"}}
    made = materials(**{**on_text(text), "data": data})
    with pytest.raises(UserError, match=r"has 3 different tokens, the training data 26; take a tokenizer"):
        made.windows(Calibration(path=public))


def test_only_what_devices_hold_may_shrink_where_the_model_is_cut() -> None:
    """And its output keeps its width; a method is told of the device's part in memory and time."""
    made = materials(scheduler="splitfed")
    machine = build(made.scenario).assembly.fleet.groups[0].machine
    material = made.of(machine, 16)
    assert (material.scope, material.protected, material.units) == (("conv1", "conv2"), ("conv2",), 2)
    whole = materials().of(machine, 16)
    assert (whole.scope, whole.protected, whole.units) == ((), (), None)
    assert material.memory is not None
    assert whole.memory is not None
    assert material.memory(made.network) < whole.memory(made.network)
