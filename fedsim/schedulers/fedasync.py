"""FedAsync: the server mixes in each model as it comes, the less the older the one that it was trained from.

Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", arXiv 1903.03934, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from fedsim.learning.context import Device, Job, Server
from fedsim.learning.learners import Proximal
from fedsim.schedulers.options import attend, check_concurrency, check_local, heed
from fedsim.schedulers.staleness import Staleness, check_mixing, mixing, usual
from fedsim.script import SERVER, Connected, Disconnected, Message, Payload, Role, broadcast, compute, recv, send


@dataclass(frozen=True, slots=True)
class Model(Message):
    """Server to device: train from this version."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # w_t
    version: int  # t
    round: int
    life: int
    """How often the device has left: a new model answers what came of this one only if that is still so."""


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: what came of a version, and which that was."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # w_k
    version: int
    life: int


@dataclass(frozen=True, kw_only=True)
class FedAsync:
    """Asynchronous federated optimisation."""

    alpha: float = 0.6  # α
    """Weight of a fresh model in the mixture; 1 leaves nothing of the one before."""
    staleness: Staleness = "polynomial"  # s(τ)
    """How that falls with staleness τ: `polynomial` (τ + 1)^−a; `hinge` 1 up to b, then 1/(a(τ − b) + 1); or not at
    all, `constant`."""
    a: float | None = None
    """Parameter of the staleness function; by default 0.5 for polynomial, 10 for hinge."""
    b: int = 4
    """Staleness up to which `hinge` takes nothing off."""
    rho: float = 0.0  # ρ
    """Weight of a term rho/2·‖w − w_t‖² in the local loss."""
    concurrency: int | None = None
    """Devices that train at the same time, at most; the others sit out until it is their turn. By default as many as a
    round of `selection` has."""
    local_steps: int | None = None  # H
    """Batches a device trains before it sends its model; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data in the place of that, where `local_steps` is not given."""

    splits: ClassVar[bool] = False
    messages: ClassVar[tuple[type[Message], ...]] = (Model, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        check_mixing(self.alpha, self.staleness, self.a, self.b)
        check_concurrency(self.concurrency)
        if not self.rho >= 0:
            raise ValueError(f"rho {self.rho} must be 0 or more")

    def settled(self, job: Job) -> Self:
        """The same with what was left open."""
        return replace(self, a=usual(self.staleness, self.a), concurrency=job.places(self.concurrency))

    async def device(self, me: Device) -> None:
        """Train on what comes, send it back with the version that it came of."""
        while True:
            model = await recv(Model)
            pull = Proximal(model.weights, self.rho) if self.rho else None
            me.model.load(model.weights, model.round, keep=() if pull is None else (model.weights,))
            await compute(me.model.train(me.batches(self.local_steps, self.local_epochs), pull))
            await send(SERVER, Trained(me.model.take(), model.version, model.life))

    async def server(self, me: Server) -> None:
        """w ← (1 − α_t)·w + α_t·w_k with every model that comes; who sent it, or whose turn it is, goes on from w."""
        w, t, devices = me.initial, 0, len(me.devices)
        me.publish(w)
        crew = me.crew(self.concurrency)

        def current(k: int) -> Model:
            return Model(me.fit(w, k), t, t // devices, crew.lives[k])

        await broadcast(crew.active, current)
        while me.updates is None or t < me.updates:
            match await recv(Trained, Disconnected, Connected):
                case Trained(sender=k, weights=w_k, version=born, life=life):
                    alpha_t = mixing(self.alpha, self.staleness, t - born, self.a, self.b)
                    w = await compute(me.mix(w, w_k, alpha_t))
                    t += 1
                    me.publish(w)
                    await attend(me, crew, current)  # it may have left, and come back
                    if crew.lives[k] == life:
                        next_one = crew.turn(k)
                        await send(next_one, current(next_one))
                case Disconnected() | Connected() as notice:
                    await heed(crew, notice, current)
