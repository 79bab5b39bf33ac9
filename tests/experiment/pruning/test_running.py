"""`run` from Python: what it gives back, and that it writes nothing and leaves no traces."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.experiment.pruning.documents import document
from fedsim.experiment.pruning.running import Asked, Outcome, run
from fedsim.experiment.pruning.settings import settings
from fedsim.experiment.pruning.subjects import Wanted
from fedsim.hardware import pricing
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.models.counting import measure
from fedsim.models.measure import forward_cost
from fedsim.models.zoo.llama import apart
from tests.experiment.pruning.models import published, text

VGG = Wanted(name="vgg5", input=(1, 8, 8))


def pruned(*set_: str, model: Wanted = VGG, **more: Any) -> Outcome:
    """One run."""
    return run(Asked(model=model, settings=settings(set_), **more))


def test_the_same_question_gets_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, whatever the global generator; which is left alone, as is the folder."""
    monkeypatch.chdir(tmp_path)
    before = torch.random.get_rng_state()
    one = pruned("budget.params=30 %")
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        other = pruned("budget.params=30 %")
    assert one.pruned is not None
    assert other.pruned is not None
    assert one.plan.digest == other.plan.digest
    for name, tensor in one.pruned.module.state_dict().items():
        assert torch.equal(tensor, other.pruned.module.state_dict()[name])
    assert not os.listdir(tmp_path)


def test_stages_are_told_as_they_begin() -> None:
    """And timed."""
    heard: list[str] = []
    found = run(Asked(model=VGG, settings=settings(["budget.params=30 %"])), heard.append)
    assert heard == ["load", "study", "plan", "apply", "count"]
    assert set(found.timings) == {"load", "study", "plan", "count", "cut", "verify", "rectify"}
    assert found.pruned is not None
    assert set(found.pruned.timings) == {"study", "plan", "cut", "verify", "rectify"}


def test_a_budget_in_scope_is_a_share_of_what_is_in_scope() -> None:
    """And says so."""
    found = document(pruned("budget.params=90 %", "scope=[conv1, conv2]", "protected=[conv2]", "tau=1.0"))
    (target,) = found["targets"]
    assert target["of"] == "of the parent's in scope"
    assert target["realised"] <= 0.9 < found["pruned"]["parameters"] / found["parent"]["parameters"]
    assert [row["layer"] for row in found["layers"]] == ["conv1.0"]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["structured-first", "unstructured-first"])
def test_composite_pruning_knows_both_orders(order: str, tmp_path: Path) -> None:
    """To the same target."""
    model = Wanted(name="llama", length=16, options={"width": 36, "heads": 9, "kv_heads": 3, "blocks": 2})
    asked = {"calibration": text(tmp_path), "windows": 4}
    found = document(pruned("sparsity=0.5", "alpha=0.5", "round_to=1", f"order={order}", model=model, **asked))
    (target,) = found["targets"]
    assert target["realised"] == pytest.approx(0.5, abs=0.002)
    assert found["pruned"]["decoder"] < found["parent"]["decoder"]
    assert {"study", "plan", "cut", "verify", "sparsify"} <= found["timings"].keys()
    assert found["options"]["order"] == order


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.5, 0.7])
def test_a_layers_target_is_the_share_that_it_was_to_keep(gamma: float) -> None:
    """Its density to the power of gamma, from which the filters that it keeps are rounded up."""
    found = pruned("density=0.2", "tau=1.0", f"gamma={gamma}")
    densities = found.plan.options["found"]["densities"]
    rows = {row["layer"]: row for row in document(found)["layers"]}
    assert rows.keys() == {"conv2.0", "conv3.0", "hidden.1"}
    for name, row in rows.items():
        assert row["target"] == pytest.approx(densities[name] ** gamma)
        assert row["kept"] == math.ceil(row["target"] * row["of"])
        assert row["realised"] == row["kept"] / row["of"]


@pytest.mark.slow
@pytest.mark.parametrize("length", [12, 24])
def test_a_forward_of_a_published_model_is_of_as_many_tokens_as_were_asked_for(length: int, tmp_path: Path) -> None:
    """The price of its units for that many, parent and pruned."""
    model = Wanted(name=str(published(tmp_path / "model")), tokenizer="bytes", length=length)
    more = {"calibration": text(tmp_path), "windows": 4, "profile": "raspberry-pi-4b"}
    found = pruned("sparsity=0.3", "alpha=1", "round_to=1", model=model, **more)
    assert found.parent is not None
    assert found.pruned is not None
    board = machine(load_profile("raspberry-pi-4b"))
    for report, module in ((found.parent, found.subject.module), (found.now, found.pruned.module)):
        wanted = pricing.seconds(board, forward_cost(measure(apart(module, length)).units, 1))
        assert report.priced == pytest.approx(wanted)
