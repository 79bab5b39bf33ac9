"""Scores of pruning at initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.errors import RunError, UserError
from fedsim.models.building import build
from fedsim.models.options import MobileNet, Vgg
from fedsim.pruning.pruned import fingerprint
from fedsim.pruning.reconvene import Reconvene, score
from fedsim.pruning.reconvene.scores import Batch, Grasp, Magnitude, Random, Score, Snip, SynFlow, score_type, scored
from tests.pruning.reconvene.networks import IMAGES, network

LABELS = torch.tensor([0, 2])


def small() -> nn.Sequential:
    """Two convolutions with norms, and a linear layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    )


def made(kind: type[Score], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """A score of a copy of a model."""
    twin = deepcopy(model)
    return kind(twin, scored(twin), batch)()


def test_magnitude_and_noise() -> None:
    """Absolute weights; noise by layer that the seed alone determines."""
    model, batch = small(), Batch(example=IMAGES, seed=3)
    assert torch.equal(made(Magnitude, model, batch)["3"], model.get_parameter("3.weight").abs())
    first, again = made(Random, model, batch), made(Random, model, batch)
    assert all(torch.equal(first[name], again[name]) for name in ("0", "3", "7"))
    assert not torch.equal(first["0"], made(Random, model, Batch(example=IMAGES, seed=4))["0"])


def test_noise_of_layers_of_one_shape_differs() -> None:
    """Else they would lose the same filters."""
    found = made(Random, nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), Batch(example=torch.zeros(1, 4)))
    assert not set(found["0"].flatten().tolist()) & set(found["1"].flatten().tolist())
    assert all(0 <= float(values.min()) < float(values.max()) < 1 for values in found.values())


def test_snip_is_the_change_of_the_loss_to_first_order() -> None:
    """|w| times the slope of the loss, by differences; in train mode, so that batch norm goes by the batch."""
    model = small().double().train()
    found = made(Snip, model, Batch(example=IMAGES.double(), labels=LABELS))["3"][1, 2, 0, 1]
    weight = model.get_parameter("3.weight")
    value, losses = float(weight.detach()[1, 2, 0, 1]), []
    for factor in (1 - 1e-6, 1 + 1e-6):
        with torch.no_grad():
            weight[1, 2, 0, 1] = value * factor
            losses.append(float(cross_entropy(model(IMAGES.double()), LABELS)))
    assert float(found) == pytest.approx(abs(losses[1] - losses[0]) / 2e-6, rel=1e-4)


def test_grasp_keeps_what_holds_the_gradient_up() -> None:
    """w Hg is half the slope of the squared gradient when the weight grows by a share: the highest are kept."""
    model = small().double().train()
    found = made(Grasp, model, Batch(example=IMAGES.double(), labels=LABELS))["0"][3, 1, 2, 2]
    weight = model.get_parameter("0.weight")
    value, squares = float(weight.detach()[3, 1, 2, 2]), []
    for factor in (1 - 1e-5, 1 + 1e-5):
        with torch.no_grad():
            weight[3, 1, 2, 2] = value * factor
        loss = cross_entropy(model(IMAGES.double()) / 200, LABELS)
        gradients = torch.autograd.grad(loss, list(scored(model).values()))
        squares.append(sum(float((g * g).sum()) for g in gradients))
    assert float(found) == pytest.approx((squares[1] - squares[0]) / 2e-5 / 2, rel=1e-4)


def test_synflow_layers_of_a_chain_have_one_sum() -> None:
    """All flow goes through every layer (theorem 1 of arXiv 2006.05467); here the sum is 1."""
    sums = {name: float(values.sum()) for name, values in made(SynFlow, small(), Batch(example=IMAGES)).items()}
    assert sums == pytest.approx({"0": 1.0, "3": 1.0, "7": 1.0}, rel=1e-5)


def test_synflow_by_hand() -> None:
    """Two linear layers: |w dR/dw| of 4 paths, over R, which is their sum; biases and signs do not matter."""
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        model[1].weight.copy_(torch.tensor([[-5.0, 6.0]]))
    found = made(SynFlow, model, Batch(example=torch.randn(3, 2)))
    assert found["0"].tolist() == [pytest.approx([5 / 57, 10 / 57]), pytest.approx([18 / 57, 24 / 57])]
    assert found["1"].tolist() == [pytest.approx([15 / 57, 42 / 57])]


def exact(model: nn.Module, side: int = 32) -> dict[str, Tensor]:
    """SynFlow in float64 throughout."""
    return made(SynFlow, deepcopy(model).double(), Batch(example=torch.zeros(1, 3, side, side, dtype=torch.float64)))


def test_flows_beyond_float32() -> None:
    """The same scores as in float64, where R is 1e60: no overflow, and nothing is lost at the other end."""
    model = build(
        "vgg11", Vgg(width_ratio=0.125, hidden=None), input=(3, 32, 32), classes=4, kind="image", device="cpu"
    )
    with torch.no_grad():
        for weight in scored(model).values():
            weight.mul_(1e6)
    found = made(SynFlow, model, Batch(example=torch.zeros(1, 3, 32, 32)))
    for name, values in exact(model).items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), values, rtol=1e-3, atol=1e-12)


def test_flows_that_fall_by_more_than_float32_holds() -> None:
    """The scale is taken anew."""
    model = small()
    scores = SynFlow(model, scored(model), Batch(example=IMAGES))
    first = scores()
    with torch.no_grad():
        for weight in scored(model).values():
            weight.mul_(1e-20)
    for name, values in scores().items():
        torch.testing.assert_close(values, first[name], rtol=1e-4, atol=0)


def test_networks_that_do_not_scale_are_scored_in_float64() -> None:
    """Such as one with hard swishes: dividing its input would change what it computes."""
    options = MobileNet(width_ratio=0.1)
    model = build("mobilenetv3_large", options, input=(3, 32, 32), classes=4, kind="image", device="cpu")
    found = made(SynFlow, model, Batch(example=torch.zeros(1, 3, 32, 32)))
    for name, values in exact(model).items():
        assert torch.equal(found[name], values)
        assert values.dtype == torch.float64


@pytest.mark.parametrize("name", ["random", "magnitude", "snip", "grasp", "synflow"])
@pytest.mark.parametrize("norm", ["bn", "gn", "frozen_bn"])
def test_everything_is_left_as_it_was(name: str, norm: str) -> None:
    """Weights, statistics, modes, gradients and PyTorch's generator."""
    model = network(3, norm).train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, state = fingerprint(model), torch.get_rng_state()
    score(model, Reconvene(score=name, iterations=2), IMAGES, LABELS)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in list(model.children())[:1])
    assert all(
        p.requires_grad and torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters() if p.grad is not None
    )


class Sum:
    """A user's own: the outputs' first weights matter most."""

    iterated: ClassVar[bool] = False
    data: ClassVar[bool] = False

    def __init__(self, _model: nn.Module, weights: Mapping[str, Tensor], _batch: Batch) -> None:
        self._weights = weights

    def __call__(self) -> dict[str, Tensor]:
        """Falling."""
        return {n: -torch.arange(w.numel(), dtype=torch.float32).view_as(w) for n, w in self._weights.items()}


def test_a_score_of_ones_own() -> None:
    """By module and class; what is no score says what it lacks."""
    name = f"{__name__}:Sum"
    assert score_type(name) is Sum
    curve = score(small(), Reconvene(score=name, lowest_density=0.1, iterations=4), IMAGES)
    assert curve.kept[-1].tolist() == [6, 6, 6]  # 19 are asked for, but of three equal scores none is above the others
    for wrong, message in (
        ("synflo", r"unknown score 'synflo'; did you mean synflow\?"),
        (f"{__name__}:Missing", "cannot be loaded: .*Missing.*; write it as module:Class"),
        ("no.such.module:Sum", "cannot be loaded: No module named"),
        ("torch:Tensor", "score torch:Tensor has no iterated"),
    ):
        with pytest.raises(UserError, match=message):
            score_type(wrong)


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_scores_that_need_labels(name: str) -> None:
    """Say so."""
    with pytest.raises(
        UserError, match=f"score {name} needs a batch with labels, ten samples a class; or take synflow"
    ):
        score(small(), Reconvene(score=name), IMAGES)


def test_scores_that_are_not_finite() -> None:
    """Are an error that names the layer."""
    model: Any = small()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(RunError, match="score magnitude of 3 is not finite"):
        score(model, Reconvene(score="magnitude"), IMAGES)
    with pytest.raises(RunError, match="score synflow of 0 is not finite"):
        score(model, Reconvene(), IMAGES)
    with pytest.raises(UserError, match="neither convolutions nor linear layers"):
        score(nn.Sequential(nn.ReLU()), Reconvene(), IMAGES)
