"""SplitFed V1: device and server train a cut model together, batch by batch; both halves are averaged each round.

Thapa, Mahawaga Arachchige, Camtepe, Sun, "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022,
arXiv 2004.12088, algorithm 1 (SFLV1): the server keeps one copy of its block a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from fedsim.learning.context import Device, Server
from fedsim.learning.learners import Batch
from fedsim.schedulers.options import check_local
from fedsim.script import SERVER, Disconnected, Message, Payload, Role, broadcast, compute, recv, send


@dataclass(frozen=True, slots=True)
class Train(Message):
    """Server to device: begin a round from this device block."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, and its labels."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y


@dataclass(frozen=True, slots=True)
class Gradient(Message):
    """Server to device: the loss gradient at those activations."""

    role: ClassVar[Role] = Role.GRADIENT
    values: Payload  # ∂loss/∂z


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: the device block at the end of the round."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # d_k
    samples: int  # n_k


@dataclass(frozen=True, kw_only=True)
class SplitFed:
    """SplitFed V1."""

    local_steps: int | None = None  # H
    """Batches a device trains in a round; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data that a device trains in a round, where `local_steps` is not given."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a device in the averages: its number of samples, or the same for all."""

    splits: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Train, Activations, Gradient, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)

    async def device(self, me: Device) -> None:
        """Forward, wait for the gradient, backward; at the end of the round send the block."""
        while True:
            me.block.load((await recv(Train)).weights)
            for batch in me.batches(self.local_steps, self.local_epochs):
                await self.step(me, batch)
            await send(SERVER, Trained(me.block.take(), samples=me.samples))

    async def step(self, me: Device, batch: Batch) -> None:
        """One batch. What it holds goes with it: a device that waits for its next round keeps no activations."""
        z = await compute(me.block.forward(batch))
        await send(SERVER, Activations(z, me.block.labels(batch)))
        gradient = await recv(Gradient)
        await compute(me.block.backward(gradient.values))  # and the optimizer's step

    async def server(self, me: Server) -> None:
        """Serve batches as they come, each on its device's copy; average both halves once all are done."""
        d, s = me.initial, me.block.weights()
        me.publish(d, s)
        for t in count() if me.rounds is None else range(me.rounds):
            chosen = await me.sample()
            copies = {k: me.block.clone() for k in chosen}
            devices = me.mean(expected=chosen, weighting=self.weighting)
            servers = me.mean(expected=chosen, weighting=self.weighting, of="copies")
            with me.round(t, chosen):
                await broadcast(chosen, Train(d))
                open_ones = set(chosen)
                while open_ones:
                    match await recv(Activations, Trained, Disconnected):
                        case Activations(sender=k, values=z, labels=y) if k in open_ones:
                            g = await compute(copies[k].train_step(z, y))
                            await send(k, Gradient(g))
                        case Trained(sender=k, samples=n) as trained if k in open_ones:
                            devices.add(trained)
                            servers.put(k, copies.pop(k).take(), n)
                            open_ones.remove(k)
                        case Disconnected(device=k) if k in open_ones:
                            copies.pop(k).close()  # what this copy has learnt is dropped
                            open_ones.remove(k)
                        case _:
                            pass  # of a device that left during the round
                if devices.members:
                    d = await compute(devices.result())
                    s = await compute(servers.result())
                    me.block.load(s)
            me.publish(d, s)
