"""LocSplitFed: split federated learning on local losses, which the server sends no gradient for.

Han, Bhatti, Lee, Moon, "Accelerating Federated Learning with Split Learning on Locally Generated Losses", FL-ICML 2021.
Devices train their block through an auxiliary head, the server its copies on the activations that come; all are
averaged each round. The server acknowledges nothing, so a device never waits within a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from fedsim.learning.context import Device, Server
from fedsim.learning.learners import Learner
from fedsim.learning.rounds import Barrier
from fedsim.learning.sums import Mean
from fedsim.schedulers.options import check_local, newest
from fedsim.script import SERVER, Disconnected, Message, Payload, Role, Timeout, broadcast, compute, send


@dataclass(frozen=True, slots=True)
class Train(Message):
    """Server to device: begin a round from this device block."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d and a
    round: int  # t


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, and its labels."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y
    round: int


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: the device block at the end of the round."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # d_k and a_k
    samples: int  # n_k
    round: int


@dataclass(frozen=True, kw_only=True)
class LocSplitFed:
    """Split federated learning on locally generated losses."""

    upload_every: int = 1  # h
    """Every how many batches of a round the activations are sent, from the first on."""
    aggregate_aux: bool = True
    """Whether heads are averaged and sent with the device blocks; otherwise each device keeps its own."""
    local_steps: int | None = None  # H
    """Batches a device trains in a round; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data that a device trains in a round, where `local_steps` is not given."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a device in the averages: its number of samples, or the same for all."""

    splits: ClassVar[bool] = True
    fresh_rounds: ClassVar[bool] = True
    local_loss: ClassVar[bool] = True
    shared: ClassVar[bool] = False
    """Whether one server block takes all batches, in the place of a copy a device."""
    messages: ClassVar[tuple[type[Message], ...]] = (Train, Activations, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        if self.upload_every < 1:
            raise ValueError(f"upload_every {self.upload_every} must be 1 or more")

    async def device(self, me: Device) -> None:
        """Round after round, from the newest device block."""
        while True:
            train = await newest(me, Train)
            me.block.load(train.weights, train.round)
            await self.local_round(me, train.round)
            weights = me.block.take() if self.aggregate_aux else me.block.weights("block")
            await send(SERVER, Trained(weights, me.samples, train.round))

    async def local_round(self, me: Device, t: int) -> None:
        """Steps on the local loss; every h-th batch's activations leave while the next is computed."""
        for i, batch in enumerate(me.batches(self.local_steps, self.local_epochs)):
            z = await compute(me.block.local_step(batch))
            if i % self.upload_every == 0:
                await send(SERVER, Activations(z, me.block.labels(batch), t))

    async def server(self, me: Server) -> None:
        """A round: give d and a out, train on what comes, average."""
        s = me.block.weights()
        d = me.initial if self.aggregate_aux else me.without_head(me.initial)
        me.publish(d, s)
        for t in count() if me.rounds is None else range(me.rounds):
            chosen = await me.sample()
            me.block.pace(t)
            copies = {} if self.shared else {k: me.block.clone() for k in chosen}
            part: Literal["weights", "block"] = "weights" if self.aggregate_aux else "block"
            devices = me.mean(expected=chosen, weighting=self.weighting, part=part, base=d)
            servers = me.mean(expected=chosen, weighting=self.weighting, of="copies")
            with me.round(t, chosen) as barrier:
                await broadcast(chosen, lambda k: Train(me.fit(d, k), t))
                await self.serve(me, barrier, copies, devices, servers)
                for copy in copies.values():
                    copy.close()  # of those that were too late
                if devices.members:
                    d = await compute(devices.result())
                if servers.members:
                    s = await compute(servers.result())
                    me.block.load(s)
            if self.shared:
                s = me.block.weights()
            me.publish(d, s)

    async def serve(
        self, me: Server, barrier: Barrier, copies: dict[int, Learner], devices: Mean, servers: Mean
    ) -> None:
        """Train on batches in order of arrival, so that a device's `Trained` comes after all its activations."""
        while barrier.waiting:
            match await barrier.recv(Activations, Trained):
                case Activations(sender=k, values=z, labels=y) as batch if barrier.expects(batch):
                    await compute(copies.get(k, me.block).step(z, y))
                    me.consumed(k)
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
                    pass  # of an earlier round, or of a device that left during this one
