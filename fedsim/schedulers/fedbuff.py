"""FedBuff: devices send how far they have moved; the server moves by so many of them at a time.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous Aggregation",
AISTATS 2022, arXiv 2106.06639, algorithm 1. `until.rounds` counts what has come: that many for each device, whatever
the buffer; a buffer that is not full by then is not applied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from fedsim.learning.context import Device, Job, Server
from fedsim.schedulers.options import attend, check_concurrency, check_local, heed
from fedsim.schedulers.staleness import factor
from fedsim.script import SERVER, Connected, Disconnected, Message, Payload, Role, broadcast, compute, recv, send


@dataclass(frozen=True, slots=True)
class Model(Message):
    """Server to device: train from this version."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # w_t
    version: int  # t, server steps
    round: int
    life: int
    """How often the device has left: a new model answers what came of this one only if that is still so."""


@dataclass(frozen=True, slots=True)
class Change(Message):
    """Device to server: how far it has moved from a version, and which that was."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    change: Payload  # Δ_k of parameters; buffers as they are
    version: int
    life: int


@dataclass(frozen=True, kw_only=True)
class FedBuff:
    """Buffered asynchronous aggregation."""

    buffer: int = 10  # K_b
    """Changes that make a step of the server."""
    server_lr: float = 1.0  # η_g
    """How far the model moves along the mean change."""
    server_momentum: float = 0.0
    """Momentum of the server's steps."""
    denominator: Literal["buffer", "weights"] = "buffer"
    """What the sum of s(τ)·Δ is divided by: the size of the buffer, so that old changes count for less even among
    themselves, or the sum of s(τ)."""
    concurrency: int | None = None  # M_c
    """Devices that train at the same time, at most; the others sit out until it is their turn. By default as many as a
    round of `selection` has."""
    local_steps: int | None = None  # H
    """Batches a device trains before it sends its change; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data in the place of that, where `local_steps` is not given."""

    splits: ClassVar[bool] = False
    messages: ClassVar[tuple[type[Message], ...]] = (Model, Change)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        check_concurrency(self.concurrency)
        if self.buffer < 1:
            raise ValueError(f"buffer {self.buffer} must be 1 or more")
        if not self.server_lr > 0:
            raise ValueError(f"server_lr {self.server_lr} must be above 0")
        if not 0 <= self.server_momentum < 1:
            raise ValueError(f"server_momentum {self.server_momentum} must be at least 0 and below 1")

    def settled(self, job: Job) -> Self:
        """The same with what was left open."""
        return replace(self, concurrency=job.places(self.concurrency))

    async def device(self, me: Device) -> None:
        """Train on what comes, send how far that went."""
        while True:
            model = await recv(Model)
            me.model.load(model.weights, model.round, keep=(model.weights,))
            await compute(me.model.train(me.batches(self.local_steps, self.local_epochs)))
            change = me.model.change(since=model.weights)
            me.model.close()
            await send(SERVER, Change(change, model.version, model.life))

    async def server(self, me: Server) -> None:
        """w ← w + η_g/K_b·Σ s(τ_k)·Δ_k with every K_b changes; who sent one goes on at once, from w as it is."""
        w, t, came, devices = me.initial, 0, 0, len(me.devices)
        me.publish(w)
        crew, buffered = me.crew(self.concurrency), me.changes()

        def current(k: int) -> Model:
            return Model(me.fit(w, k), t, came // devices, crew.lives[k])

        await broadcast(crew.active, current)
        while me.updates is None or came < me.updates:
            match await recv(Change, Disconnected, Connected):
                case Change(sender=k, change=delta, version=born, life=life):
                    buffered.add(delta, factor("polynomial", t - born))  # s(τ) = 1/√(1 + τ)
                    came += 1
                    if buffered.members == self.buffer:
                        by = float(self.buffer) if self.denominator == "buffer" else buffered.total
                        step = buffered.applied(w, rate=self.server_lr, denominator=by, momentum=self.server_momentum)
                        w = await compute(step)
                        t += 1
                        me.publish(w)
                    await attend(me, crew, current)  # it may have left, and come back
                    if crew.lives[k] == life:
                        next_one = crew.turn(k)
                        await send(next_one, current(next_one))
                case Disconnected() | Connected() as notice:
                    await heed(crew, notice, current)
