"""PiPar's profiler: how many micro-batches, and where to cut, from the cost model.

Zhang et al., arXiv 2302.12803, and the authors' code. It plans for the slowest device, alone on the network: one cut
and one number for all. Times are those of micro-batches as they are computed and sent, where the paper takes an M-th of
the whole batch's: kernels and messages have costs that do not shrink with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.experiment.forecast import Ends
from fedsim.hardware.pricing import seconds
from fedsim.learning.optimizers import Training
from fedsim.learning.plan import DEVICE, SERVER_BLOCK, BlockPlan, plans
from fedsim.models.measure import ModelMeasure
from fedsim.simulation import ENVELOPE_BYTES

MOST: Final = 100
"""Micro-batches of a batch, at most: the authors' limit."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of one micro-batch on a device, on the link, on the server, on the link and on the device again.

    `lag` passes before a message begins to flow. The last micro-batch brings the optimizers' steps with it, which
    `server_step` and `device_step` take.
    """

    forward: float
    up: float
    server: float
    down: float
    backward: float
    server_step: float
    device_step: float
    lag: float

    def pipeline(self, micro_batches: int) -> float:
        """Seconds of a batch: each stage of a micro-batch follows the one before and the last one on the same resource.

        The device computes all forwards, then all backwards in order.
        """
        computed = uploaded = served = downloaded = 0.0
        arrivals = []
        for i in range(micro_batches):
            computed += self.forward
            uploaded = max(computed + self.lag, uploaded) + self.up
            served = max(uploaded, served) + self.server + (self.server_step if i == micro_batches - 1 else 0.0)
            downloaded = max(served + self.lag, downloaded) + self.down
            arrivals.append(downloaded)
        done = computed
        for arrived in arrivals:
            done = max(done, arrived) + self.backward
        return done + self.device_step


def stages(group: Group, fleet: Fleet, blocks: dict[str, BlockPlan], size: int, efficiency: float) -> Stages:
    """The stages of micro-batches of `size` samples on a device of `group`."""
    device, server = blocks[DEVICE], blocks[SERVER_BLOCK]
    link = Ends(group.link, fleet.server_link, efficiency)
    up = device.activations(size).nbytes + device.labels(size).nbytes + ENVELOPE_BYTES
    down = server.gradients(size).nbytes + ENVELOPE_BYTES
    served = seconds(fleet.server, server.gradient_part(size).cost)
    backward = seconds(group.machine, device.backward_part(size, step=False).cost)
    return Stages(
        forward=seconds(group.machine, device.forward_part(size).cost),
        up=link.up(up) - link.lag,
        server=served,
        down=link.down(down) - link.lag,
        backward=backward,
        server_step=seconds(fleet.server, server.train_part(size).cost) - served,
        device_step=seconds(group.machine, device.backward_part(size).cost) - backward,
        lag=link.lag,
    )


def micro_batches(whole: Stages, batch: int) -> int:
    """M for a batch whose stages as one are `whole`: enough to hide what passes between forward and backward.

    M ← min(⌈(up + server + down)/min(forward, backward)⌉ + 1, ⌊B/2⌋, 100), then ⌊B/⌊B/M⌋⌋.
    """
    between = whole.up + whole.server + whole.down + 2 * whole.lag
    least = min(whole.forward, whole.backward)
    wanted = math.ceil(between / least) + 1 if least else MOST
    most = max(1, min(wanted, batch // 2, MOST))
    return batch // (batch // most)


@dataclass(frozen=True, slots=True)
class Plan:
    """A cut with its number of micro-batches, and the seconds of a batch on the slowest device."""

    cut: int
    micro_batches: int
    seconds: float


def profile(
    fleet: Fleet,
    model: ModelMeasure,
    training: Training,
    efficiency: float,
    cuts: Iterable[int],
    given: int | None = None,
) -> Plan:
    """The cut and the number of micro-batches (or the one that is `given`) of least time; of equals the first cut."""
    batch, found = training.batch, []
    for cut in cuts:
        blocks = plans(model, cut, training)
        slowest = Plan(cut, 1, 0.0)
        for group in fleet.groups:
            number = given or micro_batches(stages(group, fleet, blocks, batch, efficiency), batch)
            size = max(1, batch // number)
            taken = stages(group, fleet, blocks, size, efficiency).pipeline(batch // size)
            if taken > slowest.seconds:
                slowest = Plan(cut, number, taken)
        found.append(slowest)
    return min(found, key=lambda plan: (plan.seconds, plan.cut))


def is_profiled(scheduler: Any) -> bool:
    """Whether a scheduler trains in micro-batches, whose number and cut a profiler may choose."""
    return hasattr(scheduler, "micro_batches")


def planned(assembly: Assembly) -> Assembly:
    """The same run with `micro_batches: auto` resolved, where the scheduler has such an option."""
    scheduler: Any = assembly.scheduler
    if not is_profiled(scheduler) or scheduler.micro_batches != "auto":
        return assembly
    assert assembly.cut is not None
    efficiency = assembly.network.efficiency
    plan = profile(assembly.fleet, assembly.model, assembly.training, efficiency, [assembly.cut])
    return replace(assembly, scheduler=replace(scheduler, micro_batches=plan.micro_batches))
