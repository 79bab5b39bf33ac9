"""Empty filters go where that changes nothing, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.models.building import seeded
from fedsim.models.zoo.layers import normalisation
from fedsim.pruning import counting
from fedsim.pruning.reconvene import Emptied, without_empty
from tests.pruning.reconvene.networks import IMAGES, Squeeze, disturb, network


def thin(model: nn.Module, seed: int) -> None:
    """Empty a third of the filters, some without their biases, and set a third of the other weights to zero."""
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                empty = torch.from_numpy(draw.random(len(part.weight)) < 0.35)
                part.weight[empty] = 0
                part.weight[torch.from_numpy(draw.random(part.weight.shape) < 0.35)] = 0
                if part.bias is not None and draw.random() < 0.5:
                    part.bias[empty] = 0


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """In eval mode."""
    with torch.no_grad():
        found: Tensor = model.eval()(x)
    return found


def emptied(*layers: nn.Module) -> Emptied:
    """A network without its empty filters, which gives the same on other inputs, too."""
    model = nn.Sequential(*layers)
    made = without_empty(model, IMAGES)
    x = 3 * torch.randn(5, *IMAGES.shape[1:], generator=torch.Generator().manual_seed(1))
    assert torch.allclose(outputs(model, x), outputs(made.pruned.module, x), rtol=1e-5, atol=1e-5)
    return made


def convolution(inputs: int, outputs: int, *, padding: int = 0, bias: bool = True, empty: int | None = 1) -> nn.Conv2d:
    """One whose filters are full, but for one."""
    with seeded(outputs):
        made = nn.Conv2d(inputs, outputs, 3, padding=padding, bias=bias)
    with torch.no_grad():
        if empty is not None:
            made.weight[empty] = 0
            if made.bias is not None:
                made.bias[empty] = 0.5
    return made


def end(width: int) -> tuple[nn.Module, ...]:
    """Pooling and a linear layer."""
    with seeded(width):
        return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["bn", "gn", "frozen_bn"]))
@pytest.mark.slow
def test_outputs_stay_whatever_is_empty(seed: int, norm: str) -> None:
    """Over random networks: equal on inputs that the removal has not seen, counted exactly, and as it was told."""
    model = network(seed, norm)
    thin(model, seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = without_empty(model, IMAGES)
    x = torch.randn(3, *IMAGES.shape[1:], generator=torch.Generator().manual_seed(seed))
    wanted, got = outputs(model, x), outputs(made.pruned.module, x)
    assert float((wanted - got).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))
    assert counting.macs(made.pruned.module, IMAGES) == made.pruned.plan.macs
    assert made.checks.parameters == made.pruned.plan.parameters
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_filters_without_a_trace_go() -> None:
    """What is zero behind the activation is zero for a convolution that pads, too."""
    first = convolution(2, 4, padding=1)
    assert first.bias is not None
    nn.init.constant_(first.bias, -0.5)
    made = emptied(first, nn.ReLU(), convolution(4, 3, padding=1, empty=None), *end(3))
    assert made.pruned.realised["units"] == {"live": 6, "zero": 1}
    assert made.pruned.updated == ()
    assert made.pruned.module.get_parameter("2.weight").shape == (3, 3, 3, 3)


@pytest.mark.parametrize(
    ("reader", "fate"),
    [
        (convolution(4, 3, empty=None), "folded"),
        (convolution(4, 3, padding=1, empty=None), "padded"),
        (convolution(4, 3, bias=False, empty=None), "no bias"),
        (nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), "folded"),
        (nn.ConvTranspose2d(4, 3, 3), "padded"),
    ],
)
def test_a_constant_needs_a_bias_and_no_zeros_around(reader: nn.Module, fate: str) -> None:
    """A filter that writes one half everywhere goes where its reader's bias can stand for it exactly."""
    made = emptied(convolution(2, 4, padding=1), nn.ReLU(), reader, nn.ReLU(), *end(3))
    assert made.pruned.realised["units"] == {"live": 6, fate: 1}
    assert made.pruned.updated == (("2.bias",) if fate == "folded" else ())


def test_norms_are_fused_and_tell_what_is_constant() -> None:
    """An empty filter behind a batch norm writes what the norm makes of its bias, here something negative."""
    norm = normalisation("bn")(4)
    disturb(norm)
    nn.init.constant_(norm.get_parameter("bias"), -3)
    nn.init.constant_(norm.get_parameter("weight"), 0.1)
    made = emptied(convolution(2, 4), norm, nn.ReLU(), convolution(4, 3, padding=1, empty=None), *end(3))
    assert made.pruned.realised["units"] == {"live": 6, "zero": 1}
    assert isinstance(made.pruned.module.get_submodule("1"), nn.Identity)


def test_a_linear_layer_takes_over_each_place() -> None:
    """Flattened maps: every place of the channel has a column of its own."""
    linear = nn.Linear(4 * 16, 3)
    made = emptied(convolution(2, 4), nn.ReLU(), nn.Flatten(), linear)
    assert made.pruned.realised["units"] == {"folded": 1, "live": 3}
    bias = made.pruned.module.get_parameter("3.bias")
    assert torch.allclose(bias, linear.bias + 0.5 * linear.weight[:, 16:32].sum(1), atol=1e-6)


def test_what_nothing_reads_goes_and_may_take_others_along() -> None:
    """The first layer's third filter is read by the second's filter 0 alone, which nothing reads."""
    first, second, third = convolution(2, 4, empty=None), convolution(4, 3, empty=None), nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        third.weight[:, 0] = 0
        second.weight[1:, 2] = 0
    made = emptied(first, nn.ReLU(), second, nn.ReLU(), third, *end(3))
    assert made.pruned.realised["units"] == {"live": 8, "unread": 2}
    assert made.removed == 2
    assert [kept.indices for kept in made.pruned.plan.kept] == [(0, 1, 3), (1, 2)]


def test_an_emptied_filter_empties_the_next() -> None:
    """A filter whose only weights read a filter that has gone is empty itself, with the bias that it has by then."""
    first, second = convolution(2, 4), convolution(4, 3, empty=None)
    assert second.bias is not None
    with torch.no_grad():
        second.weight[0, [0, 2, 3]] = 0
        second.bias[0] = 1 - 0.5 * float(second.weight[0, 1].sum())
    third = nn.Conv2d(3, 2, 1)
    made = emptied(first, nn.ReLU(), second, nn.ReLU(), third, *end(2))
    assert made.pruned.realised["units"] == {"folded": 2, "live": 7}
    assert third.bias is not None
    assert torch.allclose(made.pruned.module.get_parameter("4.bias"), third.bias + third.weight[:, 0, 0, 0])


def test_filters_that_only_look_dead_stay() -> None:
    """A filter with weights and a low bias is silent on the example; it may speak on other inputs."""
    first = convolution(2, 4, empty=None)
    assert first.bias is not None
    with torch.no_grad():
        first.bias[1] = -1e3
    made = emptied(first, nn.ReLU(), convolution(4, 3, empty=None), *end(3))
    assert made.pruned.realised["units"] == {"live": 7}
    assert made.checks.removed == 0


def test_the_last_filter_stays() -> None:
    """A layer whose filters are all empty keeps one."""
    first = convolution(2, 4)
    assert first.bias is not None
    nn.init.zeros_(first.weight)
    nn.init.constant_(first.bias, 0.5)
    made = emptied(first, nn.ReLU(), convolution(4, 3, empty=None), *end(3))
    assert made.pruned.realised["units"] == {"folded": 3, "last": 1, "live": 3}
    assert made.removed == 3


def test_what_other_channels_can_see_stays() -> None:
    """Group norm looks at all channels of a group, and a gate scales what is constant by something that is not."""
    with seeded(0):
        made = emptied(convolution(2, 4), nn.GroupNorm(1, 4), convolution(4, 3, empty=None), *end(3))
        assert made.pruned.realised["units"] == {"grouped": 1, "live": 6}
        gate = Squeeze(2, 4, "bn")
        with torch.no_grad():
            gate.conv.weight[1] = 0
            gate.norm.get_parameter("bias")[1] = 1
        made = emptied(gate, convolution(4, 3, empty=None), *end(3))
    assert made.pruned.realised["units"] == {"live": 9, "varies": 1}


def test_padded_averages_vary() -> None:
    """A pooling that counts zeros beyond the edge makes a constant vary from place to place."""
    pool = nn.AvgPool2d(3, stride=1, padding=1)
    made = emptied(convolution(2, 4), nn.ReLU(), pool, convolution(4, 3, empty=None), *end(3))
    assert made.pruned.realised["units"] == {"live": 6, "varies": 1}
    made = emptied(convolution(2, 4), nn.ReLU(), nn.MaxPool2d(3, 1, 1), convolution(4, 3, empty=None), *end(3))
    assert made.pruned.realised["units"] == {"folded": 1, "live": 6}
