"""SplitFed: device and server train a cut model together, batch by batch; device blocks are averaged each round.

Thapa, Mahawaga Arachchige, Camtepe, Sun, "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022,
arXiv 2004.12088. Version 1 (algorithm 1): the server keeps a copy of its block a device, and averages the copies as
well. Version 2 (section 3.2): it has one block, which all devices' batches train one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from fedsim.learning.context import Device, Server
from fedsim.learning.learners import Batch, Learner
from fedsim.learning.rounds import Barrier
from fedsim.learning.sums import Mean
from fedsim.schedulers.options import check_local, newest
from fedsim.script import SERVER, Disconnected, Message, Payload, Role, Timeout, broadcast, compute, recv, send


@dataclass(frozen=True, slots=True)
class Train(Message):
    """Server to device: begin a round from this device block."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d
    round: int  # t


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, and its labels."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y
    round: int


@dataclass(frozen=True, slots=True)
class Gradient(Message):
    """Server to device: the loss gradient at those activations."""

    role: ClassVar[Role] = Role.GRADIENT
    values: Payload  # ∂loss/∂z
    round: int


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: the device block at the end of the round."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # d_k
    samples: int  # n_k
    round: int


@dataclass(frozen=True, kw_only=True)
class SplitFed:
    """SplitFed, in both of its versions."""

    version: Literal[1, 2] = 1
    """1: the server keeps a copy of its block a device, and averages the copies each round. 2: one block for all."""
    order: Literal["arrival", "device"] = "arrival"
    """How version 2 serves: batches as they arrive, those of one moment in an order drawn for each round; or a device's
    whole round at a time, devices in that order."""
    local_steps: int | None = None  # H
    """Batches a device trains in a round; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data that a device trains in a round, where `local_steps` is not given."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a device in the averages: its number of samples, or the same for all."""

    splits: ClassVar[bool] = True
    fresh_rounds: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Train, Activations, Gradient, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        if self.order == "device" and self.version == 1:
            raise ValueError("order: device is for version 2; version 1 has a copy a device, so there is no order")

    @property
    def shared(self) -> bool:
        """Whether one server block takes all batches."""
        return self.version == 2

    async def device(self, me: Device) -> None:
        """Round after round, from the newest device block."""
        train = await newest(me, Train)
        while True:
            me.block.load(train.weights, train.round)
            train = await newest(me, Train, after=await self.local_round(me, train.round))

    async def local_round(self, me: Device, t: int) -> Train | None:
        """Train a round and send the block; answers with the next order, if that comes before the round is done."""
        for batch in me.batches(self.local_steps, self.local_epochs):
            if next_one := await self.step(me, batch, t):
                me.block.abandon()  # the others went on without this device
                return next_one
        await send(SERVER, Trained(me.block.take(), me.samples, t))
        return None

    async def step(self, me: Device, batch: Batch, t: int) -> Train | None:
        """One batch: forward, wait for the gradient, backward. What it holds goes with it."""
        z = await compute(me.block.forward(batch))
        await send(SERVER, Activations(z, me.block.labels(batch), t))
        while True:
            match await recv(Gradient, Train):
                case Train() as next_one:
                    return next_one
                case Gradient(values=g, round=r) if r == t:
                    await compute(me.block.backward(g))  # and the optimizer's step
                    return None

    async def server(self, me: Server) -> None:
        """A round: give d out, serve batches, average what came of it."""
        d, s = me.initial, me.block.weights()
        me.publish(d, s)
        for t in count() if me.rounds is None else range(me.rounds):
            chosen = await me.sample()
            me.block.pace(t)
            copies = {k: me.block.clone() for k in chosen} if self.version == 1 else {}
            devices = me.mean(expected=chosen, weighting=self.weighting, base=d)
            servers = me.mean(expected=chosen, weighting=self.weighting, of="copies")
            with me.round(t, chosen) as barrier:
                order = self.drawn(me, barrier)
                # In this order, so that what then comes at the same moment comes in it, too.
                await broadcast(order, lambda k: Train(me.fit(d, k), t))
                await self.serve(me, barrier, copies, devices, servers, order if self.order == "device" else ())
                for copy in copies.values():
                    copy.close()  # of those that were too late
                if devices.members:
                    d = await compute(devices.result())
                if servers.members:
                    s = await compute(servers.result())
                    me.block.load(s)
            if self.version == 2:
                s = me.block.weights()
            me.publish(d, s)

    async def serve(
        self,
        me: Server,
        barrier: Barrier,
        copies: dict[int, Learner],
        devices: Mean,
        servers: Mean,
        turns: Sequence[int],
    ) -> None:
        """Train each batch on its device's copy, or all on one block, until the round is complete.

        With `turns`, one device after the other.
        """
        while barrier.waiting:
            match await barrier.recv(Activations, Trained, source=turns[0] if turns else None):
                case Activations(sender=k, values=z, labels=y) as batch if barrier.expects(batch):
                    g = await compute(copies.get(k, me.block).train_step(z, y))  # from before the step
                    me.consumed(k)
                    await send(k, Gradient(g, barrier.number))
                    continue
                case Trained(sender=k, samples=n) as trained if barrier.deliver(trained):
                    devices.add(trained)
                    if k in copies:
                        servers.put(k, copies.pop(k).take(), n)
                case Disconnected(device=k) if barrier.leave(k):
                    if k in copies:
                        copies.pop(k).close()  # what it has learnt is dropped
                case Timeout():
                    barrier.over()
                case _:
                    continue  # of an earlier round, or of a device that left during this one
            turns = [k for k in turns if k in barrier.missing]

    def drawn(self, me: Server, barrier: Barrier) -> Sequence[int]:
        """The devices of a round; where they share a block, in an order that is drawn for each round."""
        if self.version == 1:
            return barrier.chosen
        drawn = me.rng(f"order {barrier.number}").permutation(len(barrier.chosen))
        return [barrier.chosen[i] for i in drawn.tolist()]
