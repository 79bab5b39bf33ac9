"""Learning rates that go with the round: their values, and that steps are taken at them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from fedsim import seeds
from fedsim.learning.optimizers import AdamW, Schedule, Sgd
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import Command
from tests.learning.toys import MLP, SEED, Bench, Federation, bits

LR, WARMUP = 0.3, 4
STEP = Schedule(kind="step", factor=0.5, every=3)
EXPONENTIAL = Schedule(kind="exponential", factor=0.9)
COSINE = Schedule(kind="cosine", rounds=12, floor=0.02)


def theirs(schedule: Schedule, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """PyTorch's scheduler of the same kind, without floor and warm-up where it has none."""
    match schedule.kind:
        case "step":
            assert schedule.factor is not None
            assert schedule.every is not None
            return lr_scheduler.StepLR(optimizer, schedule.every, schedule.factor)
        case "exponential":
            assert schedule.factor is not None
            return lr_scheduler.ExponentialLR(optimizer, schedule.factor)
        case "cosine":
            assert schedule.rounds is not None
            return lr_scheduler.CosineAnnealingLR(optimizer, schedule.rounds, schedule.floor)
        case "constant":
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def rates(schedule: Schedule, rounds: int, *, warmup: int = 0) -> list[float]:
    """The rates of PyTorch's scheduler, behind a linear warm-up if there is one."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    found = theirs(schedule, optimizer)
    if warmup:
        rising = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        found = lr_scheduler.SequentialLR(optimizer, [rising, theirs(schedule, optimizer)], [warmup])
    made = []
    for _ in range(rounds):
        made.append(float(found.get_last_lr()[0]))
        optimizer.step()
        found.step()
    return made


@pytest.mark.parametrize("schedule", [Schedule(), STEP, EXPONENTIAL, COSINE])
def test_rates_are_those_of_pytorch_s_schedulers(schedule: Schedule) -> None:
    """Round by round; the first round is at the optimizer's own rate, to the bit."""
    ours = [schedule.rate(LR, t) for t in range(13)]
    assert ours == pytest.approx(rates(schedule, 13), rel=1e-12)
    assert ours[0] == LR


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step()`:UserWarning")  # PyTorch's own use of it
@pytest.mark.parametrize("schedule", [Schedule(), STEP, EXPONENTIAL, COSINE])
def test_a_warm_up_comes_before_the_schedule(schedule: Schedule) -> None:
    """It rises in equal steps, and the schedule then begins at its own round 0."""
    warm = dataclasses.replace(schedule, warmup=WARMUP)
    ours = [warm.rate(LR, t) for t in range(12)]
    assert ours == pytest.approx(rates(schedule, 12, warmup=WARMUP), rel=1e-12)
    assert ours[:WARMUP] == pytest.approx([LR * k / 5 for k in (1, 2, 3, 4)])
    assert ours[WARMUP:] == [schedule.rate(LR, t) for t in range(12 - WARMUP)]


def test_no_rate_is_below_the_floor() -> None:
    """Falling schedules reach it and stay there, however long the run; a warm-up may begin below it."""
    for schedule in (
        Schedule(kind="exponential", factor=0.993, floor=0.005),
        Schedule(kind="step", factor=0.1, every=10, floor=0.005),
        Schedule(kind="cosine", rounds=500, floor=0.005),
    ):
        found = [schedule.rate(0.05, t) for t in range(2000)]
        assert found == sorted(found, reverse=True)
        assert (found[0], found[-1], min(found)) == (0.05, 0.005, 0.005)
    assert Schedule(kind="exponential", factor=0.993).rate(0.05, 10**9) == 0.0
    assert Schedule(kind="cosine", rounds=2, floor=0.03, warmup=9).rate(0.05, 0) == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "step", "factor": 0.5}, "kind step needs every; add it, as in 'every: 10'"),
        ({"kind": "exponential"}, "kind exponential needs factor; add it, as in 'factor: 0.99'"),
        ({"kind": "cosine"}, "kind cosine needs rounds; add it, as in 'rounds: 100'"),
        (
            {"kind": "cosine", "rounds": 5, "factor": 0.5},
            "factor is for kind step and exponential, not for cosine; leave it out",
        ),
        ({"rounds": 5}, "rounds is for kind cosine, not for constant; leave it out"),
        ({"kind": "exponential", "factor": 1.5}, "factor 1.5 must be above 0 and at most 1, such as 0.99"),
        ({"kind": "exponential", "factor": 0.0}, "factor 0.0 must be above 0 and at most 1"),
        ({"kind": "step", "factor": 0.5, "every": 0}, "every 0 must be 1 or more, such as 10"),
        ({"kind": "cosine", "rounds": 0}, "rounds 0 must be 1 or more"),
        ({"warmup": -1}, "warmup -1 must be 0 or more"),
        ({"kind": "cosine", "rounds": 5, "floor": -0.1}, "floor -0.1 must be 0 or more, such as 0.001"),
        ({"floor": 0.1}, "floor is for kinds that go down, not for constant; leave it out"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    """With what its kind takes."""
    with pytest.raises(ValueError, match=message):
        Schedule(**options)


def test_a_floor_above_the_rate_is_refused() -> None:
    """It would be a rate of its own."""
    with pytest.raises(ValueError, match=r"schedule\.floor 0\.1 must be at most lr 0\.05"):
        Sgd(lr=0.05, schedule=Schedule(kind="cosine", rounds=9, floor=0.1))


# ------------------------------------------------------------------------------------------------ steps


def scheduled_loop(what: Federation, schedule: Schedule, rounds: int) -> dict[str, Any]:
    """Ordinary training on the first device's data, with PyTorch's scheduler and a fresh optimizer a round."""
    model, data, shard = what.network(), what.data(), what.shards()[0]
    x, y = torch.tensor(data.train.inputs), torch.tensor(data.train.labels)
    for epoch, rate in enumerate(rates(schedule, rounds)):
        kind: Any = torch.optim.SGD if isinstance(what.optimizer, Sgd) else torch.optim.AdamW
        options = {"momentum": 0.9} if isinstance(what.optimizer, Sgd) else {}
        optimizer = kind(model.parameters(), lr=rate, foreach=False, **options)
        order = seeds.generator(SEED, 0, "batches", epoch).permutation(len(shard))
        for first in range(0, len(shard), what.batch):
            rows = torch.from_numpy(shard[order[first : first + what.batch]].astype(np.int64))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return dict(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [FedAvg(), SplitFed()])
@pytest.mark.parametrize("optimizer", [Sgd(lr=LR, momentum=0.9, schedule=STEP), AdamW(lr=LR, schedule=STEP)])
def test_devices_and_server_step_at_the_rate_of_the_round(scheduler: Any, optimizer: Any) -> None:
    """Bitwise, on the device and on the server's copy, with an optimizer that is fresh in each round."""
    what = Federation(sizes=(32,), dtype="float32", optimizer=optimizer)
    assert bits(what.run(scheduler, rounds=5)) == bits(scheduled_loop(what, STEP, 5))


def test_a_learner_keeps_to_its_own_round() -> None:
    """Instances are reused, their rates are not; a clone goes on at the rate of its original."""
    what = dataclasses.replace(MLP, optimizer=Sgd(lr=1.0, schedule=EXPONENTIAL))
    bench = what.bench()
    core = bench.host.core
    late, first = bench.learner(0), bench.learner(1)
    start = late.weights()
    for learner, round, rate in ((late, 7, 0.9**7), (first, None, 1.0), (late, 2, 0.9**2)):
        learner.load(start, round)
        instance = core.ready(learner._node.number, learner.number)[1]
        before = [p.detach().clone() for p in instance.parameters]
        for p in instance.parameters:
            p.grad = torch.ones_like(p)
        instance.step()
        for p, was in zip(instance.parameters, before, strict=True):
            torch.testing.assert_close(was - p, torch.full_like(p, rate))
        if round == 7:
            assert core.learners[0, late.clone().number].round == 7
        learner.close()


def recorded(bench: Bench) -> list[str]:
    """The commands of a learner that is loaded for a round and paced."""
    found: list[str] = []
    learner = bench.learner(0)
    weights = learner.weights()

    def note(command: Command) -> None:
        found.append(command.method)

    learner._node.port.command = note  # type: ignore[method-assign]
    learner.load(weights, 3)
    learner.pace(4)
    return found


def test_without_a_schedule_nothing_is_done_about_it() -> None:
    """No command more, and the bits of a constant one."""
    assert recorded(MLP.bench()) == ["load"]
    constant = dataclasses.replace(MLP, optimizer=Sgd(lr=0.05, schedule=Schedule()))
    assert recorded(constant.bench()) == ["load", "pace", "pace"]
    assert bits(MLP.run(FedAvg(), rounds=2)) == bits(constant.run(FedAvg(), rounds=2))
