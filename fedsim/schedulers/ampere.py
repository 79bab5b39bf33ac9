"""Ampere: the device block first, by a local loss; then one transfer of activations; then the server block.

Inspired by Zhang, Wong, Varghese, "Ampere: Communication-Efficient and High-Accuracy Split Federated Learning", arXiv
2507.07130. Its abstract gives the order of the phases, the lightweight auxiliary network, the single transfer and the
consolidation of activations; the body was not available, so every further choice is an option with a default here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from fedsim.learning.context import Device, Job, Server
from fedsim.learning.pool import Pool, Store
from fedsim.schedulers.consolidation import epoch_of_copies, epoch_of_one
from fedsim.schedulers.exporting import Activations, Export, Exported, Transfer, export
from fedsim.schedulers.locsplitfed import Train, Trained
from fedsim.schedulers.options import Patience, check_local, counted, newest
from fedsim.script import (
    SERVER,
    Connected,
    Disconnected,
    Evaluate,
    Message,
    Payload,
    broadcast,
    compute,
    recv,
    send,
)


@dataclass(frozen=True, kw_only=True)
class Ampere:
    """Unidirectional inter-block training."""

    device_rounds: int | None = None  # R_d
    """Rounds of the device blocks; by default `until.rounds`."""
    server_epochs: int | None = None  # E_s
    """Passes of the server block over the pool; by default `until.rounds`."""
    local_steps: int | None = None  # H
    """Batches a device trains in a round; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data that a device trains in a round, where `local_steps` is not given."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a device in the averages: its number of samples, or the same for all."""
    aggregate_aux: bool = True
    """Whether heads are averaged with the device blocks; otherwise each device keeps its own."""
    activations_from: Literal["aggregated", "local"] = "aggregated"
    """The block that makes the activations: the aggregated one, or each device's own as it last trained it. A device
    that has trained none, or has lost it by leaving, takes the aggregated one all the same."""
    export_mode: Literal["eval", "train"] = "eval"
    """Whether that block normalises by its statistics, or by each batch and with dropout."""
    augment_copies: int = 0  # m
    """Copies of each image, shifted and mirrored at random, that are exported in the place of the image; 0: itself."""
    transfer: Transfer = "background"
    """Each batch leaves when it is computed; or all leave once all are computed; or, as the first, and the server
    trains on uniform draws of what has arrived meanwhile."""
    consolidation: Literal["pooled", "per_device", "copies"] = "pooled"
    """Batches of all devices mixed; or each of one device, device after device; or a copy a device, averaged at the end
    of every epoch."""
    stop_device: int | None = None
    """Rounds without a lower held-out loss of a∘d after which phase 1 ends."""
    stop_server: int | None = None
    """Epochs without a lower held-out loss of s∘d after which phase 3 ends."""
    store: Store = "ram"
    """Where the activations are kept."""

    splits: ClassVar[bool] = True
    fresh_rounds: ClassVar[bool] = True
    local_loss: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Train, Trained, Export, Activations, Exported)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        for name in ("device_rounds", "server_epochs", "stop_device", "stop_server"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} must be 1 or more, or left out")
        if self.augment_copies < 0:
            raise ValueError(f"augment_copies {self.augment_copies} must be 0 or more")
        if self.stop_device is not None and not self.aggregate_aux:
            raise ValueError("stop_device goes by the loss of a∘d, so it needs a head for all: aggregate_aux: true")
        if self.consolidation != "pooled" and self.transfer == "stream":
            raise ValueError(f"consolidation: {self.consolidation} needs the whole pool, not transfer: stream")

    def settled(self, job: Job) -> Self:
        """The same with what was left open."""
        rounds, epochs = self.device_rounds or job.rounds, self.server_epochs or job.rounds
        return replace(self, device_rounds=rounds, server_epochs=epochs)

    def buffered(self, job: Job) -> int:
        """Samples whose activations the server holds."""
        return self.copies * int(sum(job.samples)) if self.store == "ram" else 0

    @property
    def validates(self) -> bool:
        """Whether held-out results decide anything."""
        return self.stop_device is not None or self.stop_server is not None

    # ------------------------------------------------------------------------------------------- device

    async def device(self, me: Device) -> None:
        """Rounds on the local loss; then, once, all activations; then nothing more."""
        local = False  # whether the block is its own
        while True:
            order: Train | Export = await newest(me, Train, Export)
            match order:
                case Train(weights=w, round=t):
                    me.block.load(w, t)
                    await compute(me.block.train(me.batches(self.local_steps, self.local_epochs)))
                    own = not self.aggregate_aux or self.activations_from == "local"  # is needed again
                    d = me.block.weights(self.part) if own else me.block.take(self.part)
                    local = self.activations_from == "local"
                    await send(SERVER, Trained(d, me.samples, t))
                case Export(weights=d):
                    if not local:
                        me.block.load(d)
                    await export(me, self.export_mode, self.augment_copies, self.transfer)
                    return

    # ------------------------------------------------------------------------------------------- server

    async def server(self, me: Server) -> None:
        """The three phases."""
        d, stop = await self.train_devices(me), Patience(self.stop_server)
        pool, done, over = await self.collect(me, d, stop)
        if len(pool) and not over:
            await self.train_server(me, d, pool, done, stop)

    @property
    def part(self) -> Literal["weights", "block"]:
        """What devices send of their blocks."""
        return "weights" if self.aggregate_aux else "block"

    async def train_devices(self, me: Server) -> Payload:
        """Phase 1: FedAvg on a∘d; answers with d."""
        s = me.block.weights()
        da = me.initial if self.aggregate_aux else me.without_head(me.initial)
        stop = Patience(self.stop_device)
        me.publish(da, s)
        for t in counted(self.device_rounds or me.rounds):
            chosen = await me.sample()
            with me.round(t, chosen) as barrier:
                await broadcast(chosen, lambda k: Train(me.fit(da, k), t))
                total = me.mean(expected=chosen, weighting=self.weighting, part=self.part, base=da)
                if await barrier.gather(Trained, into=total):
                    da = await compute(total.result())
            me.publish(da, s)
            if self.stop_device and stop.now((await Evaluate((da,), "validation")).loss):
                break
        return me.without_head(da) if self.aggregate_aux else da

    async def collect(self, me: Server, d: Payload, stop: Patience) -> tuple[Pool, int, bool]:
        """Phase 2: every device's activations, once; answers with them, the steps that were taken meanwhile, and
        whether these were enough.

        Who leaves is not waited for: its whole batches stay. Who comes, or is back and had sent none, is asked as well.
        """

        def order(k: int) -> Export:
            return Export(me.fit(d, k))

        while not (exporting := set(me.present())):
            await recv(Connected)
        await broadcast(sorted(exporting), order)
        pool, done, rng, gave = me.pool(self.store), 0, me.rng("stream"), set[int]()
        samples = self.copies * sum(me.samples(k) for k in me.devices)
        each = pool.steps(samples, me.batch)  # steps of an epoch, if everything arrives
        most, over = (self.server_epochs or me.rounds or math.inf) * each, False
        while exporting:
            while me.inbox.poll(Trained) is not None:
                pass  # too late for phase 1
            message = me.inbox.poll(Activations, Exported, Disconnected, Connected)
            if message is None and self.transfer == "stream" and len(pool) and done < most and not over:
                me.block.pace(done // each)
                await compute(pool.step(me.block, pool.drawn(rng, me.batch)))
                done += 1
                over = done % each == 0 and await self.epoch_over(me, d, stop)
                continue
            match message or await recv(Activations, Exported, Disconnected, Connected):
                case Activations(sender=k, values=z, labels=y):
                    gave.add(k)
                    pool.add(k, z, y)
                case Exported(sender=k) | Disconnected(device=k):
                    exporting.discard(k)
                case Connected(device=k) if k not in gave:
                    exporting.add(k)
                    await send(k, order(k))
        me.mark("coverage", len(pool) / samples)
        return pool, done, over

    @property
    def copies(self) -> int:
        """How often each sample is exported."""
        return max(1, self.augment_copies)

    async def train_server(self, me: Server, d: Payload, pool: Pool, done: int, stop: Patience) -> None:
        """Phase 3: passes over the pool; `done` steps count towards them already."""
        rng = me.rng("pool")
        first, done = divmod(done, pool.steps(len(pool), me.batch))
        for epoch in counted(self.server_epochs or me.rounds, first):
            me.block.pace(epoch)
            if self.consolidation == "copies":
                await epoch_of_copies(me, pool, rng, self.weighting)
            else:
                await epoch_of_one(me, pool, rng, by=self.consolidation, done=done)
                done = 0
            if await self.epoch_over(me, d, stop):
                break

    async def epoch_over(self, me: Server, d: Payload, stop: Patience) -> bool:
        """Publish what an epoch has made of s; answers whether that was the last one."""
        s = me.block.weights()
        me.publish(d, s)
        return self.stop_server is not None and stop.now((await Evaluate((d, s), "validation")).loss)
