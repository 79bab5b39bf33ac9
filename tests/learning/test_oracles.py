"""Whole runs against plain PyTorch loops that know nothing of fedsim but the order of its random numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim import seeds
from fedsim.learning.optimizers import AdamW, Sgd
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER
from tests.learning.toys import SEED, Federation, bits, furthest

ROUNDS = 5


def optimizer_of(options: Any, model: nn.Module) -> torch.optim.Optimizer:
    """The plain form of an optimizer."""
    if isinstance(options, Sgd):
        return torch.optim.SGD(
            model.parameters(),
            lr=options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            foreach=False,
        )
    return torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay, foreach=False)


def batches(size: int, batch: int, device: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch of a device, as positions in its shard."""
    order = seeds.generator(SEED, device, "batches", epoch).permutation(size)
    return [order[i : i + batch] for i in range(0, size, batch)]


def weighted_mean(members: list[tuple[dict[str, Tensor], int]]) -> dict[str, Tensor]:
    """Runs of a tenth, at most eight, from left to right, then the runs in order, then the division; whole numbers: the
    largest.
    """
    sums: list[dict[str, Tensor]] = []
    length = min(8, math.ceil(len(members) / 10))
    for i, (state, n) in enumerate(members):
        if i % length == 0:
            sums.append({k: v * n if v.is_floating_point() else v.clone() for k, v in state.items()})
            continue
        for k, v in state.items():
            if v.is_floating_point():
                sums[-1][k].add_(v, alpha=n)
            else:
                sums[-1][k] = torch.maximum(sums[-1][k], v)
    total = sums[0]
    for other in sums[1:]:
        for k, v in other.items():
            total[k] = total[k] + v if v.is_floating_point() else torch.maximum(total[k], v)
    samples = sum(n for _, n in members)
    return {k: v / samples if v.is_floating_point() else v for k, v in total.items()}


def plain_fedavg(
    what: Federation, *, rounds: int, participants: int | None = None, uniform: bool = False
) -> dict[str, Tensor]:
    """Federated averaging with one model and dictionaries."""
    model, data, shards = nn.Sequential(*what.network()), what.data(), what.shards()
    names = list(what.network().state_dict())
    x = torch.tensor(data.train.inputs, dtype=getattr(torch, what.dtype))
    y = torch.tensor(data.train.labels)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    rng = seeds.generator(SEED, SERVER, "selection")
    epochs = dict.fromkeys(range(len(shards)), 0)
    kept: dict[int, Any] = {}
    for _ in range(rounds):
        chosen: list[int] = list(range(len(shards)))
        if participants is not None and participants < len(shards):
            chosen = sorted(rng.choice(len(shards), size=participants, replace=False).tolist())
        members = []
        for k in chosen:
            model.load_state_dict(weights)
            optimizer = optimizer_of(what.optimizer, model)
            if k in kept:
                optimizer.load_state_dict(kept[k])
            for batch in batches(len(shards[k]), what.batch, k, epochs[k]):
                rows = torch.from_numpy(shards[k][batch])
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            epochs[k] += 1
            if what.keep:
                kept[k] = optimizer.state_dict()
            state = {n: v.clone() for n, v in model.state_dict().items()}
            members.append((state, 1 if uniform else len(shards[k])))
        weights = weighted_mean(members)
    return dict(zip(names, weights.values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("participants", [None, 2])
def test_fedavg_equals_a_plain_loop(participants: int | None) -> None:
    """With unequal shards, sampling and batch norm's buffers, to 1e-9 in float64."""
    what = Federation()
    ours = what.run(FedAvg(), rounds=ROUNDS, participants=participants)
    assert furthest(ours, plain_fedavg(what, rounds=ROUNDS, participants=participants)) < 1e-9
    assert {str(t.dtype) for t in ours.values()} == {"torch.float64", "torch.int64"}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.05), Sgd(lr=0.02, momentum=0.9, weight_decay=0.01), AdamW(lr=0.002)])
def test_fedavg_has_the_bits_of_a_plain_loop(optimizer: Any) -> None:
    """In float32 and the default memory format, with eleven devices and so six runs of the sum."""
    what = Federation(sizes=(12, 5, 9, 16, 7, 8, 3, 11, 6, 10, 4), dtype="float32", optimizer=optimizer)
    assert bits(what.run(FedAvg(), rounds=3)) == bits(plain_fedavg(what, rounds=3))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.02, momentum=0.9), AdamW(lr=0.002)])
@pytest.mark.parametrize("keep", [False, True])
def test_optimizer_state_is_reset_or_kept_on_its_device(optimizer: Any, keep: bool) -> None:
    """Kept state belongs to a device and survives rounds it sits out, whoever used the same memory meanwhile."""
    what = Federation(optimizer=optimizer, keep=keep)
    ours = what.run(FedAvg(), rounds=ROUNDS, participants=2)
    assert furthest(ours, plain_fedavg(what, rounds=ROUNDS, participants=2)) < 1e-9
    other = dataclasses.replace(what, keep=not keep)
    assert furthest(ours, plain_fedavg(other, rounds=ROUNDS, participants=2)) > 1e-4


def test_uniform_weights_count_devices() -> None:
    """`weighting: uniform` gives every device the same weight."""
    what = Federation(sizes=(8, 3, 12))
    ours = what.run(FedAvg(weighting="uniform"), rounds=2)
    assert furthest(ours, plain_fedavg(what, rounds=2, uniform=True)) < 1e-9


def centralised(what: Federation, *, epochs: int) -> dict[str, Tensor]:
    """Ordinary training on the first device's data, one optimizer for all of it."""
    model, data, shard = what.network(), what.data(), what.shards()[0]
    x = torch.tensor(data.train.inputs, dtype=getattr(torch, what.dtype))
    y = torch.tensor(data.train.labels)
    optimizer = optimizer_of(what.optimizer, model)
    for epoch in range(epochs):
        for batch in batches(len(shard), what.batch, 0, epoch):
            rows = torch.from_numpy(shard[batch])
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return dict(model.state_dict())


ALONE = Federation(sizes=(32,), dtype="float32")
"""One device whose number of samples is a power of two, so that averaging one model changes no bit."""


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [FedAvg(), SplitFed()])
def test_one_device_is_centralised_sgd(scheduler: Any) -> None:
    """Bitwise, over several rounds, with batch norm, whether the model is cut or not."""
    assert bits(ALONE.run(scheduler, rounds=3)) == bits(centralised(ALONE, epochs=3))


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [FedAvg(local_epochs=2), SplitFed(local_epochs=2)])
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.02, momentum=0.9), AdamW(lr=0.002)])
def test_one_round_of_one_device_is_centralised_training_with_any_optimizer(scheduler: Any, optimizer: Any) -> None:
    """An optimizer lives for a whole round, on the device and on the server's copy: not for a batch."""
    what = dataclasses.replace(ALONE, optimizer=optimizer)
    assert bits(what.run(scheduler, rounds=1)) == bits(centralised(what, epochs=2))


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_splitfed_is_fedavg_on_the_joined_model(cut: int) -> None:
    """Cutting changes the schedule, not the mathematics: several devices, any cut, batch norm included."""
    what = Federation(optimizer=Sgd(lr=0.05, momentum=0.5), cut=cut)
    split = what.run(SplitFed(), rounds=3, participants=3)
    assert furthest(split, what.run(FedAvg(), rounds=3, participants=3)) < 1e-9
    assert furthest(split, plain_fedavg(what, rounds=3, participants=3)) < 1e-9


@pytest.mark.slow
def test_splitfed_with_group_norm_and_channels_last_is_fedavg_too() -> None:
    """Group norm and the channels-last layout change nothing of that."""
    what = Federation(norm="gn", channels_last=True)
    assert furthest(what.run(SplitFed(), rounds=3), plain_fedavg(what, rounds=3)) < 1e-9


@pytest.mark.slow
def test_steps_that_do_not_fill_an_epoch_go_on_where_they_ended() -> None:
    """With `local_steps` the order runs on through the epochs, for FedAvg as for SplitFed."""
    what = Federation(sizes=(20, 7), batch=8)
    ours = what.run(FedAvg(local_steps=2), rounds=3)
    assert furthest(ours, what.run(SplitFed(local_steps=2), rounds=3)) < 1e-9

    model, data, shards = what.network(), what.data(), what.shards()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    streams = [[b for epoch in range(9) for b in batches(n, what.batch, k, epoch)] for k, n in enumerate((20, 7))]
    for t in range(3):
        members = []
        for k, stream in enumerate(streams):
            model.load_state_dict(weights)
            optimizer = optimizer_of(what.optimizer, model)
            for batch in stream[2 * t : 2 * t + 2]:
                rows = torch.from_numpy(shards[k][batch]).numpy()
                optimizer.zero_grad()
                x = torch.tensor(data.train.inputs[rows], dtype=torch.float64)
                nn.functional.cross_entropy(model(x), torch.tensor(data.train.labels[rows])).backward()
                optimizer.step()
            members.append(({n: v.clone() for n, v in model.state_dict().items()}, len(shards[k])))
        weights = weighted_mean(members)
    assert furthest(ours, weights) < 1e-9
