"""FedAvg: every device trains the whole model for a while, the server averages what comes back.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, arXiv 1602.05629, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from fedsim.learning.context import Device, Server
from fedsim.schedulers.options import check_local, newest
from fedsim.script import SERVER, Message, Payload, Role, broadcast, compute, send


@dataclass(frozen=True, slots=True)
class Train(Message):
    """Server to device: train from these weights."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # w_t
    round: int  # t


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: what came of it, from so many samples."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # w_k
    samples: int  # n_k
    round: int


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Federated averaging."""

    local_steps: int | None = None  # H
    """Batches a device trains in a round; by default whole passes over its data."""
    local_epochs: int = 1  # E
    """Passes over its data that a device trains in a round, where `local_steps` is not given."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a device in the average: its number of samples, or the same for all."""

    splits: ClassVar[bool] = False
    fresh_rounds: ClassVar[bool] = True
    messages: ClassVar[tuple[type[Message], ...]] = (Train, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)

    async def device(self, me: Device) -> None:
        """Train on what comes, send it back."""
        while True:
            train = await newest(me, Train)
            me.model.load(train.weights, train.round)
            await compute(me.model.train(me.batches(self.local_steps, self.local_epochs)))
            await send(SERVER, Trained(me.model.take(), me.samples, train.round))

    async def server(self, me: Server) -> None:
        """Send w_t to P devices, average what they return, as often as asked."""
        w = me.initial
        me.publish(w)
        for t in count() if me.rounds is None else range(me.rounds):
            chosen = await me.sample()
            with me.round(t, chosen) as barrier:
                await broadcast(chosen, lambda k: Train(me.fit(w, k), t))
                total = me.mean(expected=chosen, weighting=self.weighting, base=w)
                if await barrier.gather(Trained, into=total):
                    w = await compute(total.result())  # Σ n_k/n · w_k
            me.publish(w)
