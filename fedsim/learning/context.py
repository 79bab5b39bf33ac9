"""What `me` is in a script: the device's or the server's side of a training system.

Both are made of handles and plain numbers; they know neither clocks, nor tensors, nor how devices are reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim import seeds
from fedsim.learning.learners import Batch, Learner, Mean, Node
from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK, BlockPlan
from fedsim.script import SERVER, Connected, Disconnected, Message, Payload, Port, recv


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every script of a run may know.

    `samples[k]` is the number of training samples of device k; `participants` how many devices a round asks for;
    `rounds` the scenario's `until.rounds`, None for no limit.
    """

    seed: int
    plans: dict[str, BlockPlan]
    samples: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]
    participants: int
    rounds: int | None
    batch: int


class Inbox:
    """A look at the waiting messages that takes no time."""

    __slots__ = ("_port",)

    def __init__(self, port: Port) -> None:
        self._port = port

    def poll(self, *kinds: type[Message]) -> Message | None:
        """Take the first waiting message of `kinds`, or nothing, at once."""
        return self._port.poll(*kinds)


class Device:
    """A device's `me`: its data, and its model or block."""

    __slots__ = ("_epoch", "_job", "_start", "block", "inbox", "number", "samples")

    def __init__(self, port: Port, job: Job) -> None:
        node = Node(port)
        self._job = job
        self._epoch = self._start = 0
        self.number = port.node
        self.inbox = Inbox(port)
        self.samples = int(job.samples[port.node])
        """Number of training samples on this device, at least one."""
        assert self.samples > 0, f"device {port.node} has no samples; partitions give every device some"
        self.block = Learner(node, job.plans[DEVICE] if DEVICE in job.plans else job.plans[MODEL])
        """The device block or, where the scheduler does not split, the whole model."""

    def again(self, port: Port) -> Device:
        """The same device after it has left and returned: fresh, but for its place in the order of its batches."""
        fresh = Device(port, self._job)
        fresh._epoch, fresh._start = self._epoch, self._start
        return fresh

    @property
    def model(self) -> Learner:
        """The whole model, where the scheduler does not split it."""
        return self.block

    def batches(self, steps: int | None = None, epochs: int = 1) -> tuple[Batch, ...]:
        """The next batches: `steps` of them, or `epochs` whole passes over the device's data.

        The order of a pass depends on (seed, device, number of the pass) only. The last batch of a pass holds what
        is left. Steps go on where the last ones ended; passes begin with a fresh one.
        """
        taken: list[Batch] = []
        if steps is None:
            if self._start:
                self._epoch, self._start = self._epoch + 1, 0
            last = self._epoch + epochs
        while (self._epoch < last) if steps is None else (len(taken) < steps):
            size = min(self._job.batch, self.samples - self._start)
            taken.append(Batch(self._epoch, self._start, size))
            self._start += size
            if self._start == self.samples:
                self._epoch, self._start = self._epoch + 1, 0
        return tuple(taken)


class Server:
    """The server's `me`: the devices, the server block, aggregation, rounds."""

    __slots__ = ("_job", "_node", "_plan", "_port", "_rng", "_version", "block", "devices", "inbox", "initial")

    def __init__(self, port: Port, job: Job, devices: int) -> None:
        self._port = port
        self._job = job
        self._node = Node(port)
        self._plan = job.plans[DEVICE] if DEVICE in job.plans else job.plans[MODEL]
        self.devices = range(devices)
        """Every device of the fleet, whether it is there or not."""
        self._rng = seeds.generator(job.seed, SERVER, "selection")
        self._version = 0
        self.inbox = Inbox(port)
        start = Learner(self._node, self._plan)
        self.initial: Payload = start.weights()
        """The weights that devices start from: the device block's or the whole model's."""
        self._node.queue(start.number, "close", holds=self._plan.weights.nbytes)  # as the global model, from here on
        self.block = Learner(self._node, job.plans.get(SERVER_BLOCK, self._plan))
        """The server block (the whole model, where the scheduler does not split it)."""

    @property
    def rounds(self) -> int | None:
        """The scenario's `until.rounds`, None for no limit."""
        return self._job.rounds

    def present(self) -> Sequence[int]:
        """The devices that are there now; notices of leaving and returning that still wait are settled by this."""
        while self._port.poll(Disconnected, Connected) is not None:
            pass
        absent = self._port.absent
        return [k for k in self.devices if k not in absent] if absent else self.devices

    async def sample(self) -> tuple[int, ...]:
        """The devices of the next round, sorted: the scenario's number of those present, without replacement.

        Where none is there, this waits until one comes back.
        """
        while not (present := self.present()):
            await recv(Connected)
        wanted = self._job.participants
        if wanted >= len(present):
            return tuple(present)
        drawn = self._rng.choice(len(present), size=wanted, replace=False)
        return tuple(sorted(present[i] for i in drawn.tolist()))

    @contextmanager
    def round(self, number: int, chosen: Sequence[int], need: int | None = None) -> Iterator[None]:
        """A barrier: the contributions of `chosen` that come before it closes belong to it; `need` complete it."""
        self._port.mark("round.open", number, {"nodes": list(chosen), "need": len(chosen) if need is None else need})
        yield
        self._port.mark("round.close", number, None)

    def mean(
        self, expected: Sequence[int], weighting: Literal["samples", "uniform"] = "samples", *, of: str = "devices"
    ) -> Mean:
        """A running mean over `expected` of what devices send (`of="devices"`) or of the server block's copies."""
        plan = self._plan if of == "devices" else self.block.plan
        return Mean(self._node, plan, expected, weighting)

    def publish(self, *model: Payload) -> None:
        """Name the current global model: the whole one, or the device block and the server block."""
        self._version += 1
        self._port.publish(self._version, model)
