"""What FedAvg and SplitFed learn: weighted means, centralised training at K=1, and each other's result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim import seeds
from fedsim.learning.host import Host
from fedsim.learning.learners import Batch
from fedsim.learning.plan import MODEL
from fedsim.learning.samples import TensorSamples
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import Command, Payload, Purpose
from fedsim.simulation import Inline
from fedsim.testing import _network, _shards, simulate, toy, toy_data


def locally_trained(device: int, epochs: int, devices: int = 4) -> dict[str, Tensor]:
    """The initial network after whole passes over one device's data, without any federation."""
    assembly = toy(FedAvg(), devices=devices)
    plan = assembly.blocks()[MODEL]
    host = Host(_network(), {MODEL: plan}, TensorSamples(toy_data(), _shards(devices)), assembly.seed)
    host.run(Command(device, 1, "open", (MODEL,)))
    held = int(assembly.samples[device])
    for epoch in range(epochs):
        steps = tuple(Batch(epoch, start, min(8, held - start)) for start in range(0, held, 8))
        host.run(Command(device, 1, "train", (steps,)))
    out = Payload(device, 1, plan.weights)
    host.run(Command(device, 1, "weights", output=out))
    return {name: tensor.clone() for name, tensor in host.model_tensors((out,)).items()}


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_fedavg_averages_what_each_device_learnt(weighting: Any) -> None:
    """After one round w = Σ n_k/n · w_k, or the plain mean; each w_k as if it had been trained alone."""
    assembly = toy(FedAvg(weighting=weighting), rounds=1)
    outcome = simulate(assembly)
    assert outcome.weights is not None
    shares = assembly.samples / assembly.samples.sum() if weighting == "samples" else [1 / 4] * 4
    alone = [locally_trained(k, 1) for k in range(4)]
    for name, tensor in outcome.weights.items():
        mean = sum(float(share) * model[name].double() for share, model in zip(shares, alone, strict=True))
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)


def test_fedavg_of_one_device_is_centralised_training() -> None:
    """Oracle 1: K=1 is plain SGD over the same batches, to the bit."""
    outcome = simulate(toy(FedAvg(local_epochs=3, weighting="uniform"), devices=1, rounds=1))
    assert outcome.weights is not None
    expected = locally_trained(0, 3, devices=1)
    assert all(tensor.equal(expected[name]) for name, tensor in outcome.weights.items())


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("local", [{"local_steps": 3}, {"local_epochs": 2}], ids=str)
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_splitfed_learns_what_fedavg_learns(devices: int, local: dict[str, Any], weighting: Any) -> None:
    """Oracle 2: cutting the model changes the schedule, not the mathematics."""
    whole = simulate(toy(FedAvg(weighting=weighting, **local), devices=devices, rounds=3)).weights
    split = simulate(toy(SplitFed(weighting=weighting, **local), devices=devices, rounds=3)).weights
    assert whole is not None
    assert split is not None
    assert whole.keys() == split.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(split[name], tensor, rtol=1e-5, atol=1e-6)


def test_batches_come_from_seed_device_and_pass_alone() -> None:
    """Steps go on where the last round ended: two rounds of three steps train the batches of one round of six."""
    three = simulate(toy(FedAvg(local_steps=3, weighting="uniform"), devices=1, rounds=2)).weights
    six = simulate(toy(FedAvg(local_steps=6, weighting="uniform"), devices=1, rounds=1)).weights
    assert three is not None
    assert six is not None
    assert all(tensor.equal(six[name]) for name, tensor in three.items())
    assert seeds.generator(11, 0, "batches", 0).random() != seeds.generator(11, 1, "batches", 0).random()


@pytest.mark.parametrize("options", [{"local_steps": 0}, {"local_epochs": 0}, {"local_steps": -1}], ids=str)
@pytest.mark.parametrize("kind", [FedAvg, SplitFed])
def test_a_round_without_training_is_refused(kind: Any, options: dict[str, int]) -> None:
    """Counts start at one."""
    with pytest.raises(ValueError, match=r"local_(steps|epochs) -?\d must be 1 or more"):
        kind(**options)


def test_a_device_that_waits_for_its_next_round_keeps_no_activations() -> None:
    """Else memory would grow with every device that was ever chosen: only the server's last batch may be there."""
    assembly = toy(SplitFed(), rounds=3)
    blocks = assembly.blocks()
    host = Host(_network(), blocks, TensorSamples(toy_data(), _shards(4)), assembly.seed)
    held: list[tuple[int, int]] = []

    def observe(name: str, _value: float) -> None:
        if name == "round.close":
            held.append((host.held(Purpose.ACTIVATIONS), host.held(Purpose.GRADIENTS)))

    assembly.simulation(Inline(host), blocks=blocks, observe=observe).run()
    assert len(held) == 3
    assert all(activations <= 1 and gradients <= 1 for activations, gradients in held)
