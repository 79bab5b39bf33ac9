"""The parts of a run put together: from objects, so that a scenario is only one way to get here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.experiment.fleet import Fleet
from fedsim.experiment.profiling import Profiler
from fedsim.hardware.traces.attendance import Attendance
from fedsim.learning.bundles import VARIANT, Bundle
from fedsim.learning.context import Device, Job, Server
from fedsim.learning.labelling import Labels
from fedsim.learning.optimizers import Training
from fedsim.learning.plan import BlockPlan, plans, variant_plan
from fedsim.models.generation import Decoding
from fedsim.models.measure import ModelMeasure
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from fedsim.payload.supports import WHOLE, Support
from fedsim.payload.windows import Windows
from fedsim.runtime.spans import Price
from fedsim.script import SERVER, Port
from fedsim.simulation import Fault, Limits, Shortage, Simulation, TimingOnly, Workers
from fedsim.trace import Trace

Script = Callable[[Any], Any]
"""Makes the coroutine of a node from its port."""


@dataclass(frozen=True, kw_only=True)
class Smaller:
    """What some groups of the fleet have in the place of the whole model."""

    model: ModelMeasure
    """It, measured; behind a cut it is like the whole model."""
    support: Support
    """What it has of the whole model."""
    groups: frozenset[int]
    """The groups of the fleet whose devices have it, by index."""
    windows: Windows | None = None
    """What it has round by round, where that moves; the support is that of the first."""
    decoding: Decoding | None = None
    """What it costs token by token, for schedulers that let it generate text."""


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """Everything that a run is made of, apart from who does the work.

    `samples` holds the number of training samples of each device. What a scheduler leaves open is settled when an
    assembly is made.
    """

    scheduler: Any
    model: ModelMeasure
    cut: int | None
    training: Training
    fleet: Fleet
    samples: NDArray[np.int64]
    participants: int
    rounds: int | None
    limits: Limits
    head: ModelMeasure | None = None
    """The auxiliary head, for schedulers that train devices by a local loss."""
    support: Support = WHOLE
    """What the model has of its parent, where it is a pruned one itself; its masks count."""
    variants: tuple[Smaller, ...] = ()
    """Pruned variants of the model; groups that none of them names have all of it."""
    apart: bool = False
    """Whether each variant is a model of its own, rather than a part of one; every group then has one."""
    pruning: Sequence[Mapping[str, Any]] = ()
    """How variants have come about, for the record."""
    deployment: Sequence[Mapping[str, Any]] = ()
    """What installing variants takes before the run, for the record: an entry a group of the fleet."""
    decoding: Decoding | None = None
    """What the model costs token by token, for schedulers that let it generate text."""
    labels: Labels | None = None
    """Who holds which labels, for schedulers that go by them."""
    need: int | None = None
    """Contributions that complete a round; None: all that were asked for."""
    window: float | None = None
    """Seconds after which a round ends with those that came; None: it has no such end."""
    seed: int = 0
    network: NetworkOptions = field(default_factory=NetworkOptions)
    access: Mapping[str, AccessPoint] = field(default_factory=dict)
    faults: Sequence[Fault] = ()
    shortage: Shortage = Shortage.REFUSE
    scenario: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheduler", self.profiler.planned(self.scheduler, self.cut))
        settled = getattr(self.scheduler, "settled", None)
        if settled is not None:
            object.__setattr__(self, "scheduler", settled(self.job()))

    @property
    def profiler(self) -> Profiler:
        """Whoever plans micro-batches."""
        return Profiler(
            model=self.model, training=self.training, fleet=self.fleet, network=self.network, access=self.access
        )

    def blocks(self) -> dict[str, BlockPlan]:
        """The blocks that the scheduler's learners hold, those of variants behind the whole model's."""
        cut = self.cut if self.scheduler.splits else None
        smaller = [
            variant_plan(
                *(number, variant.model, cut, self.training, self.head, variant.support, variant.decoding),
                apart=self.apart,
                windows=variant.windows,
            )
            for number, variant in enumerate(self.variants, 1)
        ]
        bundle = None
        if self.apart:
            counts = (sum(self.fleet.groups[group].count for group in variant.groups) for variant in self.variants)
            bundle = Bundle(tuple(smaller), tuple(counts))
        whole = plans(self.model, cut, self.training, self.head, self.support, self.decoding, bundle)
        return {**whole, **{plan.name: plan for plan in smaller}}

    def held(self, blocks: Mapping[str, BlockPlan]) -> list[BlockPlan]:
        """The block that the devices of each group hold, of these."""
        whole = next(iter(blocks.values()))
        smaller = [plan for name, plan in blocks.items() if VARIANT in name]
        found = [whole] * len(self.fleet.groups)
        for plan, variant in zip(smaller, self.variants, strict=True):
            for group in variant.groups:
                found[group] = plan
        return found

    def job(self, blocks: dict[str, BlockPlan] | None = None) -> Job:
        """What scripts may know; `blocks` are those of a host that is there already."""
        blocks = self.blocks() if blocks is None else blocks
        names = [plan.name if VARIANT in plan.name else None for plan in self.held(blocks)]
        return Job(
            seed=self.seed,
            plans=blocks,
            variant=(lambda device: names[self.fleet.group_of(device)]) if self.variants else None,
            samples=self.samples,
            participants=self.participants,
            need=self.need,
            window=self.window,
            rounds=self.rounds,
            batch=self.training.batch,
            drop_last=self.training.drop_last,
            labels=self.labels,
        )

    def simulation(
        self,
        workers: Workers | None = None,
        *,
        blocks: dict[str, BlockPlan] | None = None,
        price: Price | None = None,
        observe: Callable[[str, float], None] | None = None,
    ) -> Simulation:
        """A run on the virtual clock, ready to start; timing only, unless there are workers.

        Works take what the fleet's machines say, unless there is another price.
        """
        fleet = self.fleet
        server, device = self.scripts(blocks)
        trace = Trace(fleet.table(self.samples), dict(self.scenario))
        self.mark_deployment(trace)
        return Simulation(
            trace=trace,
            server=server,
            device=device,
            devices=fleet.devices,
            price=fleet.clockwork(self.seed).price if price is None else price,
            network=self.flows(),
            workers=TimingOnly() if workers is None else workers,
            limits=self.limits,
            lanes=fleet.lanes(),
            faults=self.faults,
            churn=self.churn(),
            memory=fleet.ledger(),
            shortage=self.shortage,
            observe=observe,
        )

    def mark_deployment(self, trace: Trace) -> None:
        """Record what was made and installed before the run."""
        for number, each in enumerate(self.pruning, 1):
            trace.mark(SERVER, 0, "pruning", number, each)
        for each in self.deployment:
            trace.mark(SERVER, 0, "deployment", each.get("bytes", 0), each)

    def scripts(self, blocks: dict[str, BlockPlan] | None = None) -> tuple[Script, Script]:
        """What makes the server's coroutine from its port, and any device's from its own."""
        job, scheduler, devices = self.job(blocks), self.scheduler, self.fleet.devices

        def server(port: Port) -> Any:
            return scheduler.server(Server(port, job, devices))

        contexts: dict[int, Device] = {}

        def device(port: Port) -> Any:
            # A device that returns goes on with its own order of batches.
            before = contexts.get(port.node)
            me = contexts[port.node] = Device(port, job) if before is None else before.again(port)
            return scheduler.device(me)

        return server, device

    def flows(self) -> FluidNetwork:
        """The network of the run, with nothing under way."""
        groups = []
        for index, group in enumerate(self.fleet.groups):
            nodes = np.asarray(self.fleet.numbers(index), np.int64)
            rates = group.link.drawn_rates(self.seed, nodes) if group.population else None
            trace = group.link.rate_trace(self.network.efficiency)
            offsets = None if trace is None else trace.offsets(self.seed, nodes)
            groups.append(DeviceGroup(group.count, group.link, group.access, rates, trace, offsets))
        return FluidNetwork(groups, self.fleet.server_link, self.access, self.network, self.seed)

    def churn(self) -> dict[int, Iterator[Fault]]:
        """What devices with a recording of their availability do, up to the end of the run."""
        until = math.inf if self.limits.time is None else self.limits.time
        return {
            device: _faults(group.attendance, self.seed, device, until)
            for index, group in enumerate(self.fleet.groups)
            if group.attendance is not None
            for device in self.fleet.numbers(index)
        }


def _faults(attendance: Attendance, seed: int, device: int, until: float) -> Iterator[Fault]:
    for leave, back in attendance.absences(seed, device, until):
        yield Fault(device=device, leave=leave, back=back)
