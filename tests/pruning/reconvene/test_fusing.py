"""Batch norms in the layers in front of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.models.building import build
from fedsim.models.options import ResNet
from fedsim.models.zoo.layers import normalisation
from fedsim.pruning.reconvene import fuse
from fedsim.pruning.reconvene.fusing import apart
from tests.pruning.reconvene.networks import IMAGES, disturb, network


def norms(model: nn.Module) -> int:
    """How many batch norms there are."""
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["bn", "gn", "frozen_bn"]))
@pytest.mark.slow
def test_outputs_stay(seed: int, norm: str) -> None:
    """Over random networks, on inputs that were not looked at."""
    model = network(seed, norm)
    fused = fuse(model, IMAGES)
    assert apart(model, fused, torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(seed))) < 1e-5
    if norm != "gn":
        assert norms(fused) < norms(model)


@pytest.mark.slow
def test_all_norms_of_a_residual_network_go() -> None:
    """Those of shortcuts, too."""
    model = build(
        "resnet18",
        ResNet(width_ratio=0.125),
        input=(3, 32, 32),
        classes=4,
        kind="image",
        device="cpu",
    )
    disturb(model)
    assert norms(model) == 20
    assert norms(fuse(model, torch.randn(2, 3, 32, 32))) == 0


class Both(nn.Module):
    """What a convolution writes is read by a norm, and added to what comes of that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = normalisation("bn")(4)
        self.end = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.conv(x)
        out: Tensor = self.end((x + self.norm(x)).mean((2, 3)))
        return out


def test_norms_that_are_not_the_only_reader_stay() -> None:
    """So do those without statistics, and those behind a sum or a pooling."""
    model = Both()
    disturb(model)
    assert norms(fuse(model, IMAGES)) == 1
    without = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    assert norms(fuse(without.eval(), IMAGES)) == 1
    pooled = nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), normalisation("bn")(4), nn.Flatten(), nn.Linear(16, 2))
    assert norms(fuse(pooled, IMAGES)) == 1


@pytest.mark.parametrize("affine", [True, False])
def test_by_hand(affine: bool) -> None:
    """Of a linear layer: weight and bias are scaled, the shift is added."""
    linear, norm = nn.Linear(3, 2, bias=affine), nn.BatchNorm1d(2, affine=affine)
    disturb(norm)
    fused = fuse(nn.Sequential(linear, norm), torch.randn(2, 3))
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = (norm.running_var + norm.eps).rsqrt() * (norm.weight if affine else 1)
    shift = norm.bias + (linear.bias - norm.running_mean) * scale if affine else -norm.running_mean * scale
    assert torch.allclose(fused.get_parameter("0.weight"), linear.weight * scale[:, None])
    assert torch.allclose(fused.get_parameter("0.bias"), shift)
