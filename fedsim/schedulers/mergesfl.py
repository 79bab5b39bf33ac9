"""MergeSFL: split training in which the server takes one step on the batches of all devices together.

Liao, Xu, Xu, Wang, Yao, Qiao, "MergeSFL: Split Federated Learning with Feature Merging and Batch Size Regulation", ICDE
2024, arXiv 2311.13348. Its code merges features and neither regulates batch sizes nor selects devices by their labels;
both are options here, off by default, and how they are done is interpretation. The code's rounds have 42 iterations of
batches of 64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np

from fedsim.learning.context import Device, Job, Server
from fedsim.learning.learners import Batch, batch_size
from fedsim.learning.rounds import Barrier
from fedsim.learning.sums import Mean
from fedsim.schedulers.balance import balanced
from fedsim.schedulers.options import check_local, counted, newest
from fedsim.schedulers.splitfed import Activations, Gradient, Trained
from fedsim.script import SERVER, Disconnected, Message, Payload, Role, Timeout, broadcast, compute, recv, send

_LARGEST: Final = 64


@dataclass(frozen=True, slots=True)
class Train(Message):
    """Server to device: begin a round from this device block, in so many batches of such a size."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d
    round: int  # t
    steps: int  # τ
    batch: int  # b_k


@dataclass(frozen=True, kw_only=True)
class MergeSFL:
    """Split federated learning with merged features."""

    local_steps: int | None = None  # τ
    """Iterations of a round; by default as many as it takes for as many samples as its devices hold together."""
    batch_regulation: bool = False
    """Whether devices have batches in proportion to their speed in earlier rounds, link included, so that all of an
    iteration come at the same time; in its first round a device has the scenario's batch size."""
    largest_batch: int = _LARGEST
    """The fastest device's batch, where batch sizes are regulated."""
    selection: Literal["random", "kl"] = "random"
    """Who takes part in a round: anybody, or devices whose merged labels are nearest to those of all devices."""
    weighting: Literal["samples", "batch", "uniform"] = "samples"
    """Weight of a device in the average: its number of samples, or its batch size, or the same for all."""

    splits: ClassVar[bool] = True
    fresh_rounds: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Train, Activations, Gradient, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, 1)
        if self.largest_batch < 1:
            raise ValueError(f"largest_batch {self.largest_batch} must be 1 or more")
        if self.largest_batch != _LARGEST and not self.batch_regulation:
            raise ValueError(f"largest_batch {self.largest_batch} is for batch_regulation: on; leave it out")

    @property
    def needs_labels(self) -> bool:
        """Whether the server has to know which labels devices hold."""
        return self.selection == "kl"

    def buffered(self, job: Job) -> int:
        """Samples whose activations the server may hold."""
        return job.participants * (self.largest_batch if self.batch_regulation else job.batch)

    # ------------------------------------------------------------------------------------------- device

    async def device(self, me: Device) -> None:
        """Round after round, from the newest device block."""
        train = await newest(me, Train)
        while True:
            me.block.load(train.weights, train.round)
            train = await newest(me, Train, after=await self.local_round(me, train))

    async def local_round(self, me: Device, train: Train) -> Train | None:
        """Train a round and send the block; answers with the next order, if that comes before the round is done."""
        for batch in me.batches(train.steps, size=train.batch):
            if next_one := await self.step(me, batch, train.round):
                me.block.abandon()  # the others went on without this device
                return next_one
        samples = train.batch if self.weighting == "batch" else me.samples
        await send(SERVER, Trained(me.block.take(), samples, train.round))
        return None

    async def step(self, me: Device, batch: Batch, t: int) -> Train | None:
        """One batch: forward, wait for the gradient, backward."""
        z = await compute(me.block.forward(batch))
        await send(SERVER, Activations(z, me.block.labels(batch), t))
        while True:
            match await recv(Gradient, Train):
                case Train() as next_one:
                    return next_one
                case Gradient(values=g, round=r) if r == t:
                    await compute(me.block.backward(g))  # and the optimizer's step
                    return None

    # ------------------------------------------------------------------------------------------- server

    async def server(self, me: Server) -> None:
        """A round: give d out, merge batches until the device blocks are there, average those."""
        d, s, watch = me.initial, me.block.weights(), Watch()
        me.publish(d, s)
        choose = self.chooser(me, watch)
        for t in counted(me.rounds):
            chosen = await me.sample(choose)
            sizes = self.sizes(me, watch, chosen)
            steps = self.local_steps or math.ceil(sum(map(me.samples, chosen)) / sum(sizes.values()))
            me.block.pace(t)
            devices = me.mean(chosen, "uniform" if self.weighting == "uniform" else "samples", base=d)
            with me.round(t, chosen) as barrier:
                for size in sorted(set(sizes.values())):
                    alike = [k for k in chosen if sizes[k] == size]
                    await broadcast(alike, lambda k: Train(me.fit(d, k), t, steps, size))
                watch.begin(me.now, chosen)
                while barrier.waiting:
                    await self.iteration(me, barrier, watch, devices)
                if barrier.delivered:
                    d = await compute(devices.result())
            s = me.block.weights()
            me.publish(d, s)

    async def iteration(self, me: Server, barrier: Barrier, watch: Watch, devices: Mean) -> None:
        """A batch of each device that still trains, one step on all of them, and each device's share of the gradient.

        With over-selection, of as many devices as the round still needs; the batches of the others come to the next
        iteration. Where no batch comes any more, the device blocks do.
        """
        merge = me.merge()
        while barrier.waiting and len(barrier.missing & merge.sources) < min(barrier.wanted, len(barrier.missing)):
            match await barrier.recv(Activations, Trained):
                case Trained() as trained:
                    if barrier.deliver(trained):
                        devices.add(trained)
                case Activations(sender=k, values=z, labels=y) as batch if barrier.expects(batch):
                    watch.stop(me.now, k, batch_size(z))
                    merge.add(k, z, y)
                case Disconnected(device=k):
                    barrier.leave(k)  # a batch that it has sent counts
                case Timeout():
                    barrier.over()
                case _:
                    pass  # of an earlier round, or of a device that left during this one
        if not merge.sources:
            return
        g = await compute(merge.step())
        for k, share in merge.shares(g):
            me.consumed(k)
            await send(k, Gradient(share, barrier.number))
            watch.start(me.now, k)

    def sizes(self, me: Server, watch: Watch, devices: Sequence[int]) -> dict[int, int]:
        """b_k of each device."""
        if not self.batch_regulation:
            return dict.fromkeys(devices, me.batch)
        times = {k: seconds for k in devices if (seconds := watch.seconds(k)) is not None}
        fastest = min(times.values(), default=0.0)
        sizes = {k: max(1, round(self.largest_batch * fastest / times[k])) for k in times}
        return {k: sizes.get(k, min(me.batch, self.largest_batch)) for k in devices}

    def chooser(self, me: Server, watch: Watch) -> Callable[[Sequence[int], int], Sequence[int]] | None:
        """Who of those present takes part; None leaves it to chance."""
        if self.selection == "random":
            return None
        counts, rng = {k: me.label_counts(k) for k in me.devices}, me.rng("labels")
        everybody = np.sum(list(counts.values()), axis=0)

        def choose(present: Sequence[int], wanted: int) -> Sequence[int]:
            sizes = self.sizes(me, watch, present)
            return balanced({k: sizes[k] * counts[k] / counts[k].sum() for k in present}, everybody, wanted, rng)

        return choose


class Watch:
    """Times how long each device takes for a sample of a round, from a gradient to the activations that follow.

    From the block that begins the round to the first activations, where nothing follows those.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._round: dict[int, list[tuple[float, int]]] = {}

    def begin(self, now: float, devices: Iterable[int]) -> None:
        """These have been sent a block."""
        for k in devices:
            self._since[k], self._round[k] = now, []

    def start(self, now: float, device: int) -> None:
        """A device has been sent a gradient."""
        self._since[device] = now

    def stop(self, now: float, device: int, samples: int) -> None:
        """A device's activations have come."""
        self._round[device].append((now - self._since[device], samples))

    def seconds(self, device: int) -> float | None:
        """What a sample took in the last round that the device was in; None before its first."""
        times = self._round.get(device, [])
        times = times[1:] or times
        return sum(time for time, _ in times) / sum(samples for _, samples in times) if times else None
