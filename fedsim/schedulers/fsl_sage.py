"""FSL-SAGE: devices estimate the server's gradients by heads that the server fits to them.

Nair, Lin, Talebi, Ju, Bentley, Liu, "FSL-SAGE: Accelerating Federated Split Learning via Smashed Activation Gradient
Estimation", ICML 2025, arXiv 2505.23182. A device's head is frozen: it only turns activations into a gradient for the
device block. Defaults of intervals and of the fit are those of the authors' code, which runs 10 clients for 200 rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedsim.learning.aligning import Alignment, Fitting
from fedsim.learning.context import Device, Job, Server
from fedsim.learning.rounds import Barrier
from fedsim.learning.sums import Mean
from fedsim.schedulers.options import check_local, counted
from fedsim.script import SERVER, Disconnected, Message, Payload, Role, Timeout, broadcast, compute, recv, send


@dataclass(frozen=True, slots=True)
class Train(Message):
    """Server to device: begin a round from this device block."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d
    round: int  # t


@dataclass(frozen=True, slots=True)
class Head(Message):
    """Server to device: go on with this head."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # a_k
    version: int


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, its labels, and how often its head has been fitted."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y
    round: int
    head: int


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: the device block at the end of the round."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # d_k
    samples: int  # n_k
    round: int


@dataclass(frozen=True, kw_only=True)
class FslSage:
    """Federated split learning by estimated gradients."""

    upload_every: int = 5
    """Every how many batches of a round the activations are sent, from the first on."""
    align_every: int = 10  # l
    """Rounds from one alignment of heads to the next; the first round has one."""
    align_epochs: int = 100
    """Passes of an alignment over what is stored of a device."""
    align_lr: float = 0.001
    """Learning rate of Adam, which fits the heads."""
    align_batch: int = 1000
    """Samples of a step of that."""
    keep: int = 1000
    """Samples whose activations are stored of each device, the last ones."""
    local_steps: int | None = None  # H
    """Batches a device trains in a round; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data that a device trains in a round, where `local_steps` is not given."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a device in the average: its number of samples, or the same for all."""

    splits: ClassVar[bool] = True
    fresh_rounds: ClassVar[bool] = True
    local_loss: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Train, Head, Activations, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        for name in ("upload_every", "align_every", "align_epochs", "align_batch", "keep"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} {value} must be 1 or more")
        if not self.align_lr > 0:
            raise ValueError(f"align_lr {self.align_lr} must be above 0")

    def buffered(self, job: Job) -> int:
        """Samples whose activations the server holds in the end."""
        return self.keep * len(job.samples)

    # ------------------------------------------------------------------------------------------- device

    async def device(self, me: Device) -> None:
        """Round after round, from the newest device block; the head is whatever came last."""
        version = 0
        while True:
            match await recv(Train, Head):
                case Head(weights=a_k, version=version):
                    me.block.adopt(a_k)
                case Train() as train:
                    while isinstance(later := me.inbox.poll(Train), Train):
                        train = later
                    me.block.load(train.weights, train.round)
                    version = await self.local_round(me, train.round, version)

    async def local_round(self, me: Device, t: int, version: int) -> int:
        """Steps along estimated gradients; every h-th batch's activations leave while the next is computed."""
        for i, batch in enumerate(me.batches(self.local_steps, self.local_epochs)):
            if isinstance(head := me.inbox.poll(Head), Head):
                me.block.adopt(head.weights)
                version = head.version
            z = await compute(me.block.estimated_step(batch))
            if i % self.upload_every == 0:
                await send(SERVER, Activations(z, me.block.labels(batch), t, version))
        await send(SERVER, Trained(me.block.weights("block"), me.samples, t))
        return version

    # ------------------------------------------------------------------------------------------- server

    async def server(self, me: Server) -> None:
        """A round: give d out, train on what comes, fit heads when it is time, average device blocks."""
        d, heads = me.without_head(me.initial), me.alignment(self.keep)
        me.publish(d, me.block.weights())
        for t in counted(me.rounds):
            chosen = await me.sample()
            me.block.pace(t)
            devices = me.mean(chosen, self.weighting, part="block", base=d)
            with me.round(t, chosen) as barrier:
                await broadcast(chosen, lambda k: Train(me.fit(d, k), t))
                await self.serve(me, barrier, heads, d, devices)
                if devices.members:
                    d = await compute(devices.result())
            me.publish(d, me.block.weights())

    async def serve(self, me: Server, barrier: Barrier, heads: Alignment, d: Payload, devices: Mean) -> None:
        """Train on batches in order of arrival, so that a device's `Trained` comes after all its activations."""
        fresh = set(barrier.chosen)  # whose first batch has not come
        while barrier.waiting:
            match await barrier.recv(Activations, Trained):
                case Activations(sender=k, values=z, labels=y) as batch if barrier.expects(batch):
                    await compute(me.block.step(z, y))
                    me.consumed(k)
                    heads.add(k, z, y)
                    if k in fresh:
                        fresh.discard(k)
                        await self.align(me, barrier.number, heads, d, batch)
                case Trained() as trained if barrier.deliver(trained):
                    devices.add(trained)
                case Disconnected(device=k):
                    barrier.leave(k)  # what has come of it stays
                case Timeout():
                    barrier.over()
                case _:
                    pass  # of an earlier round, or of a device that left during this one

    async def align(self, me: Server, t: int, heads: Alignment, d: Payload, batch: Activations) -> None:
        """Fit a device's head, if it is time; or send it the one that it has not, since it left and came back."""
        k = batch.sender
        if t % self.align_every == 0:
            how = Fitting(epochs=self.align_epochs, lr=self.align_lr, batch=self.align_batch)
            await compute(heads.fit(k, d, how))
        fitted = heads.head(k)
        if fitted is not None and batch.head < fitted[1]:
            await send(k, Head(*fitted))
