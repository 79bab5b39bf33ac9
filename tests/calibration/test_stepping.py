"""Training steps of networks: the same as a run's, their parts told apart by the clock, priced by what they cost."""

from __future__ import annotations

import pytest
import torch
from numpy import arange, int64
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.calibration import stepping
from fedsim.calibration.networks import NETWORKS, Network
from fedsim.calibration.observations import Observation, Part
from fedsim.calibration.stepping import OPTIMIZERS, costs, observations, plan_of, steps
from fedsim.calibration.targets import Target, target
from fedsim.calibration.timing import Patience
from fedsim.costs import Phase
from fedsim.learning.host import Host
from fedsim.learning.learners import Batch
from fedsim.learning.plan import MODEL, plans
from fedsim.models.counting import measure
from fedsim.models.options import Mlp, Plain, TextTransformer
from fedsim.script import Command
from tests.calibration.test_rates import Ticks

SMALL = Network("mlp", Mlp(hidden=[8]), (6,), 4, "vector")
CPU = target("cpu")


class Same:
    """The samples that a calibration makes up, as the data of a run."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def shard(self, node: int) -> NDArray[int64]:
        """All of them."""
        return arange(len(self.x) * (node + 1))

    def train(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """All of them, whichever are asked for."""
        assert len(indices) == len(self.x)
        return self.x, self.y

    def labels(self, indices: Tensor) -> Tensor:
        """Never asked for here."""
        raise NotImplementedError

    def held_out(self, split: str, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Never asked for here."""
        raise NotImplementedError

    def held_out_size(self, split: str) -> int:
        """Never asked for here."""
        raise NotImplementedError


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "network",
    [
        Network("vgg5", Plain(), (3, 8, 8), 4),
        Network("transformer", TextTransformer(blocks=1, width=8, heads=2), (5,), 11, "text"),
    ],
    ids=lambda network: network.name,
)
def test_the_timed_steps_are_those_of_a_run(network: Network, optimizer: str) -> None:
    """Three laps leave the weights that `learning.Host` has after three training steps, to the bit."""
    model = network.build("cpu")
    plan = plan_of(measure(model), 6, OPTIMIZERS[optimizer])
    samples = stepping._samples(model, 6, CPU)
    lap = steps(trainee := stepping._trainee(model, plan, CPU), *samples, CPU, Ticks())
    for _ in range(3):
        lap()
    timed = {name: tensor.clone() for name, tensor in trainee.module.state_dict().items()}

    host = Host(network.build("cpu"), plans(plan.model, None, plan.training), Same(*samples), seed=0)
    host.run(Command(0, 1, "open", (MODEL,), None))
    host.run(Command(0, 1, "train", (tuple(Batch(epoch, 0, 6) for epoch in range(3)),), None))
    run = host.core.weights(0, 1).named()
    assert timed.keys() == run.keys()
    assert all(torch.equal(timed[name], run[name]) for name in run)
    assert all(timed[name].stride() == run[name].stride() for name in run)


def test_the_parts_of_a_lap() -> None:
    """The clock is read before, after the forward, after the backward and at the end: 1, 2 and 1 ticks."""
    model = SMALL.build("cpu")
    plan = plan_of(measure(model), 4, OPTIMIZERS["sgd"])
    lap = steps(stepping._trainee(model, plan, CPU), *stepping._samples(model, 4, CPU), CPU, Ticks())
    assert lap() == (1.0, 2.0, 1.0)


def test_a_gpu_is_waited_for_after_each_part() -> None:
    """Three times a lap, always before the clock is read."""
    model = SMALL.build("cpu")
    plan = plan_of(measure(model), 4, OPTIMIZERS["sgd"])
    waited: list[int] = []
    slow = Target("gpu", torch.device("cpu"), lambda: waited.append(1))
    lap = steps(stepping._trainee(model, plan, slow), *stepping._samples(model, 4, slow), slow, Ticks())
    assert lap() == (1.0, 2.0, 1.0)
    assert len(waited) == 3


def test_away_from_the_cpu_weights_are_laid_out_alike() -> None:
    """Convolutions with the channels innermost, as images are; a step changes every parameter."""
    network = Network("vgg5", Plain(), (3, 8, 8), 4)
    model = network.build("cpu")
    plan = plan_of(measure(model), 4, OPTIMIZERS["adamw"])
    elsewhere = Target("gpu", torch.device("cpu"), lambda: None)
    trainee = stepping._trainee(model, plan, elsewhere)
    weights = [module.weight for module in trainee.module.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    before = [parameter.detach().clone() for parameter in trainee.module.parameters()]
    steps(trainee, *stepping._samples(model, 4, elsewhere), elsewhere, Ticks())()
    assert all(not torch.equal(a, b) for a, b in zip(before, trainee.module.parameters(), strict=True))


def test_parts_cost_what_a_run_charges() -> None:
    """Forward alone; with loss and backward; the optimizer: the latter two are the whole step, operator by operator."""
    plan = plan_of(measure(SMALL.build("cpu")), 8, OPTIMIZERS["adamw"])
    found = costs(plan, 8)
    assert found[Part.FORWARD] is plan.forward_part(8).cost
    step = plan.train_part(8).cost
    assert found[Part.GRADIENTS].operators + found[Part.OPTIMIZER].operators == step.operators
    assert {op.phase for op in found[Part.OPTIMIZER].operators} == {Phase.OPTIMIZER}
    assert {cost.batch for cost in found.values()} == {8}


def seen(network: Network, batches: list[int], patience: Patience, clock: Ticks) -> list[Observation]:
    """What a network is observed at."""
    return list(observations(network, batches, CPU, patience, clock))


def test_every_batch_size_and_every_optimizer_once() -> None:
    """Three parts at each size with plain SGD; the step of the others at batch 8, since it does not depend on it."""
    found = seen(SMALL, [32, 1, 8], Patience(most=3, least=2, longest=1e9), Ticks())
    plain = [(o.batch, o.part) for o in found if o.optimizer == "sgd"]
    assert plain == [(batch, part) for batch in (1, 8, 32) for part in Part]
    others = [(o.batch, o.part, o.optimizer) for o in found if o.optimizer != "sgd"]
    assert others == [(8, Part.OPTIMIZER, "sgd with momentum"), (8, Part.OPTIMIZER, "adamw")]
    assert {o.seconds for o in found if o.part is Part.GRADIENTS} == {2.0}
    assert all((o.network, o.scatter) == ("mlp", 0.0) for o in found)
    assert [len(o.cost.operators) for o in found if o.part is Part.OPTIMIZER] == [1, 1, 3, 8, 1]


def test_batches_that_take_too_long_are_left_out() -> None:
    """A lap takes 5 ticks by this clock: allowed at batch 1, and half of 32 times that is too long to be tried."""
    found = seen(SMALL, [1, 32], Patience(most=3, least=3, longest=3 * 5.0), Ticks())
    assert {o.batch for o in found} == {1}


def test_a_network_that_is_too_slow_is_not_observed() -> None:
    """Its first lap says so, and there is no second one."""
    assert seen(SMALL, [1, 32], Patience(least=3, longest=3 * 4.9), Ticks()) == []


@pytest.mark.slow
def test_real_times_are_of_the_right_order() -> None:
    """By the real clock: a step of a small network takes between a microsecond and a second, its forward less."""
    import time

    network = NETWORKS["mlp"]
    found = list(observations(network, [8], CPU, Patience(most=5), time.perf_counter))
    seconds = {o.part: o.seconds for o in found if o.optimizer == "sgd"}
    assert 1e-6 < seconds[Part.FORWARD] < seconds[Part.GRADIENTS] < 1.0
