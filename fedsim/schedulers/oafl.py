"""OAFL: split training with asynchronous aggregation; no device waits for another one.

The class of systems that offload a part of the model and aggregate without a barrier; no paper of this name is known.
SplitFed version 1's batches, FedAsync's aggregation: after its local steps a device sends its block, the server mixes
both halves into the global ones, and the device goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from fedsim.learning.context import Device, Job, Server
from fedsim.learning.learners import Batch, Learner
from fedsim.schedulers.options import check_concurrency, check_local
from fedsim.schedulers.staleness import Staleness, check_mixing, mixing, usual
from fedsim.script import SERVER, Connected, Disconnected, Message, Payload, Role, compute, recv, send


@dataclass(frozen=True, slots=True)
class Block(Message):
    """Server to device: go on from this device block."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d
    version: int  # t
    round: int
    turn: int
    """Number of this message, which all that comes of it carries: what is from before a device left is told apart."""


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, and its labels."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y
    turn: int


@dataclass(frozen=True, slots=True)
class Gradient(Message):
    """Server to device: the loss gradient at those activations."""

    role: ClassVar[Role] = Role.GRADIENT
    values: Payload  # ∂loss/∂z
    turn: int


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: what came of a device block, and which version that was."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # d_k
    version: int
    turn: int


@dataclass(frozen=True, kw_only=True)
class Oafl:
    """Offloading with asynchronous aggregation."""

    server_block: Literal["copies", "shared"] = "copies"
    """A copy of the server block for each device, mixed in with its device block; or one that all batches train."""
    alpha: float = 0.6
    """Weight of fresh blocks in the mixture."""
    staleness: Staleness = "polynomial"
    """How that falls with staleness: `polynomial`, `hinge` or `constant`."""
    a: float | None = None
    """Parameter of the staleness function; by default 0.5 for polynomial, 10 for hinge."""
    b: int = 4
    """Staleness up to which `hinge` takes nothing off."""
    concurrency: int | None = None
    """Devices that train at the same time, at most; the others sit out until it is their turn. By default as many as a
    round of `selection` has."""
    local_steps: int | None = None  # H
    """Batches a device trains before it sends its block; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data in the place of that, where `local_steps` is not given."""

    splits: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Block, Activations, Gradient, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        check_mixing(self.alpha, self.staleness, self.a, self.b)
        check_concurrency(self.concurrency)

    def settled(self, job: Job) -> Self:
        """The same with what was left open."""
        return replace(self, a=usual(self.staleness, self.a), concurrency=job.places(self.concurrency))

    @property
    def shared(self) -> bool:
        """Whether one server block takes all batches."""
        return self.server_block == "shared"

    # ------------------------------------------------------------------------------------------- device

    async def device(self, me: Device) -> None:
        """Turn after turn, each from the device block that the last one was mixed into."""
        block = await recv(Block)
        while True:
            me.block.load(block.weights, block.round)
            block = await self.train(me, block) or await recv(Block)

    async def train(self, me: Device, block: Block) -> Block | None:
        """A turn, and the block sent; answers with another order, if one comes before that."""
        for batch in me.batches(self.local_steps, self.local_epochs):
            if other := await self.step(me, batch, block.turn):
                me.block.abandon()  # the server had not noticed that this device had been away
                return other
        await send(SERVER, Trained(me.block.take(), block.version, block.turn))
        return None

    async def step(self, me: Device, batch: Batch, turn: int) -> Block | None:
        """One batch: forward, wait for the gradient, backward. What it holds goes with it."""
        z = await compute(me.block.forward(batch))
        await send(SERVER, Activations(z, me.block.labels(batch), turn))
        while True:
            match await recv(Gradient, Block):
                case Block() as other:
                    return other
                case Gradient(values=g, turn=of) if of == turn:
                    await compute(me.block.backward(g))  # and the optimizer's step
                    return None

    # ------------------------------------------------------------------------------------------- server

    async def server(self, me: Server) -> None:
        """Serve batches as they come; mix both halves in when a device is done, and start its copy anew."""
        d, s, t, devices = me.initial, me.block.weights(), 0, len(me.devices)
        crew = me.crew(self.concurrency)
        turns = Turns(me.block, shared=self.shared)
        me.publish(d, s)
        for k in crew.active:
            await send(k, Block(me.fit(d, k), t, 0, turns.begin(k)))
        while me.updates is None or t < me.updates:
            match await recv(Activations, Trained, Disconnected, Connected):
                case Activations(sender=k, values=z, labels=y, turn=turn) if turns.on(k, turn):
                    g = await compute(turns.block[k].train_step(z, y))
                    me.consumed(k)
                    await send(k, Gradient(g, turn))
                    continue
                case Trained(sender=k, weights=d_k, version=born, turn=turn) if turns.on(k, turn):
                    alpha_t = mixing(self.alpha, self.staleness, t - born, self.a, self.b)
                    d = await compute(me.mix(d, d_k, alpha_t))
                    if not self.shared:
                        me.block.load(await compute(me.mix(s, turns.block[k].weights(), alpha_t)))
                    turns.end(k)
                    t += 1
                    me.block.pace(t // devices)
                    s = me.block.weights()
                    me.publish(d, s)
                    next_one: int | None = crew.turn(k)
                case Disconnected() | Connected() as notice:
                    turns.end(notice.device)  # what its copy has learnt is dropped
                    next_one = crew.heed(notice)
                case _:
                    continue  # of a device that has left meanwhile
            if next_one is not None:
                await send(next_one, Block(me.fit(d, next_one), t, t // devices, turns.begin(next_one)))


class Turns:
    """Who trains on which server block: a turn lasts from a device block's download to its upload."""

    def __init__(self, block: Learner, *, shared: bool) -> None:
        self._block = block
        self._shared = shared
        self._count = 0
        self._number: dict[int, int] = {}
        self.block: dict[int, Learner] = {}
        """The copy of each device that trains, or the one block."""

    def begin(self, device: int) -> int:
        """A device begins; answers with the number of its turn."""
        self._count += 1
        self._number[device] = self._count
        self.block[device] = self._block if self._shared else self._block.clone()
        return self._count

    def on(self, device: int, turn: int) -> bool:
        """Whether this turn of a device goes on."""
        return self._number.get(device) == turn

    def end(self, device: int) -> None:
        """A device has done its turn, or has left."""
        if self._number.pop(device, None) is not None:
            block = self.block.pop(device)
            if not self._shared:
                block.close()
