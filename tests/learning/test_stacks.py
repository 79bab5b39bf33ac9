"""Gradients without autograd: those of autograd, to the bit; and only stacks of layers are taken for one."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedsim.learning.core import Core
from fedsim.learning.plan import SERVER_BLOCK
from fedsim.learning.stacks import Stack
from fedsim.models.units import UnitList
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.locsplitfed import LocSplitFed
from fedsim.schedulers.splitfed import SplitFed
from fedsim.testing import _network, host, simulate, toy

AGAIN = nn.ReLU()
"""A layer that is used in two places, as many write it."""

LAYERS: dict[str, tuple[tuple[int, ...], list[nn.Module]]] = {
    "one": ((7,), [nn.Linear(7, 3)]),
    "images": ((1, 4, 4), [nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 5)]),
    "no bias": ((6,), [nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False)]),
    "no ReLU between": ((6,), [nn.Linear(6, 8), nn.Linear(8, 130), nn.ReLU(), nn.ReLU(), nn.Linear(130, 2)]),
    "a ReLU last": ((6,), [nn.Linear(6, 8), nn.ReLU()]),
    "a ReLU twice": ((6,), [nn.Linear(6, 8), AGAIN, nn.Linear(8, 7), AGAIN, nn.Linear(7, 3)]),
    "narrow": ((1,), [nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 4, bias=False)]),
    "wide": ((784,), [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch", [1, 2, 10, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradients_are_those_of_autograd_to_the_bit(name: str, batch: int, dtype: torch.dtype) -> None:
    """Over a few steps, with whatever batch and numbers."""
    input, layers = LAYERS[name]
    torch.manual_seed(1)
    module = deepcopy(nn.Sequential(*layers)).to(dtype)
    stack = Stack.of(nn.Sequential(OrderedDict(unit=module)), input)
    assert stack is not None
    for _ in range(3):
        x = torch.randn(batch, *input, dtype=dtype)
        y = torch.randint(0, module(x).shape[1], (batch,))
        cross_entropy(module(x), y).backward()
        wanted = [p.grad for p in module.parameters()]
        module.zero_grad()
        assert stack.differentiate(x, y)
        for parameter, grad in zip(module.parameters(), wanted, strict=True):
            assert grad is not None
            assert parameter.grad is not None
            assert parameter.grad.equal(grad)
            parameter.data.sub_(grad, alpha=0.1)
        module.zero_grad()


def test_gradients_that_are_there_already_are_left_alone() -> None:
    """Nothing is added up here."""
    module = nn.Sequential(nn.Linear(3, 2))
    stack = Stack.of(module, (3,))
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    assert stack is not None
    assert stack.differentiate(x, y)
    before = [p.grad for p in module.parameters()]
    assert not stack.differentiate(x, y)
    assert all(p.grad is grad for p, grad in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["0.weight", "2.bias"])
def test_a_single_gradient_is_enough_for_that(name: str) -> None:
    """Wherever it is."""
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    stack = Stack.of(module, (3,))
    parameters = dict(module.named_parameters())
    parameters[name].grad = torch.ones_like(parameters[name])
    assert stack is not None
    assert not stack.differentiate(torch.ones(2, 3), torch.tensor([0, 1]))
    assert [other for other, p in parameters.items() if p.grad is not None] == [name]


def test_a_label_that_is_no_class_is_refused() -> None:
    """As autograd's forward does."""
    stack = Stack.of(nn.Sequential(nn.Linear(3, 2)), (3,))
    assert stack is not None
    with pytest.raises(IndexError, match="out of bounds"):
        stack.differentiate(torch.ones(2, 3), torch.tensor([0, 2]))


def _tied() -> nn.Module:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = one.weight
    return nn.Sequential(one, other)


def _twice() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, layer)


def _hooked(kind: str, *, container: bool = False) -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4))
    getattr(module if container else module[0], f"register_{kind}_hook")(lambda *_: None)
    return module


def _replaced() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4))
    module[0].forward = lambda x: 2 * x
    return module


class Residual(nn.Sequential):
    """A sequence that is none."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """With a way around it."""
        made: torch.Tensor = input + self[0](input)
        return made


class Doubled(nn.Linear):
    """Something else than its class says."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Twice."""
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "module",
    [
        *(nn.Sequential(), nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.Linear(4, 2))),
        *(nn.Sequential(nn.Linear(4, 4), nn.Dropout()), nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
        *(nn.Sequential(nn.Linear(4, 4), nn.Flatten()), nn.Sequential(Doubled(4, 4)), _tied(), _twice()),
        *(_hooked("forward"), _hooked("forward_pre"), _hooked("full_backward"), _hooked("full_backward_pre")),
        *(_hooked("forward", container=True), _replaced(), Residual(nn.Linear(4, 4))),
        nn.Sequential(Residual(nn.Linear(4, 4)), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4)),
    ],
    ids=str,
)
def test_anything_else_is_no_stack(module: nn.Module) -> None:
    """Autograd does it."""
    assert Stack.of(module, (4,)) is None


def test_samples_of_several_axes_have_to_be_flattened() -> None:
    """All of their axes."""
    assert Stack.of(nn.Sequential(nn.Linear(4, 2)), (3, 4)) is None
    assert Stack.of(nn.Sequential(nn.Flatten(2), nn.Linear(4, 2)), (3, 4)) is None
    assert Stack.of(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 4)) is not None


class Squared(UnitList):
    """A network with a loss of its own."""

    @staticmethod
    def loss(logits: torch.Tensor, labels: torch.Tensor, reduction: Any = "mean") -> torch.Tensor:
        """Whatever."""
        return logits.square().mean()


def test_only_whole_models_with_cross_entropy_are_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block with a head, no block of the server, and no network with another loss."""
    assert set(host(toy(FedAvg())).core._stacks) == {"model"}
    assert SERVER_BLOCK not in host(toy(SplitFed())).core._stacks
    assert not host(toy(LocSplitFed())).core._stacks
    network = deepcopy(_network())
    network.__class__ = Squared
    monkeypatch.setattr("fedsim.testing._network", lambda: network)
    assert not host(toy(FedAvg())).core._stacks


def test_a_run_has_the_same_weights_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is done without autograd, where it can be."""
    calls = []
    whole: Any = Core.differentiate

    def counted(core: Core, *args: Any) -> None:
        whole(core, *args)
        calls.append(len(core._stacks))

    monkeypatch.setattr(Core, "differentiate", counted)
    made = simulate(toy(FedAvg()))
    assert calls
    assert all(calls)
    monkeypatch.setattr(Stack, "differentiate", lambda *_: False)
    wanted = simulate(toy(FedAvg()))
    assert made.weights is not None
    assert wanted.weights is not None
    assert made.weights
    assert all(tensor.equal(wanted.weights[name]) for name, tensor in made.weights.items())
