"""Which networks are measured."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from torch import nn

from fedsim.calibration.networks import BATCHES, NETWORKS, TYPICAL, chosen
from fedsim.calibration.stepping import costs, plan_of
from fedsim.costs import OpClass
from fedsim.errors import UserError
from fedsim.learning.optimizers import Sgd
from fedsim.models.catalogue import ENTRIES
from fedsim.models.counting import measure


def test_all_of_them_or_those_that_are_named_in_order() -> None:
    """None stands for all; the order is that of the table, however they are named."""
    assert [network.name for network in chosen(None)] == list(NETWORKS)
    assert [network.name for network in chosen(["transformer", "mlp", "vgg5"])] == ["mlp", "vgg5", "transformer"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mlp", "vgg6", "cnn"], "unknown network to measure 'vgg6'; did you mean vgg5? there are: cnn, lenet5, "),
        (["mlp"], "1 network to measure (mlp); a fit needs at least 3, unlike ones, such as mlp,vgg5,transformer"),
        (["mlp", "mlp", "cnn"], "2 networks to measure (mlp, cnn); a fit needs at least 3"),
        ([], "0 networks to measure (none); a fit needs at least 3"),
    ],
)
def test_names_that_make_no_fit_are_refused(names: list[str], message: str) -> None:
    """Unknown ones with the nearest, and too few."""
    with pytest.raises(UserError, match=re.escape(message)):
        chosen(names)


def test_all_but_one_are_models_that_scenarios_can_name() -> None:
    """The other one is there so that depthwise convolutions stay when MobileNetV3 is left out."""
    assert set(NETWORKS) - set(ENTRIES) == {"mobilenetv1"}
    assert set(TYPICAL) <= set(BATCHES)


@pytest.mark.slow
def test_every_class_is_in_two_networks_at_least() -> None:
    """Else leaving out a network would leave out a class, and its error say nothing of the fit."""
    found: Counter[OpClass] = Counter()
    for network in NETWORKS.values():
        if network.name in ("vgg11", "resnet18", "swin_t"):  # heavy, and nothing that others lack
            continue
        plan = plan_of(measure(network.build("meta")), 2, Sgd())
        found.update({op.kind for cost in costs(plan, 2).values() for op in cost.operators})
    assert all(found[kind] >= 2 for kind in OpClass if kind is not OpClass.COPY), found


def test_the_separable_network_is_what_it_says() -> None:
    """Seven depthwise 3x3 convolutions of one filter a channel, each before a 1x1, and three halvings of 32 pixels."""
    model = NETWORKS["mobilenetv1"].build("meta")
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    depthwise = [layer for layer in layers if layer.groups > 1]
    assert [layer.in_channels for layer in depthwise] == [16, 32, 64, 64, 128, 128, 256]
    assert all(layer.groups == layer.in_channels == layer.out_channels for layer in depthwise)
    assert [layer.out_channels for layer in layers if layer.kernel_size == (1, 1)] == [32, 64, 64, 128, 128, 256, 256]
    assert [layer.stride[0] for layer in layers].count(2) == 3
