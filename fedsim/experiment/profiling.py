"""PiPar's profiler: into how many micro-batches to cut a batch, and where to cut the model, from the cost model.

Zhang et al., arXiv 2302.12803, and the authors' code. It plans for the slowest device, alone on the network: one cut
and one number for all. Times are those of micro-batches as they are computed and sent, in whole nanoseconds, where the
paper takes an M-th of the whole batch's: kernels and messages have costs that do not shrink with them. The two
directions of a half-duplex link are taken for two links.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.pricing import nanoseconds
from fedsim.hardware.rounding import whole_nanoseconds
from fedsim.learning.optimizers import Training
from fedsim.learning.plan import DEVICE, SERVER_BLOCK, BlockPlan, plans
from fedsim.models.measure import ModelMeasure
from fedsim.network.routes import Route
from fedsim.network.sharing import share
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from fedsim.simulation import ENVELOPE_BYTES

MOST: Final = 100
"""Micro-batches of a batch, at most: the authors' limit."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Nanoseconds of one micro-batch on a device, on the link, on the server, on the link and on the device again.

    `lag_up` and `lag_down` pass before a message begins to flow. The last micro-batch brings the optimizers' steps with
    it and takes `server_last` and `backward_last`.
    """

    forward: int  # F
    up: int  # U
    server: int  # S
    down: int  # D
    backward: int  # B
    server_last: int
    backward_last: int
    lag_up: int = 0
    lag_down: int = 0

    def pipeline(self, micro_batches: int, *, background: bool = True) -> int:
        """Nanoseconds of a batch: the longest path through F_i → U_i → S_i → D_i → B_i.

        Each resource serves its stages in order, and a device is one processor: it computes all forwards, then all
        backwards. A device that does not send in the background computes the next forward when its activations have
        arrived.
        """
        computed = uploaded = served = downloaded = 0
        arrivals = []
        for i in range(micro_batches):
            computed = (computed if background else max(computed, uploaded)) + self.forward
            uploaded = max(computed + self.lag_up, uploaded) + self.up
            served = max(uploaded, served) + (self.server_last if i == micro_batches - 1 else self.server)
            downloaded = max(served + self.lag_down, downloaded) + self.down
            arrivals.append(downloaded)
        done = computed if background else max(computed, uploaded)
        for i, arrived in enumerate(arrivals):
            done = max(done, arrived) + (self.backward_last if i == micro_batches - 1 else self.backward)
        return done


def micro_batches(whole: Stages, batch: int) -> int:
    """M for a batch whose stages as one are `whole`: enough to hide what passes between forward and backward.

    M ← min(⌈(up + server + down)/min(forward, backward)⌉ + 1, ⌊B/2⌋, 100), then ⌊B/⌊B/M⌋⌋; 1 for a batch of one sample.
    """
    between = whole.lag_up + whole.up + whole.server + whole.lag_down + whole.down
    wanted = -(-between // min(whole.forward, whole.backward)) + 1
    return batch // (batch // max(1, min(wanted, batch // 2, MOST)))


@dataclass(frozen=True, slots=True)
class Plan:
    """A cut with its number of micro-batches, and the seconds of a batch on the slowest device."""

    cut: int
    micro_batches: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Profiler:
    """What a run is planned from."""

    model: ModelMeasure
    training: Training
    fleet: Fleet
    network: NetworkOptions = field(default_factory=NetworkOptions)
    access: Mapping[str, AccessPoint] = field(default_factory=dict)

    def stages(self, group: Group, blocks: Mapping[str, BlockPlan], size: int) -> Stages:
        """The stages of micro-batches of `size` samples on a device of `group`."""
        device, server = blocks[DEVICE], blocks[SERVER_BLOCK]
        up, down = self._routes(group)
        return Stages(
            forward=nanoseconds(group.machine, device.forward_part(size).cost),
            up=_flow(up, device.activations(size).nbytes + device.labels(size).nbytes),
            server=nanoseconds(self.fleet.server, server.gradient_part(size).cost),
            down=_flow(down, server.gradients(size).nbytes),
            backward=nanoseconds(group.machine, device.backward_part(size, step=False).cost),
            server_last=nanoseconds(self.fleet.server, server.train_part(size).cost),
            backward_last=nanoseconds(group.machine, device.backward_part(size).cost),
            lag_up=up.lag,
            lag_down=down.lag,
        )

    def _routes(self, group: Group) -> tuple[Route, Route]:
        """Of a device of `group` alone: to the server, and back."""
        alone = DeviceGroup(1, group.link, group.access)
        server = self.fleet.server_link
        up, down = (Route(alone, 0, way, server, self.network) for way in (True, False))
        share([(up, down)], [1], self.access, server, self.network)
        return up, down

    def plan(self, cut: int, scheduler: Any) -> Plan:
        """How `scheduler` would train with the model cut there; the number of micro-batches that it gives stands."""
        blocks, batch = plans(self.model, cut, self.training), self.training.batch
        slowest, longest = Plan(cut, 1, 0.0), 0
        for group in self.fleet.groups:
            given = scheduler.micro_batches
            number = micro_batches(self.stages(group, blocks, batch), batch) if given == "auto" else given
            size = max(1, batch // number)
            taken = self.stages(group, blocks, size).pipeline(batch // size, background=_in_background(scheduler))
            if taken > longest:
                slowest, longest = Plan(cut, number, taken / 1e9), taken
        return slowest

    def best(self, cuts: Iterable[int], scheduler: Any) -> Plan:
        """The plan of least time; the first of equal ones."""
        return min((self.plan(cut, scheduler) for cut in cuts), key=lambda plan: plan.seconds)

    def planned(self, scheduler: Any, cut: int | None) -> Any:
        """The scheduler with `micro_batches: auto` resolved; itself, where it has no such option."""
        if cut is None or not is_profiled(scheduler) or scheduler.micro_batches != "auto":
            return scheduler
        return replace(scheduler, micro_batches=self.plan(cut, scheduler).micro_batches)


def _flow(route: Route, payload: int) -> int:
    rate = route.pace or min(route.rate(0, 0), route.limit)
    return max(1, whole_nanoseconds((payload + ENVELOPE_BYTES) / rate))


def _in_background(scheduler: Any) -> bool:
    return bool(getattr(scheduler, "background", True))


def is_profiled(scheduler: Any) -> bool:
    """Whether a scheduler trains in micro-batches, whose number and cut a profiler may choose."""
    return hasattr(scheduler, "micro_batches")
