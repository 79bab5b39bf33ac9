"""Which layers are resilient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.pruning.reconvene.coupling import couple
from fedsim.pruning.reconvene.curves import Curve
from fedsim.pruning.reconvene.options import Reconvene
from fedsim.pruning.reconvene.scores import scored
from fedsim.pruning.reconvene.sensitivity import Sensitivity
from tests.pruning.reconvene.networks import IMAGES, Padded, Projected, Squeeze


def judged(
    model: nn.Module, densities: Mapping[str, float], *, blind: tuple[str, ...] = (), **options: Any
) -> Sensitivity:
    """The sensitivity where step 1 has these densities; filter c of a layer scores c."""
    weights = scored(model)
    sizes = tuple(weight.numel() for weight in weights.values())
    kept = [sizes, [round(densities.get(name, 1.0) * size) for name, size in zip(weights, sizes, strict=True)]]
    curve = Curve(
        score="synflow",
        parent="",
        seed=0,
        data=False,
        layers=tuple(weights),
        sizes=sizes,
        lowest=0.1,
        kept=np.array(kept),
        filters={n: np.tile(np.arange(1.0, len(w) + 1) * (n not in blind), (2, 1)) for n, w in weights.items()},
        seconds=0.0,
    )
    chosen = Reconvene(**options)
    return Sensitivity(model, couple(model, IMAGES, scope=chosen.scope), curve, chosen)


def chain() -> nn.Sequential:
    """Three convolutions of 100 to 1,000 weights, and a linear layer."""
    parts = (nn.Conv2d(2, 50, 1), nn.Conv2d(50, 20, 1), nn.Conv2d(20, 25, 1))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(25, 4))


DENSITIES = {"0": 0.9, "1": 0.2, "2": 0.4, "5": 0.05}


@pytest.mark.parametrize(
    ("tau", "value", "resilient"),
    [
        ("mean", 0.5, [False, True, True]),
        ("global", (90 + 200 + 200 + 5) / 1700, [False, True, False]),
        ("quantile:0.5", 0.4, [False, True, False]),
        ("quantile:1", 0.9, [False, True, True]),
        (0.95, 0.95, [True, True, True]),
    ],
)
def test_tau(tau: Any, value: float, resilient: list[bool]) -> None:
    """The mean and quantiles are of convolutions; what is less dense than tau is resilient."""
    sensitivity = judged(chain(), DENSITIES, tau=tau)
    assert sensitivity.tau(1.0) == pytest.approx(value)
    assert sensitivity.densities(1.0) == pytest.approx([0.9, 0.2, 0.4])
    assert sensitivity.resilient(1.0).tolist() == resilient


def test_tau_of_the_scope_alone() -> None:
    """Dense layers elsewhere do not make those in the scope resilient."""
    whole = judged(chain(), DENSITIES, scope=("1", "2"))
    own = judged(chain(), DENSITIES, scope=("1", "2"), tau_scope="scope")
    assert [each.name for each in own.coupling.sets] == ["1"]
    assert whole.tau(1.0) == pytest.approx(0.5)
    assert own.tau(1.0) == pytest.approx(0.2)
    assert whole.resilient(1.0).tolist() == [True]
    assert own.resilient(1.0).tolist() == [False]


def test_models_without_convolutions() -> None:
    """The mean is of linear layers."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 10), nn.Linear(10, 10), nn.Linear(10, 2))
    assert judged(model, {"1": 0.1, "2": 0.5, "3": 0.9}).tau(1.0) == pytest.approx(0.5)


def test_coupled_layers_share_one_decision() -> None:
    """The mean of their densities by their weights, and the sums of their filters' scores."""
    model = nn.Sequential(Projected(2, 4, "bn"), nn.Conv2d(4, 3, 1))
    sensitivity = judged(model, {"0.first": 0.5, "0.second": 0.2, "0.shortcut": 1.0})
    second, shortcut = 5 * 4 * 9, 2 * 4
    assert sensitivity.densities(1.0)[1] == pytest.approx((0.2 * second + shortcut) / (second + shortcut), abs=1e-3)
    assert sensitivity.scores(1, 1.0).tolist() == [2, 4, 6, 8]


def test_a_layer_counts_by_its_share_of_a_set() -> None:
    """Where a shortcut of 20 channels is padded to 30: 360 weights of the stem, and two thirds of 8,100."""
    model = nn.Sequential(nn.Conv2d(2, 20, 3, padding=1), Padded(20, 30, "bn"), nn.Conv2d(30, 3, 1))
    sensitivity = judged(model, {"0": 0.5, "1.conv2": 0.2})
    sets = {each.layers: number for number, each in enumerate(sensitivity.coupling.sets)}
    assert sensitivity.coupling.sets[sets["0", "1.conv2"]].units == 20
    found = sensitivity.densities(1.0)
    assert found[sets["0", "1.conv2"]] == pytest.approx((0.5 * 360 + 0.2 * 5400) / (360 + 5400))
    assert found[sets["1.conv2",]] == pytest.approx(0.2)


def test_layers_that_the_score_is_blind_to() -> None:
    """They take the density of what they read, do not count in the mean, and keep their largest filters."""
    torch.manual_seed(0)
    model = nn.Sequential(Squeeze(2, 6, "bn"), nn.Conv2d(6, 3, 1))
    densities = {"0.conv": 0.25, "0.squeeze": 0.0, "0.excite": 0.0, "1": 0.75}
    sensitivity = judged(model, densities, blind=("0.squeeze", "0.excite"))
    assert sensitivity.blind == ("0.squeeze", "0.excite")
    assert [each.name for each in sensitivity.coupling.sets] == ["0.conv", "0.squeeze"]
    assert sensitivity.densities(1.0) == pytest.approx([0.25, 0.25], abs=0.01)
    assert sensitivity.tau(1.0) == pytest.approx(0.5, abs=0.02)
    weights = model.get_parameter("0.squeeze.weight").detach().abs().sum((1, 2, 3))
    assert sensitivity.scores(1, 1.0) == pytest.approx(weights.numpy(), rel=1e-6)
