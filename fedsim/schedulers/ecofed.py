"""EcoFed: a frozen device block, whose activations are sent now and then in 8 bits, and trained on again meanwhile.

Wu, Ullah, Rodgers, Kilpatrick, Spence, Varghese, "EcoFed: Efficient Communication for DNN Partitioning-Based Federated
Learning", TPDS 2024, arXiv 2304.05495. The device block is pre-trained: it is that of the scenario's `model.weights`,
or, where there are none, the initial one, which is a random projection. Every device has it from the start, since it
never changes, so no weights travel at all. 8 bits go from a batch's least value to its greatest; the published code
takes them from 0 to the greatest, which suits the outputs of a ReLU only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedsim.learning.context import Device, Job, Server
from fedsim.learning.learners import Learner
from fedsim.learning.pool import Pool, Store
from fedsim.learning.rounds import Barrier
from fedsim.learning.sums import Mean
from fedsim.payload.codecs import Int8
from fedsim.schedulers.options import check_local, counted, newest
from fedsim.script import SERVER, Disconnected, Message, Payload, Role, Timeout, broadcast, compute, send


@dataclass(frozen=True, slots=True)
class Refresh(Message):
    """Server to device: send activations of your data."""

    role: ClassVar[Role] = Role.CONTROL
    round: int  # t


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, and its labels."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y
    round: int


@dataclass(frozen=True, slots=True)
class Refreshed(Message):
    """Device to server: those were all."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    round: int


@dataclass(frozen=True, kw_only=True)
class EcoFed:
    """Partitioned federated learning with a pre-trained device block and replayed activations."""

    period: int = 2
    """Rounds from one refresh to the next: 1 refreshes always, and replays nothing."""
    quantise: bool = True
    """Whether activations travel in 8 bits a value, rather than in the scenario's codec."""
    local_steps: int | None = None
    """Batches that a device sends in a refresh; by default a whole pass over its data."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a device's copy of the server block in the average: its number of buffered samples, or the same."""
    store: Store = "ram"
    """Where the server keeps activations."""

    splits: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Refresh, Activations, Refreshed)

    def __post_init__(self) -> None:
        check_local(self.local_steps, 1)
        if self.period < 1:
            raise ValueError(f"period {self.period} must be 1 or more")

    def buffered(self, job: Job) -> int:
        """Samples whose activations the server holds in the end."""
        most = None if self.local_steps is None else self.local_steps * job.batch
        return sum(int(n) if most is None else min(int(n), most) for n in job.samples) if self.store == "ram" else 0

    async def device(self, me: Device) -> None:
        """A forward in `eval` mode whenever asked, and nothing else."""
        d = me.block.weights()  # pre-trained, and frozen
        while True:
            refresh = await newest(me, Refresh)
            me.block.load(d)
            for batch in me.batches(self.local_steps):
                z = await compute(me.block.infer(batch, codec=Int8() if self.quantise else None))
                await send(SERVER, Activations(z, me.block.labels(batch), refresh.round))
            me.block.close()
            await send(SERVER, Refreshed(refresh.round))

    async def server(self, me: Server) -> None:
        """Every few rounds on fresh activations, else on those of random devices that are in the buffers."""
        d, s, rng = me.initial, me.block.weights(), me.rng("replay")
        buffers: dict[int, Pool] = {}
        me.publish(d, s)
        for t in counted(me.rounds):
            me.block.pace(t)
            if t % self.period == 0 or not buffers:
                await self.refresh(me, t, buffers)
            else:
                count = min(me.participants, len(buffers))
                await self.replay(me, t, buffers, rng.choice(sorted(buffers), count, replace=False).tolist())
            s = me.block.weights()
            me.publish(d, s)

    async def refresh(self, me: Server, t: int, buffers: dict[int, Pool]) -> None:
        """Fill buffers anew, and train a copy of s on each device's activations as they come."""
        chosen = await me.sample()
        copies = {k: me.block.clone() for k in chosen}
        servers = me.mean(chosen, self.weighting, of="copies")
        for k in chosen:
            if k in buffers:
                buffers.pop(k).close()
        with me.round(t, chosen) as barrier:
            await broadcast(chosen, Refresh(t))
            await self.serve(me, barrier, buffers, copies, servers)
            for copy in copies.values():
                copy.close()  # of those that were too late
            if servers.members:
                me.block.load(await compute(servers.result()))

    async def serve(
        self, me: Server, barrier: Barrier, buffers: dict[int, Pool], copies: dict[int, Learner], servers: Mean
    ) -> None:
        """Take activations in until all devices have sent theirs."""
        while barrier.waiting:
            match await barrier.recv(Activations, Refreshed):
                case Activations(sender=k, values=z, labels=y) as batch if barrier.expects(batch):
                    if k not in buffers:
                        buffers[k] = me.pool(self.store)
                    buffers[k].add(k, z, y)
                    await compute(copies[k].step(z, y))
                    me.consumed(k)
                case Refreshed(sender=k) as last if barrier.deliver(last):
                    servers.put(k, copies.pop(k).take(), len(buffers[k]))
                case Disconnected(device=k) if barrier.leave(k):
                    copies.pop(k).close()  # what it has learnt is dropped; what has come stays in the buffer
                case Timeout():
                    barrier.over()
                case _:
                    pass  # of an earlier round, or of a device that left during this one

    async def replay(self, me: Server, t: int, buffers: dict[int, Pool], drawn: list[int]) -> None:
        """A copy of s for each device that was drawn, trained on its buffer; no device takes part."""
        servers = me.mean(drawn, self.weighting, of="copies")
        with me.round(t, ()):
            for k in drawn:
                copy = me.block.clone()
                for rows in buffers[k].batches():
                    await compute(buffers[k].step(copy, rows))
                    me.consumed(k)
                servers.put(k, copy.take(), len(buffers[k]))
            me.block.load(await compute(servers.result()))
