"""Densities against crops."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedsim.pruning.reconvene import Planner, Reconvene, crosscheck, score
from tests.pruning.reconvene.networks import IMAGES


def chain(*, spread: bool) -> nn.Sequential:
    """Three convolutions; with `spread`, half of the filters of the second carry next to nothing."""
    torch.manual_seed(0)
    parts = (nn.Conv2d(2, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 3, 1))
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if spread:
        with torch.no_grad():
            model.get_parameter("1.weight")[:8] *= 1e-9
    return model


def test_what_is_lost_by_hand() -> None:
    """All flow runs through the eight filters that stay, so that cropping the second layer loses nothing."""
    model = chain(spread=True)
    options = Reconvene(density=0.3, iterations=6)
    planner = Planner(model, score(model, options, IMAGES), options, example=IMAGES)
    found = crosscheck(planner, 4.0, IMAGES)
    assert found.losses["1"] == pytest.approx(0, abs=1e-6)
    assert 0.1 < found.losses["0"] < 0.6
    assert found.disagreeing == ()
    assert found.densities["1"] < found.densities["0"]


def test_half_of_the_units_are_cropped() -> None:
    """By magnitudes of 1 to 4 and 5 to 8 a filter, before 12 weights of 1: 6 and 44 of 136 are lost."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1), nn.Flatten())
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 2, 1, 1))
        model.get_parameter("1.weight").copy_(torch.arange(5.0, 9.0).view(4, 1, 1, 1).expand(4, 4, 1, 1))
        model.get_parameter("2.weight").fill_(1)
    options = Reconvene(score="magnitude", density=0.5, iterations=1, lowest_density=0.5)
    planner = Planner(model, score(model, options, IMAGES), options, example=IMAGES)
    assert crosscheck(planner, 1.0, IMAGES).losses == pytest.approx({"0": 6 / 136, "1": 44 / 136})


def test_cropped_units_write_nothing() -> None:
    """Their biases go, too, which scores that look at the loss tell: 4 of 8 filters are faint but for their biases."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        model.get_parameter("0.weight")[::2] *= 1e-4
        model.get_parameter("0.bias").fill_(2)
    options, labels = Reconvene(score="snip", density=0.9, iterations=1, lowest_density=0.9), torch.tensor([0, 2])
    planner = Planner(model, score(model, options, IMAGES, labels), options, example=IMAGES)

    def snip(cropped: nn.Module) -> float:
        cross_entropy(cropped(IMAGES), labels).backward()
        weights = [cropped.get_parameter(name) for name in ("0.weight", "4.weight")]
        return sum(float((w * w.grad).detach().abs().sum()) for w in weights if w.grad is not None)

    cropped = deepcopy(model)
    with torch.no_grad():
        cropped.get_parameter("0.weight")[::2] = 0
        cropped.get_parameter("0.bias")[::2] = 0
    lost = 1 - snip(cropped) / snip(deepcopy(model))
    assert crosscheck(planner, 1.0, IMAGES, labels).losses == pytest.approx({"0": lost}, rel=1e-4)


def test_rankings_that_disagree() -> None:
    """By magnitudes the largest layer loses most; a curve that calls it the least dense is contradicted."""
    model = chain(spread=False)
    options = Reconvene(score="magnitude", density=0.3, iterations=2)
    curve = score(model, options, IMAGES)
    right, wrong = ([2, 115, 64, 24], [15, 6, 64, 24])
    planner = Planner(model, replace(curve, kept=np.array([curve.sizes, right, right])), options, example=IMAGES)
    assert crosscheck(planner, 1.0, IMAGES).correlation == pytest.approx(1.0)
    planner = Planner(model, replace(curve, kept=np.array([curve.sizes, wrong, wrong])), options, example=IMAGES)
    with pytest.warns(UserWarning, match="densities and crops disagree on how sensitive 0, 1 is; compare with another"):
        found = crosscheck(planner, 1.0, IMAGES)
    assert found.correlation == pytest.approx(-1.0)
