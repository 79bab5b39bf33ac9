"""Training steps of a network, timed as a run takes them: the blocks, layouts and optimizers of `learning`.

Knows nothing of profiles and fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from fedsim.calibration.networks import TYPICAL, Network
from fedsim.calibration.observations import Observation, Part
from fedsim.calibration.targets import Target
from fedsim.calibration.timing import Clock, Lap, Patience, first, repeated
from fedsim.costs import Cost, Phase
from fedsim.learning.blocks import Block, Stepper
from fedsim.learning.optimizers import AdamW, Optimizer, Sgd, Training
from fedsim.learning.plan import MODEL, BlockPlan
from fedsim.models.counting import measure
from fedsim.models.measure import ModelMeasure
from fedsim.models.units import UnitList

HEAVY: Final = 2_000_000
"""Parameters above which a network is counted on the `meta` device, which is then faster."""

PLAIN: Final = "sgd"
OPTIMIZERS: Final[dict[str, Optimizer]] = {
    PLAIN: Sgd(lr=1e-3),
    "sgd with momentum": Sgd(lr=1e-3, momentum=0.9),
    "adamw": AdamW(lr=1e-5),
}
"""By the names that reports give them; plain SGD takes the steps at every batch size, the others at one only."""


@dataclass(frozen=True, slots=True)
class Trainee:
    """A network in the memory of a processor, and its optimizer."""

    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    step: Callable[[], None]


def observations(
    network: Network, batches: Sequence[int], target: Target, patience: Patience, clock: Clock
) -> Iterator[Observation]:
    """Times of a network's training steps at each batch size, smallest first; sizes that take too long are left out."""
    model = network.build("cpu")
    counted = measure(network.build("meta" if sum(p.numel() for p in model.parameters()) > HEAVY else "cpu"))
    a_sample = 0.0
    for batch in sorted(batches):
        if not patience.allows(a_sample * batch / 2):  # weights and overheads do not grow with the batch
            return
        for name in OPTIMIZERS if batch == min(TYPICAL) else [PLAIN]:
            plan = plan_of(counted, batch, OPTIMIZERS[name])
            lap = steps(_trainee(model, plan, target), *_samples(model, batch, target), target, clock)
            took = first(lap, clock)
            if not patience.allows(took):
                return
            a_sample = took / batch
            for part, timing in zip(Part, repeated(lap, patience, clock), strict=True):
                if name == PLAIN or part is Part.OPTIMIZER:
                    yield Observation(
                        network.name,
                        batch,
                        part,
                        name,
                        costs(plan, batch)[part],
                        timing.seconds,
                        timing.scatter,
                        timing.repeats,
                    )


def plan_of(model: ModelMeasure, batch: int, optimizer: Optimizer) -> BlockPlan:
    """The whole model as a run would train it."""
    return BlockPlan(MODEL, model, 0, len(model.units), Training(batch=batch, optimizer=optimizer))


def costs(plan: BlockPlan, batch: int) -> dict[Part, Cost]:
    """What each part of a training step costs, as a run charges for it."""
    step = plan.train_part(batch).cost
    gradients = tuple(operator for operator in step.operators if operator.phase is not Phase.OPTIMIZER)
    optimizer = tuple(operator for operator in step.operators if operator.phase is Phase.OPTIMIZER)
    return {
        Part.FORWARD: plan.forward_part(batch).cost,
        Part.GRADIENTS: Cost(gradients, step.batch, step.model),
        Part.OPTIMIZER: Cost(optimizer, step.batch, step.model),
    }


def steps(trainee: Trainee, x: Tensor, y: Tensor, target: Target, clock: Clock) -> Lap:
    """A lap that takes a training step and times its parts, in the order of `Part`."""

    def lap() -> tuple[float, float, float]:
        began = clock()
        z = trainee.module(x)
        target.wait()
        forward = clock()
        trainee.loss(z, y).backward()
        target.wait()
        backward = clock()
        trainee.step()
        target.wait()
        return forward - began, backward - began, clock() - backward

    return lap


def _trainee(model: UnitList, plan: BlockPlan, target: Target) -> Trainee:
    """The model with fresh optimizer state, in memory as `learning.Host` lays it out."""
    if target.processor == "cpu":
        block = Block(plan, model)
        instance = block.acquire()
        instance.load(block.initial)
        return Trainee(block.bind(instance), model.loss, instance.step)
    module: nn.Module = model.to(target.device)
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return Trainee(module, model.loss, Stepper(plan.training.optimizer, list(module.parameters())).step)


def _samples(model: UnitList, batch: int, target: Target) -> tuple[Tensor, Tensor]:
    """Random samples and labels, laid out as `learning.TensorSamples` does."""
    generator = torch.Generator().manual_seed(batch)
    if model.tokens:
        x = torch.randint(model.classes, (batch, *model.input), generator=generator)
        y = torch.randint(model.classes, (batch, *model.input), generator=generator)
    else:
        x = torch.randn((batch, *model.input), generator=generator)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        y = torch.randint(model.classes, (batch,), generator=generator)
    return x.to(target.device), y.to(target.device)
