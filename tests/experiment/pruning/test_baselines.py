"""What Reconvene is compared with in one run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from fedsim.experiment.pruning.baselines import made
from fedsim.experiment.pruning.looking import material
from fedsim.experiment.pruning.running import Asked, Outcome, run
from fedsim.experiment.pruning.settings import settings
from fedsim.experiment.pruning.stages import Stages
from fedsim.experiment.pruning.subjects import Wanted


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """A small network, cut to seven tenths, and beside it a cut by one ratio."""
    model = Wanted(name="vgg5", input=(1, 8, 8))
    return run(Asked(model=model, settings=settings(["budget.params=70 %"]), baselines=("uniform",)))


@pytest.mark.slow
def test_baselines_begin_as_new_as_what_they_are_compared_with(outcome: Outcome) -> None:
    """A layer with fewer inputs is drawn for those: wider than the parent's values, by PyTorch's 1/sqrt(inputs)."""
    (uniform,) = outcome.baselines
    for name, before in outcome.subject.module.named_modules():
        if isinstance(before, nn.Conv2d | nn.Linear) and name != "conv1.0":
            after = uniform.pruned.module.get_parameter(f"{name}.weight")
            inputs, fewer = before.weight[0].numel(), after[0].numel()
            assert fewer < inputs
            assert inputs**-0.5 < float(after.detach().abs().max()) <= fewer**-0.5


@pytest.mark.slow
def test_all_of_a_run_on_data_of_devices_is_private() -> None:
    """The mask that baselines begin with, too."""
    asked = settings(["budget.params=70 %", "score=snip"])
    model = Wanted(name="vgg5", input=(1, 8, 8))
    found = run(Asked(model=model, settings=asked, data="digits", private=True, baselines=("upai", "uniform")))
    assert {each.pruned.plan.privacy for each in found.baselines} == {found.plan.privacy} == {"device-private"}


@pytest.mark.slow
def test_random_layers_are_drawn_by_the_seed_of_the_run(outcome: Outcome) -> None:
    """The same model and plan, with other seeds, and with the same ones again."""
    sight = material(outcome.subject, data=None, calibration=None, machine=None, batch=1, private=False)
    told = (outcome.options, outcome.subject, outcome.study, outcome.plan)
    cut = []
    for seed in (0, 1, 2, 3, 0):
        (one,) = made(("random-layers",), *told, replace(sight, seed=seed), Stages(lambda _: None))
        cut.append(tuple(kept.layer for kept in one.pruned.plan.kept))
    assert cut[0] == cut[4]
    assert len(set(cut)) > 1
