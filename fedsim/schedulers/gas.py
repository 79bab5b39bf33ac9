"""GAS: asynchronous split training whose server block also trains on activations drawn by label.

Yang, Liu, "GAS: Generative Activation-Aided Asynchronous Split Federated Learning", AAAI 2025, arXiv 2409.01251. A
device gets its gradient at once; the server block takes a step on a buffer of batches, filled up so that every label is
there alike. `until.rounds` counts device blocks that have come: that many for each device. In the authors' code 10 of
20 devices train at once in turns of 20 batches of 32, by SGD of 0.01 with momentum 0.9, weight decay 5e-4 and gradients
clipped at 10, which are keys of the scenario's `training`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from fedsim.learning.context import Device, Job, Server
from fedsim.learning.generating import Buffer, Covariance
from fedsim.learning.learners import Batch, batch_size
from fedsim.schedulers.options import check_concurrency, check_local
from fedsim.schedulers.turns import Turns
from fedsim.script import SERVER, Connected, Disconnected, Message, Payload, Role, compute, recv, send


@dataclass(frozen=True, slots=True)
class Block(Message):
    """Server to device: begin a turn from this device block."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d
    round: int
    turn: int
    """Number of this message, which all that comes of it carries: what is from before a device left is told apart."""


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, its labels, and which samples of which pass they are of."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y
    turn: int
    epoch: int
    start: int


@dataclass(frozen=True, slots=True)
class Gradient(Message):
    """Server to device: the loss gradient at those activations."""

    role: ClassVar[Role] = Role.GRADIENT
    values: Payload  # ∂loss/∂z
    turn: int


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: the device block at the end of a turn."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # d_k
    turn: int


@dataclass(frozen=True, kw_only=True)
class Gas:
    """Generative activation-aided asynchronous split federated learning."""

    generate: bool = True
    """Whether activations are drawn until each label of a server step has as many samples as a batch."""
    adjust_logits: bool = True
    """Whether a device's gradient is of logits + log(shares of labels in its data)."""
    covariance: Covariance = "auto"
    """Of a label's activations: a `full` matrix, or the `diagonal` alone; `auto` takes the diagonal where a sample has
    more than 1,024 values."""
    buffer: int | None = None  # Q
    """Batches of a step of the server block; by default as many as devices train at once."""
    blocks: int | None = None
    """Device blocks that are averaged to the next one; by default as many as devices train at once."""
    concurrency: int | None = None
    """Devices that train at the same time, at most; the others sit out until it is their turn. By default as many as a
    round of `selection` has."""
    local_steps: int | None = None  # H
    """Batches of a device's turn; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data in the place of that, where `local_steps` is not given."""

    splits: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Block, Activations, Gradient, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        check_concurrency(self.concurrency)
        for name in ("buffer", "blocks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} must be 1 or more")
        if self.covariance != "auto" and not self.generate:
            raise ValueError(f"covariance: {self.covariance} is for activations that are drawn: generate: on")

    @property
    def needs_labels(self) -> bool:
        """Whether the server has to know which labels devices hold."""
        return self.generate or self.adjust_logits

    def settled(self, job: Job) -> Self:
        """The same with what was left open."""
        places = job.places(self.concurrency)
        return replace(self, concurrency=places, buffer=self.buffer or places, blocks=self.blocks or places)

    def buffered(self, job: Job) -> int:
        """Samples whose activations the server may hold."""
        return (self.buffer or job.places(self.concurrency)) * job.batch

    # ------------------------------------------------------------------------------------------- device

    async def device(self, me: Device) -> None:
        """Turn after turn, each from the newest device block."""
        block = await recv(Block)
        while True:
            me.block.load(block.weights, block.round)
            block = await self.train(me, block.turn) or await recv(Block)

    async def train(self, me: Device, turn: int) -> Block | None:
        """A turn, and the block sent; answers with another order, if one comes before that."""
        for batch in me.batches(self.local_steps, self.local_epochs):
            if other := await self.step(me, batch, turn):
                me.block.abandon()  # the server had not noticed that this device was back
                return other
        await send(SERVER, Trained(me.block.take(), turn))
        return None

    async def step(self, me: Device, batch: Batch, turn: int) -> Block | None:
        """One batch: forward, wait for the gradient, backward."""
        z = await compute(me.block.forward(batch))
        await send(SERVER, Activations(z, me.block.labels(batch), turn, batch.epoch, batch.start))
        while True:
            match await recv(Gradient, Block):
                case Block() as other:
                    return other
                case Gradient(values=g, turn=of) if of == turn:
                    await compute(me.block.backward(g))  # and the optimizer's step
                    return None

    # ------------------------------------------------------------------------------------------- server

    async def server(self, me: Server) -> None:
        """A gradient for every batch, a step of s for every Q of them, a new d for so many device blocks."""
        d, came, devices = me.initial, 0, len(me.devices)
        at_once = me.job.places(self.concurrency)
        crew, turns = me.crew(self.concurrency), Turns()
        buffer, blocks = me.buffer(self.covariance, draws=self.generate), self.blocks or at_once
        mean = me.mean(range(blocks), "uniform", base=d)  # by order of arrival: a device may be in it twice
        me.publish(d, me.block.weights())
        for k in crew.active:
            await send(k, Block(me.fit(d, k), 0, turns.begin(k)))
        while me.updates is None or came < me.updates:
            match await recv(Activations, Trained, Disconnected, Connected):
                case Activations(sender=k, values=z, labels=y) as batch:
                    if turns.number.get(k) == batch.turn:
                        g = await compute(me.block.gradient(z, y, self.shares(me, k)))
                        await send(k, Gradient(g, batch.turn))
                    buffer.add(k, z, y, self.tally(me, batch), turns.weigh(k))
                    if len(buffer) == (self.buffer or at_once):
                        await self.train_server(me, buffer)
                        turns.steps += 1
                    continue
                case Trained(sender=k, weights=d_k, turn=turn) if turns.number.get(k) == turn:
                    mean.put(mean.members, d_k, 1)
                    came += 1
                    if mean.members == blocks:
                        d = await compute(mean.result())
                        mean = me.mean(range(blocks), "uniform", base=d)
                        turns.aggregated()
                        me.publish(d, me.block.weights())
                    me.block.pace(came // devices)
                    next_one: int | None = crew.turn(k)
                case Disconnected() | Connected() as notice:
                    turns.number.pop(notice.device, None)
                    next_one = crew.heed(notice)
                case _:
                    continue  # of a device that has left meanwhile
            if next_one is not None:
                await send(next_one, Block(me.fit(d, next_one), came // devices, turns.begin(next_one)))
        if mean.members:
            me.publish(d, me.block.weights())  # blocks that are too few change nothing, but s has gone on

    async def train_server(self, me: Server, buffer: Buffer) -> None:
        """A step on what is in the buffer, and on what is drawn beside it."""
        z = await compute(buffer.replenished(me.batch)) if self.generate else buffer.joined()
        sources = buffer.sources
        await compute(buffer.step(me.block, z))
        for k in sources:
            me.consumed(k)

    def tally(self, me: Server, batch: Activations) -> tuple[int, ...]:
        """How many of each label a batch has; nothing, where nobody draws."""
        which = Batch(batch.epoch, batch.start, batch_size(batch.values))
        return me.tally(batch.sender, which) if self.generate else ()

    def shares(self, me: Server, device: int) -> tuple[float, ...]:
        """Of each label in a device's data; nothing, where logits are not adjusted."""
        if not self.adjust_logits:
            return ()
        counts = me.label_counts(device)
        return tuple((counts / counts.sum()).tolist())
