"""Densities against crops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

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
