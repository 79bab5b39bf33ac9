"""Batch norm by stored statistics: always, whatever the mode, and without changing them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.models.counting import measure
from fedsim.models.measure import Line
from fedsim.models.narrowing import Widths, narrow
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import FrozenBatchNorm
from fedsim.models.zoo.resnet import ResidualBlock
from fedsim.schedulers.fedavg import FedAvg
from tests.learning.toys import Federation
from tests.models.networks import NORMED, batch_for, network
from tests.models.test_measure_memory import check

FAMILIES = [pytest.param(n, marks=pytest.mark.slow) if n in ("resnet18", "mobilenetv3_large") else n for n in NORMED]


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """A copy of what a network's norms normalise by."""
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def varied(model: nn.Module) -> dict[str, Tensor]:
    """A state for a network with norms: statistics that are not those it begins with."""
    rng = torch.Generator().manual_seed(3)
    state = dict(model.state_dict())
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            state[name] = torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype) / 10
        elif name.endswith("running_var"):
            state[name] = torch.rand(tensor.shape, generator=rng, dtype=tensor.dtype) + 0.5
    return state


def gradients(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Of the squared outputs, by the input and by every parameter."""
    x = x.clone().requires_grad_()
    return iter(torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_batch_norm_outside_training(dtype: torch.dtype) -> None:
    """Bit for bit, forward and backward, in either mode; and the gradients are those of finite differences."""
    ours, theirs = FrozenBatchNorm(3).to(dtype), nn.BatchNorm2d(3).to(dtype)
    state = varied(theirs) | {"weight": torch.tensor([0.5, 1.0, 2.0]), "bias": torch.tensor([1.0, -1.0, 0.0])}
    for layer in (ours, theirs):
        layer.load_state_dict(state)
    theirs.eval()
    x = torch.randn(4, 3, 5, 5, dtype=dtype)
    for mode in (True, False):
        ours.train(mode)
        assert ours(x).equal(theirs(x))
        assert all(a.equal(b) for a, b in zip(gradients(ours, x), gradients(theirs, x), strict=True))
    if dtype is torch.float64:
        inputs = [t.detach().requires_grad_() for t in (x, ours.weight, ours.bias)]

        def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
            return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, (x,))

        assert torch.autograd.gradcheck(forward, inputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_trains_as_one_whose_norms_are_in_eval_mode(name: str) -> None:
    """Weights of batch norm fit; training moves scale and shift, and leaves every statistic as it was."""
    ours, theirs = (network(name, norm, dtype="float64") for norm in ("frozen_bn", "bn"))
    state = varied(theirs)
    for model in (ours, theirs):
        model.load_state_dict(state)
    ours.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before, x = statistics(ours), batch_for(ours, 4)
    start = {n: t.clone() for n, t in ours.state_dict().items()}
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-3) for model in (ours, theirs)]
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model.loss(model(x), torch.arange(4)).backward()
            optimizer.step()
    assert before
    assert all(p.isfinite().all() for p in ours.parameters())
    assert all(tensor.equal(before[n]) for n, tensor in ours.named_buffers())
    for path, module in ours.named_modules():
        if isinstance(module, FrozenBatchNorm):
            assert not module.weight.equal(start[f"{path}.weight"])
            assert not module.bias.equal(start[f"{path}.bias"])
    assert all(p.equal(q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_no_statistic_moves_in_a_run() -> None:
    """Devices train, the server averages: they are the ones that the network began with."""
    federation = Federation(norm="frozen_bn", dtype="float32")
    found = federation.run(FedAvg(local_epochs=2), rounds=3)
    start = federation.network().state_dict()
    norms = [n for n, m in federation.network().named_modules() if isinstance(m, FrozenBatchNorm)]
    assert len(norms) == 3
    for name in norms:
        for statistic in ("running_mean", "running_var", "num_batches_tracked"):
            assert found[f"{name}.{statistic}"].equal(start[f"{name}.{statistic}"])
        assert not found[f"{name}.weight"].equal(start[f"{name}.weight"])


# ------------------------------------------------------------------------------------------------ costs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_costs_by_hand(dtype: str) -> None:
    """It reads what batch norm outside training reads, and keeps its input but no figures of the batch."""
    layers: list[tuple[str, nn.Module]] = [("before", nn.Conv2d(2, 3, 1)), ("it", FrozenBatchNorm(3))]
    end = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 4))
    model = UnitList("own", [*layers, ("head", end)], input=(2, 2, 2), classes=4, dtype=dtype)
    item = 4 if dtype == "float32" else 8
    unit = measure(model.to(getattr(torch, dtype))).units[1]
    maps = 3 * 4 * item
    assert [(op.bytes_fixed, op.bytes_each) for op in unit.forward] == [(4 * 3 * item, 2 * maps)]
    # Reads scale and both statistics, writes the gradients of scale and shift; reads input and gradient, writes one.
    assert [(op.bytes_fixed, op.bytes_each) for op in unit.backward] == [(5 * 3 * item, 3 * maps)]
    assert (unit.retained.between, unit.retained.keeps_input, unit.retained.keeps_output) == (Line(), True, False)
    assert (unit.trainable, unit.state_bytes) == (6, 12 * item + 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMED)
def test_it_costs_the_same_on_meta_and_keeps_what_autograd_keeps(name: str) -> None:
    """The CPU keeps no mean and deviation of the batch, and so does nobody."""
    model = network(name, "frozen_bn")
    assert measure(model) == measure(network(name, "frozen_bn", device="meta"))
    check(model, 3, range(1, len(model), 3))


# -------------------------------------------------------------------------------------------- narrowing


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMED)
def test_a_narrowed_unit_keeps_its_norm(name: str) -> None:
    """In every family: as many as before, of the same kind, and it still trains without changing a statistic."""
    model = network(name, "frozen_bn")
    z = batch_for(model, 2)
    for unit in list(model)[:-2]:
        small, _ = narrow(unit, 0.5)
        kinds = [type(m) for m in small.modules() if isinstance(m, nn.BatchNorm2d)]
        assert set(kinds) == {FrozenBatchNorm}
        assert len(kinds) >= sum(isinstance(m, FrozenBatchNorm) for m in unit.modules())
        before = statistics(small)
        small(z).sum().backward()
        assert all(tensor.equal(before[n]) for n, tensor in small.named_buffers())
        z = unit(z).detach()


def test_a_narrowed_shortcut_keeps_its_norm() -> None:
    """fedsim's own residual block makes its norms by name."""
    block, widths = narrow(ResidualBlock(8, 8, 1, "frozen_bn"), 0.5)
    assert isinstance(block, ResidualBlock)
    assert widths == Widths(8, 4)
    assert (type(block.norm1), type(block.norm2)) == (FrozenBatchNorm, FrozenBatchNorm)
