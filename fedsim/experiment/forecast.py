"""What a scenario comes to before it runs: memory of every node, and the cut that suits a fleet best.

Everything here is arithmetic on the same costs, prices and bytes as the run's own, for a round of split training in
which each device trains all its samples once, unless the scheduler says how many steps it takes. Contention is counted
at the server only: its compute, its ingress and its egress serve all devices one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError
from fedsim.experiment.fleet import Fleet, Group, process_bytes
from fedsim.hardware.links import Link
from fedsim.hardware.machines import Machine
from fedsim.hardware.pricing import seconds
from fedsim.learning.bundles import VARIANT
from fedsim.learning.optimizers import Training
from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK, BlockPlan, plans
from fedsim.models.measure import ModelMeasure
from fedsim.script import Part
from fedsim.units import human_count

Objective = Literal["time", "device_memory", "device_macs", "bytes", "activation_bytes"]
_NAMES: Final = {
    "time": "time of a round",
    "device_memory": "memory on the devices",
    "device_macs": "MACs of the device block",
    "bytes": "bytes of a round",
    "activation_bytes": "bytes of a sample at the cut",
}


Works = Callable[[BlockPlan, int], Sequence[Part]]
"""What a device does in the place of a step of training, with a block and for at most so many samples."""


@dataclass(frozen=True, slots=True)
class Need:
    """The least memory that a kind of node needs, in bytes."""

    name: str
    process: int
    """What the process takes before any model, and what its operators need while they compute."""
    model: int
    """Weights, gradients and optimizer state; on the server, of all copies and of the global model."""
    step: int
    """What a step of training needs beside these: the batch, and what its backward needs of the forward."""
    usable: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.process + self.model + self.step

    @property
    def fits(self) -> bool:
        """Whether the node may use as much."""
        return self.total <= self.usable


@dataclass(frozen=True, slots=True)
class Load:
    """What devices do at once with what they hold."""

    batch: int
    """Samples of a step, or of a forward."""
    forwards: int = 1
    """How many come before the first backward, where the server sends gradients."""
    works: Works | None = None
    """What comes in the place of steps of training."""

    @classmethod
    def of(cls, scheduler: Any, batch: int, held: int) -> Load:
        """Under a scheduler, of the device with the most samples: so many."""
        number = getattr(scheduler, "micro_batches", 1)
        part = max(1, batch // number) if isinstance(number, int) else batch  # not known before the profiler has run
        size = min(batch, held)
        return cls(min(part, size), max(1, size // part), works_of(scheduler))


def device_need(machine: Machine, plan: BlockPlan, load: Load) -> Need:
    """The memory of a device that trains a block, or the whole model, or does something else with it."""
    batch = load.batch
    if load.works is not None:
        step = max(part.memory for part in load.works(plan, batch))
        return Need(machine.id, process_bytes(machine), plan.state_bytes, step, round(machine.memory.usable))
    if plan.has_loss:
        step = plan.train_part(batch).memory
    else:  # each forward leaves something for its backward, which gets a gradient beside it
        forward, backward = plan.forward_part(batch), plan.backward_part(batch)
        step = max(forward.memory - forward.keeps, backward.memory) + load.forwards * forward.keeps
    held = plan.state_bytes + plan.warm_bytes
    return Need(machine.id, process_bytes(machine), held, step, round(machine.memory.usable))


def server_need(machine: Machine, blocks: Mapping[str, BlockPlan], batch: int, copies: int, buffered: int = 0) -> Need:
    """The memory of a server that holds the global model and trains `copies` of its block, one batch at a time.

    `buffered` is the number of samples whose activations it holds.
    """
    held = sum(plan.state_bytes for name, plan in blocks.items() if VARIANT not in name)
    step = 0
    if SERVER_BLOCK in blocks:
        block = blocks[SERVER_BLOCK]
        held += copies * (block.state_bytes + block.warm_bytes)
        step = block.train_part(batch).memory
        step += buffered * (block.input_bytes(1) + block.labels(1).nbytes)
    return Need("server", process_bytes(machine), held, step, round(machine.memory.usable))


def needs(
    fleet: Fleet,
    blocks: Mapping[str, BlockPlan],
    held: Sequence[BlockPlan],
    samples: NDArray[np.int64],
    batch: int,
    scheduler: Any,
    copies: int,
    buffered: int = 0,
) -> tuple[Need, ...]:
    """The memory of each group's devices, of the one with the largest batch, and of the server, which comes last.

    `held` are the blocks that the devices of each group have.
    """
    found = []
    for index, (group, plan) in enumerate(zip(fleet.groups, held, strict=True)):
        numbers = fleet.numbers(index)
        load = Load.of(scheduler, batch, int(samples[numbers.start : numbers.stop].max()))
        found.append(device_need(group.machine, plan, load))
    largest = Load.of(scheduler, batch, int(samples.max())).batch
    return (*found, server_need(fleet.server, blocks, largest, copies, buffered))


def shortage(need: Need) -> str:
    """The sentence of a node whose memory does not suffice."""
    parts = {"process": need.process, "weights and training state": need.model, "a step's activations": need.step}
    listed = ", ".join(f"{name} {human_count(nbytes, 'B')}" for name, nbytes in parts.items())
    return (
        f"{need.name} needs at least {human_count(need.total, 'B')} ({listed}), but may use "
        f"{human_count(need.usable, 'B')}"
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A batch of training on the devices of a group, without any contention: seconds by phase, in order."""

    batch: int
    phases: tuple[tuple[str, float], ...]
    """`step`; or, where the model is cut, `forward`, `up`, `server`, `down` and `backward`; or `step`, `up` and
    `server`, where devices have a loss of their own and so do not wait for the other two."""
    model: float
    """Seconds of weights to the device and back, once a round."""

    @property
    def seconds(self) -> float:
        """Of all phases, one after the other."""
        return sum(seconds for _, seconds in self.phases)


def device_step(
    group: Group,
    server: Machine,
    server_link: Link,
    blocks: Mapping[str, BlockPlan],
    batch: int,
    efficiency: float,
    works: Works | None = None,
    held: BlockPlan | None = None,
) -> Step:
    """The phases of a batch on a device of `group`, or of other `works` in the place of training one.

    The device has the block `held`; by default the whole one.
    """
    whole = blocks[DEVICE] if DEVICE in blocks else blocks[MODEL]
    plan = whole if held is None else held
    link = _Ends(group.link, server_link, efficiency)
    model = link.up(plan.weights.nbytes) + link.down(plan.weights.nbytes)
    if works is not None:
        phases: dict[str, float] = {}
        for part in works(plan, batch):
            phases[part.kind] = phases.get(part.kind, 0.0) + seconds(group.machine, part.cost)
        return Step(part.cost.batch, tuple(phases.items()), model)
    if SERVER_BLOCK not in blocks:
        return Step(batch, (("step", seconds(group.machine, plan.train_part(batch).cost)),), model)
    block = blocks[SERVER_BLOCK]
    if plan.has_head:  # nobody sends a gradient back
        alone = (
            ("step", seconds(group.machine, plan.train_part(batch).cost)),
            ("up", link.up(plan.activations(batch).nbytes + plan.labels(batch).nbytes)),
            ("server", seconds(server, block.train_part(batch, to_input=False).cost)),
        )
        return Step(batch, alone, model)
    steps = (
        ("forward", seconds(group.machine, plan.forward_part(batch).cost)),
        ("up", link.up(plan.activations(batch).nbytes + plan.labels(batch).nbytes)),
        ("server", seconds(server, block.train_part(batch).cost)),
        ("down", link.down(block.gradients(batch).nbytes)),
        ("backward", seconds(group.machine, plan.backward_part(batch).cost)),
    )
    return Step(batch, steps, model)


@dataclass(frozen=True, slots=True)
class _Ends:
    """The links of a device and of the server, with nobody else on them."""

    device: Link
    server: Link
    efficiency: float

    def up(self, nbytes: int) -> float:
        """Seconds of a message to the server."""
        rate = min(self.device.goodput_up(self.efficiency), self.server.goodput_down(self.efficiency))
        return self.device.one_way + self.server.one_way + nbytes / rate

    def down(self, nbytes: int) -> float:
        """Seconds of a message from it."""
        rate = min(self.device.goodput_down(self.efficiency), self.server.goodput_up(self.efficiency))
        return self.device.one_way + self.server.one_way + nbytes / rate


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a round of split training comes to with the model cut after `cut` units."""

    cut: int
    seconds: float
    """Of the slowest device, or of the server or its link where these are busy longer."""
    memory: float
    """Of the device that is nearest to its limit, as a share of what it may use."""
    nbytes: int
    """Both ways, all devices."""
    fits: bool
    """Whether every device has the memory."""
    macs: int
    """Of a sample, forward through the device block."""
    activation_bytes: int
    """Of a sample at the cut, as they lie in memory."""

    def value(self, objective: Objective) -> float:
        """What is to be least."""
        match objective:
            case "time":
                return self.seconds
            case "device_memory":
                return self.memory
            case "bytes":
                return float(self.nbytes)
            case "device_macs":
                return float(self.macs)
            case "activation_bytes":
                return float(self.activation_bytes)


def candidates(
    fleet: Fleet,
    model: ModelMeasure,
    training: Training,
    samples: NDArray[np.int64],
    steps: int | None,
    efficiency: float,
) -> list[Candidate]:
    """Every cut that leaves work on both sides; `steps` is the number of batches a round, None for a pass over all."""
    found = []
    for cut in range(1, len(model.units)):
        blocks = plans(model, cut, training)
        if all(any(unit.macs for unit in plan.units) for plan in blocks.values()):
            found.append(_candidate(cut, fleet, blocks, samples, steps, efficiency))
    return found


def _candidate(
    cut: int,
    fleet: Fleet,
    blocks: Mapping[str, BlockPlan],
    samples: NDArray[np.int64],
    steps: int | None,
    efficiency: float,
) -> Candidate:
    device, server, batch = blocks[DEVICE], blocks[SERVER_BLOCK], blocks[DEVICE].training.batch
    slowest = busy = up = down = memory = 0.0
    fits = True
    for index, group in enumerate(fleet.groups):
        numbers = fleet.numbers(index)
        held = samples[numbers.start : numbers.stop]
        size = min(batch, int(held.max()))
        count = [steps or math.ceil(int(each) / batch) for each in held]
        step = device_step(group, fleet.server, fleet.server_link, blocks, size, efficiency)
        slowest = max(slowest, max(count) * step.seconds + step.model)
        busy += sum(count) * dict(step.phases)["server"]
        trained = sum(count) * size if steps else int(held.sum())
        up += trained * (device.activations(size).nbytes + device.labels(size).nbytes) / size
        down += trained * server.gradients(size).nbytes / size
        need = device_need(group.machine, device, Load(size))
        memory, fits = max(memory, need.total / need.usable), fits and need.fits
    up += fleet.devices * device.weights.nbytes
    down += fleet.devices * device.weights.nbytes
    link = fleet.server_link
    shared = max(busy / fleet.server.lanes, up / link.goodput_down(efficiency), down / link.goodput_up(efficiency))
    macs, sample = sum(unit.macs for unit in device.units[: device.trunk]), device.activations(1).memory_bytes
    return Candidate(cut, max(slowest, shared), memory, int(up + down), fits, macs, sample)


def best(found: Sequence[Candidate], objective: Objective, model: str) -> Candidate:
    """The candidate that is best by an objective, the smallest cut of several.

    Raises:
        UserError: there is none, or none that fits into the memory of all devices.
    """
    if not found:
        raise UserError(f"cut: auto finds no cut of {model} with work on both sides; choose another model")
    fitting = [candidate for candidate in found if candidate.fits]
    if not fitting:
        least = min(found, key=lambda candidate: candidate.memory)
        raise UserError(
            f"cut: auto finds no cut of {model} that fits into the memory of all devices; the nearest, {least.cut}, "
            f"needs {least.memory:.2g} times what one may use; choose a smaller batch or model, or other devices"
        )
    return min(fitting, key=lambda candidate: (candidate.value(objective), candidate.cut))


def said(objective: Objective) -> str:
    """An objective in words."""
    return _NAMES[objective]


def works_of(scheduler: Any) -> Works | None:
    """What devices do in the place of steps of training; None where they train."""
    return None if getattr(scheduler, "trains", True) else scheduler.works


def steps_of(scheduler: Any) -> int | None:
    """The batches of a round that a scheduler asks of a device; None where it does not say."""
    steps = getattr(scheduler, "local_steps", None)
    return steps if isinstance(steps, int) else None
