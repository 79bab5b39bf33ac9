"""What a scenario comes to before it runs: units, cut, fleet, memory, times, data, and what is taken on trust."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from fedsim.errors import UserError
from fedsim.experiment.building import Study, build
from fedsim.experiment.fleet import Group
from fedsim.experiment.forecast import Candidate, Need, Step, candidates, device_step, steps_of, works_of
from fedsim.experiment.profiling import Plan, is_profiled
from fedsim.experiment.trust import assumptions, trust
from fedsim.learning.plan import DEVICE, MODEL
from fedsim.models.head_cost import HeadCost
from fedsim.report import energy_label
from fedsim.scenario import Scenario, resolved


@dataclass(frozen=True, slots=True)
class UnitLine:
    """A unit of the model: cost a sample, what would be sent if the model were cut behind it, what training keeps."""

    index: int
    name: str
    macs: int
    parameters: int
    output: tuple[int, ...]
    activation_bytes: int
    retained_bytes: int
    """Bytes that training keeps of this unit alone for one sample, between its forward and its backward."""


@dataclass(frozen=True, slots=True)
class GroupLine:
    """A group of the fleet: what it is, what a batch takes, and whether it has the memory."""

    group: Group
    step: Step
    need: Need

    def document(self) -> dict[str, Any]:
        """As plain data."""
        group = self.group
        return {
            "profile": group.machine.id,
            "speed": group.machine.summary,
            "link": group.link.id,
            "count": group.count,
            "access": group.access,
            "population": group.population,
            "online": None if group.attendance is None else group.attendance.share,
            "memory": _memory(self.need),
            "batch": self.step.batch,
            "seconds_a_batch": dict(self.step.phases),
            "seconds_of_weights": self.step.model,
        }


@dataclass(frozen=True)
class Findings:
    """The result of a check."""

    study: Study
    units: tuple[UnitLine, ...]
    groups: tuple[GroupLine, ...]
    server: Need
    candidates: tuple[Candidate, ...]
    """What the cuts come to, where the scenario lets one be chosen."""
    pipelines: tuple[Plan, ...]
    """What the profiler makes of the cut, or of these cuts, where the scheduler trains in micro-batches."""
    head: HeadCost | None
    no_head: str | None
    """Why there can be no auxiliary head, where there cannot."""

    def document(self) -> dict[str, Any]:
        """Everything as plain data."""
        study, assembly = self.study, self.study.assembly
        sizes = assembly.samples
        return {
            "scenario": resolved(study.scenario),
            "model": {
                "macs": assembly.model.macs,
                "parameters": assembly.model.parameters,
                "cut": assembly.cut,
                "cuts": [asdict(candidate) for candidate in self.candidates],
                "pipelines": [asdict(plan) for plan in self.pipelines],
                "units": [asdict(unit) for unit in self.units],
                "message_bytes": {"weights": self.weights_bytes, "activations_each": self.activations_each},
                "auxiliary": None if self.head is None else _head_document(self.head),
            },
            "pruning": [dict(variant) for variant in assembly.pruning],
            "data": {
                "name": study.info.name,
                "train": study.info.train,
                "test": study.info.test,
                "devices": {"min": int(sizes.min()), "max": int(sizes.max()), "mean": float(sizes.mean())},
            },
            "fleet": [line.document() for line in self.groups],
            "server": {"profile": assembly.fleet.server.id, "memory": _memory(self.server)},
            "fits": self.fits,
            "trust": self.trust(),
            "energy": self.energy(),
            "assumptions": self.assumptions(),
        }

    @property
    def fits(self) -> bool:
        """Whether every node has the memory that it is sure to need."""
        return self.server.fits and all(line.need.fits for line in self.groups)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights a device receives and sends back: the device block or the whole model."""
        blocks = self.study.assembly.blocks()
        return (blocks[DEVICE] if DEVICE in blocks else blocks[MODEL]).weights.nbytes

    @property
    def activations_each(self) -> int | None:
        """Bytes a sample of a full batch's activations as they travel; None where the scheduler does not cut."""
        assembly = self.study.assembly
        blocks, batch = assembly.blocks(), assembly.training.batch
        return None if DEVICE not in blocks else math.ceil(blocks[DEVICE].activations(batch).nbytes / batch)

    def energy(self) -> str:
        """What stands beside figures in joules."""
        return energy_label(self.study.assembly.fleet.table(self.study.assembly.samples))

    def trust(self) -> list[str]:
        """How far the times of each profile are to be trusted, in a sentence each."""
        return [f"{name}: {sentence}" for name, sentence in trust(self.study.assembly.fleet).items()]

    def assumptions(self) -> dict[str, list[str]]:
        """The figures of the fleet's profiles and links that nobody has checked against a source."""
        return assumptions(self.study.assembly.fleet)


def _memory(need: Need) -> dict[str, Any]:
    return {**asdict(need), "total": need.total, "fits": need.fits}


def _head_document(head: HeadCost) -> dict[str, Any]:
    shares = {"macs_share": head.macs_share, "bytes_share": head.bytes_share, "warning": head.warning}
    return asdict(head) | shares


def check(scenario: Scenario) -> Findings:
    """Put a scenario together without running it.

    Raises:
        UserError: something in it does not fit.
    """
    study = build(scenario)
    assembly = study.assembly
    model, fleet, blocks = assembly.model, assembly.fleet, assembly.blocks()
    units = tuple(
        UnitLine(
            index,
            unit.name,
            unit.macs,
            unit.trainable,
            unit.output,
            model.activation_bytes(index),
            unit.retained.between.at(1) + (model.activation_bytes(index) if unit.retained.keeps_output else 0),
        )
        for index, unit in enumerate(model.units, start=1)
    )
    *devices, server = study.needs()
    groups, held = [], assembly.held(blocks)
    for index, (group, need) in enumerate(zip(fleet.groups, devices, strict=True)):
        members = fleet.numbers(index)
        batch = min(assembly.training.batch, int(assembly.samples[members.start : members.stop].max()))
        efficiency, works = assembly.network.efficiency, works_of(assembly.scheduler)
        step = device_step(group, fleet.server, fleet.server_link, blocks, batch, efficiency, works, held[index])
        groups.append(GroupLine(group, step, need))
    chosen: list[Candidate] = []
    if scenario.model.cut == "auto" and assembly.cut is not None:
        steps = steps_of(assembly.scheduler)
        chosen = candidates(fleet, model, assembly.training, assembly.samples, steps, assembly.network.efficiency)
    pipelines: list[Plan] = []
    if is_profiled(assembly.scheduler) and assembly.cut is not None:
        cuts = [candidate.cut for candidate in chosen] or [assembly.cut]
        pipelines = [assembly.profiler.plan(cut, scenario.scheduler.options) for cut in cuts]
    head, reason = None, None
    if assembly.cut is not None:
        try:
            head = study.head(assembly.cut)
        except UserError as error:
            reason = str(error)
    return Findings(study, units, tuple(groups), server, tuple(chosen), tuple(pipelines), head, reason)
