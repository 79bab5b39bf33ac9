"""FedOptima: devices that wait for nobody, and one server block that takes from all of them alike.

Inspired by Zhang, Wong, Varghese, "Resource Utilization Optimized Federated Learning", arXiv 2504.13850 (version 2:
"FedOptima: Optimizing Resource Utilization in Federated Learning"). Its abstracts give asynchronous aggregation,
auxiliary networks, centralised training with a task scheduler that balances contributions, and a bounded memory. The
counters, the cap, the permission protocol and all formulas are interpretation: options with defaults here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, Self

from fedsim.learning.context import Device, Job, Server
from fedsim.schedulers.admission import Admission, Credit, Notice, Permission, Policy, admission
from fedsim.schedulers.options import check_local
from fedsim.schedulers.staleness import Staleness, check_mixing, mixing, usual
from fedsim.schedulers.tasks import Dequeue, Priority, Tasks
from fedsim.script import SERVER, Connected, Disconnected, Message, Payload, Role, broadcast, compute, recv, send

_OUTSTANDING: Final = 2


@dataclass(frozen=True, slots=True)
class Block(Message):
    """Server to device: go on from this device block."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # d and a
    version: int  # t
    round: int
    life: int
    """How often the device has left: a new block answers what came of this one only if that is still so."""


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: what came of a device block, and which version that was."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # d_k and a_k
    version: int
    life: int


@dataclass(frozen=True, slots=True)
class Activations(Message):
    """Device to server: a batch's activations at the cut, and its labels."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload  # z
    labels: Payload  # y


@dataclass(frozen=True, kw_only=True)
class FedOptima:
    """Asynchronous split training with balanced contributions and bounded memory."""

    local_steps: int | None = None  # H
    """Batches a device trains before it sends its block; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data in the place of that, where `local_steps` is not given."""
    activation_cap: int | None = None  # ω
    """Activation batches that the server holds, waits for or has promised to take; by default two a device."""
    admission: Policy = "grant"
    """`grant`: a credit at a time to the device that has contributed least. `slot`: the same quota for each. `fcfs`:
    whoever comes while there is room."""
    outstanding: int = _OUTSTANDING
    """Credits of one device that have not come back as a batch, at most; for `fcfs`, its batches that are under way."""
    dequeue: Dequeue = "least_consumed"
    """Whose batch is trained next: of the device that contributed least, or had its last turn first, or came first."""
    on_denied: Literal["skip", "wait"] = "skip"
    """What a device does without permission: drop the activations and train on; or wait for it and, where all may send
    (`fcfs`), until its batch has arrived as well."""
    release: Literal["end", "start"] = "end"
    """When a batch's place is free: once it has been trained, or once its training begins."""
    priority: Priority = "aggregation"
    """What comes first: device blocks, for which a device waits; activations; or, with `dequeue: fifo`, either."""
    alpha: float = 0.6
    """Weight of a fresh device block in the mixture."""
    staleness: Staleness = "polynomial"
    """How that falls with staleness."""
    a: float | None = None
    """Parameter of the staleness function; by default its own."""
    b: int = 4
    """Staleness up to which `hinge` takes nothing off."""

    splits: ClassVar[bool] = True
    local_loss: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    takes_all: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Block, Trained, Activations, Credit, Notice)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        check_mixing(self.alpha, self.staleness, self.a, self.b)
        for name in ("activation_cap", "outstanding"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} must be 1 or more")
        if self.outstanding != _OUTSTANDING and self.admission == "fcfs" and self.on_denied == "wait":
            raise ValueError(f"outstanding {self.outstanding} is not for fcfs with on_denied: wait; leave it out")
        if self.priority == "fifo" and self.dequeue != "fifo":
            raise ValueError(f"priority: fifo takes what came first, so dequeue must be fifo, not {self.dequeue}")

    def settled(self, job: Job) -> Self:
        """The same with what was left open.

        Raises:
            UserError: slots of which there are too few.
        """
        devices = len(job.samples)
        admission(self.admission, self.cap(devices), devices, self.outstanding)
        return replace(self, activation_cap=self.cap(devices), a=usual(self.staleness, self.a))

    def cap(self, devices: int) -> int:
        """ω: batches that the server holds, waits for or has promised to take, at most."""
        return 2 * devices if self.activation_cap is None else self.activation_cap

    def buffered(self, job: Job) -> int:
        """Samples whose activations the server may hold."""
        return self.cap(len(job.samples)) * job.batch

    # ------------------------------------------------------------------------------------------- device

    async def device(self, me: Device) -> None:
        """Train, send what is welcome, send the block; the next block is all it waits for."""
        permission = Permission(self.outstanding)
        alone = self.on_denied == "wait" and self.admission == "fcfs"
        while True:
            block = await recv(Block)
            me.block.load(block.weights, block.round)
            for batch in me.batches(self.local_steps, self.local_epochs):
                z = await compute(me.block.local_step(batch))
                if await self.welcome(me, permission):
                    await send(SERVER, Activations(z, me.block.labels(batch)), blocking=alone)
                else:
                    me.mark("skipped")  # no room at the server: train on
            await send(SERVER, Trained(me.block.take(), block.version, block.life))

    async def welcome(self, me: Device, permission: Permission) -> bool:
        """Whether the next batch may be sent; a device that waits for permission has it in the end."""
        if self.on_denied == "skip":
            return permission.used(me, me.outgoing(Activations))
        while not permission.used(me, under_way=0):
            permission.take(await recv(Credit, Notice))
        return True

    # ------------------------------------------------------------------------------------------- server

    async def server(self, me: Server) -> None:
        """Mix device blocks as they come; meanwhile train on activations, in turns that keep devices level."""
        d, t, devices = me.initial, 0, len(me.devices)
        places = admission(self.admission, self.cap(devices), devices, self.outstanding)
        tasks = Tasks(self.dequeue, self.priority, aggregation=Trained, training=Activations)
        lives = Counter[int]()

        def current(k: int) -> Block:
            return Block(me.fit(d, k), t, t // devices, lives[k])

        present = me.present()
        me.publish(d, me.block.weights())
        for k in present:
            places.join(k)
        await broadcast(present, current)
        while me.updates is None or t < me.updates:
            await self.attend(me, places, lives, current)
            await self.permit(places)
            message = await recv(Trained, Activations, Disconnected, Connected, by=tasks.rank)
            self.note(me, places)
            match message:
                case Trained(sender=k, weights=w, version=born, life=life):
                    d = await compute(me.mix(d, w, mixing(self.alpha, self.staleness, t - born, self.a, self.b)))
                    t += 1
                    me.block.pace(t // devices)
                    me.publish(d, me.block.weights())
                    await self.attend(me, places, lives, current)  # it may have left, and come back
                    if lives[k] == life:
                        await send(k, current(k))
                case Activations(sender=k, values=z, labels=y):
                    if self.release == "start":
                        places.free(k)
                        await self.permit(places)
                    await compute(me.block.step(z, y))
                    tasks.consume(k)
                    me.consumed(k)
                    if self.release == "end":
                        self.note(me, places)  # what came meanwhile found this place taken
                        places.free(k)
                case Disconnected() | Connected() as notice:
                    await self.heed(notice, places, lives, current)

    def note(self, me: Server, places: Admission) -> None:
        """Take note of the activations that have arrived, and refuse those that there is no place for."""
        for batch in me.inbox.arrived(Activations):
            if not places.arrive(batch.sender):
                me.inbox.drop(batch)
                me.rejected(batch.sender)

    async def attend(self, me: Server, places: Admission, lives: Counter[int], current: Callable[[int], Block]) -> None:
        """Take note of all that has happened."""
        self.note(me, places)  # first: what a device had sent before it left has arrived
        while (notice := me.inbox.poll(Disconnected, Connected)) is not None:
            await self.heed(notice, places, lives, current)

    async def permit(self, places: Admission) -> None:
        """Give permissions out."""
        for k, permission in places.due():
            await send(k, permission)

    async def heed(
        self, notice: Message, places: Admission, lives: Counter[int], current: Callable[[int], Block]
    ) -> None:
        """A device has left, with its credits; or is back, and begins with the current block."""
        if isinstance(notice, Connected):
            places.join(notice.device)
            await send(notice.device, current(notice.device))
        elif isinstance(notice, Disconnected):
            places.leave(notice.device)
            lives[notice.device] += 1
