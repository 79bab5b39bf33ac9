"""PiPar: split training in micro-batches, so that a device computes while its activations and gradients travel.

Zhang, Rodgers, Kilpatrick, Spence, Varghese, "PiPar: Pipeline Parallelism for Collaborative Machine Learning", JPDC 193
(2024), arXiv 2302.12803. A batch of B samples is cut into micro-batches of b = ⌊B/M⌋; what does not fill one is
dropped, as in the authors' code (blessonvar/PipeLearn), and marked. Rounds, copies and averages are SplitFed V1's.

Of that code's other settings, `half_duplex` is a property of the scenario's links here, and profiling takes no steps,
since the profiler reads the cost model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from fedsim.learning.context import Device, Server
from fedsim.learning.learners import Batch, Learner
from fedsim.learning.rounds import Barrier
from fedsim.learning.sums import Mean
from fedsim.schedulers.options import check_local, newest
from fedsim.schedulers.splitfed import Train, Trained
from fedsim.script import SERVER, Disconnected, Message, Payload, Role, Timeout, broadcast, compute, recv, send


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a micro-batch's activations at the cut, and its labels."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y
    number: int  # i
    used: int  # M', micro-batches of this batch
    round: int


@dataclass(frozen=True, slots=True)
class Gradient(Message):
    """Server to device: the gradient at those activations of their share of the batch's loss."""

    role: ClassVar[Role] = Role.GRADIENT
    values: Payload  # ∂loss/∂z
    number: int  # i
    round: int


@dataclass(frozen=True, kw_only=True)
class PiPar:
    """Pipelined split federated learning."""

    micro_batches: int | Literal["auto"] = "auto"  # M
    """Micro-batches of a batch, a sample each at least; by default the number that the profiler finds for the slowest
    device."""
    background: bool = True
    """Whether a device computes while it sends; otherwise it first waits until its activations have arrived, as by the
    default of the authors' code."""
    immediate_update: bool = False
    """Whether the server steps on the loss of every micro-batch, as an option of the authors' code has it; a device's
    one step a batch then is on the sum of these losses. Otherwise both step once a batch, on the mean."""
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
        if self.micro_batches != "auto" and self.micro_batches < 1:
            raise ValueError(f"micro_batches {self.micro_batches} must be 1 or more, or auto")

    # ------------------------------------------------------------------------------------------- device

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
        """All forwards back to back while activations leave, all backwards as gradients come, then one step."""
        parts = self.parts(batch, me.batch)
        if dropped := batch.size - sum(part.size for part in parts):
            me.mark("dropped", dropped)
        for i, part in enumerate(parts):
            z = await compute(me.block.forward(part, tag=i))
            activations = Activations(z, me.block.labels(part), i, len(parts), t)
            await send(SERVER, activations, blocking=not self.background)  # or it leaves while the next is computed
        left = len(parts)
        while left:
            match await recv(Gradient, Train):
                case Train() as next_one:
                    return next_one
                case Gradient(values=g, number=i, round=r) if r == t:
                    left -= 1
                    await compute(me.block.backward(g, tag=i, step=not left))
        return None

    def parts(self, batch: Batch, usual: int) -> tuple[Batch, ...]:
        """A batch in micro-batches of b = ⌊B/M⌋ samples, without the ragged tail; a shorter batch is one by itself."""
        assert self.micro_batches != "auto", "the profiler has not run"
        size = min(max(1, usual // self.micro_batches), batch.size)  # b
        starts = range(batch.start, batch.start + batch.size - size + 1, size)
        return tuple(Batch(batch.epoch, start, size) for start in starts)

    # ------------------------------------------------------------------------------------------- server

    async def server(self, me: Server) -> None:
        """SplitFed's rounds: give d out, serve micro-batches on each device's copy, average both halves."""
        d, s = me.initial, me.block.weights()
        me.publish(d, s)
        for t in count() if me.rounds is None else range(me.rounds):
            chosen = await me.sample()
            me.block.pace(t)
            copies = {k: me.block.clone() for k in chosen}
            devices = me.mean(expected=chosen, weighting=self.weighting, base=d)
            servers = me.mean(expected=chosen, weighting=self.weighting, of="copies")
            with me.round(t, chosen) as barrier:
                await broadcast(chosen, lambda k: Train(me.fit(d, k), t))
                await self.serve(me, barrier, copies, devices, servers)
                for copy in copies.values():
                    copy.close()  # of those that were too late
                if devices.members:
                    d = await compute(devices.result())
                    s = await compute(servers.result())
                    me.block.load(s)
            me.publish(d, s)

    async def serve(
        self, me: Server, barrier: Barrier, copies: dict[int, Learner], devices: Mean, servers: Mean
    ) -> None:
        """Gradients of micro-batches add up on a device's copy, in order; the last one of a batch brings the step."""
        while barrier.waiting:
            match await barrier.recv(Activations, Trained):
                case Activations(sender=k, values=z, labels=y, number=i, used=used) as part if barrier.expects(part):
                    together = 1 if self.immediate_update else used  # micro-batches of a step
                    last = (i + 1) % together == 0
                    g = await compute(copies[k].accumulate(z, y, 1 / together, step=last))
                    for _ in range(together if last else 0):
                        me.consumed(k)
                    await send(k, Gradient(g, i, barrier.number))
                case Trained(sender=k, samples=n) as trained if barrier.deliver(trained):
                    devices.add(trained)
                    servers.put(k, copies.pop(k).take(), n)
                case Disconnected(device=k) if barrier.leave(k):
                    copies.pop(k).close()  # what it has learnt is dropped, and what it has added up
                case Timeout():
                    barrier.over()
                case _:
                    pass  # of an earlier round, or of a device that left during this one
