"""SCAFFOLD: local steps corrected by how a device's gradient differs from the average.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, arXiv 1910.06378, algorithm 1, option II. Control variates begin as zeros and belong to parameters only.

The paper averages uniformly. With `weighting: samples` models and control variates are weighted alike, so that c stays
the weighted mean of all c_k, which steers towards the loss over all samples. A device whose contribution comes too late
for its round keeps the c_k that it made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from fedsim.learning.context import Device, Server
from fedsim.learning.learners import Controlled
from fedsim.learning.optimizers import Sgd, Training
from fedsim.learning.sums import Mean
from fedsim.schedulers.options import check_local, newest
from fedsim.script import SERVER, Message, Payload, Role, broadcast, compute, send


@dataclass(frozen=True, slots=True)
class Train(Message):
    """Server to device: train from these weights, corrected by this control variate."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # w_t
    control: Payload  # c
    round: int  # t


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """Device to server: what came of it, and how far the device's control variate has moved."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload  # w_k
    control: Payload  # c_k⁺ − c_k
    samples: int  # n_k
    round: int


@dataclass(frozen=True, slots=True)
class Both:
    """Takes in both parts of what a device sends."""

    weights: Mean
    controls: Mean

    def add(self, message: Trained) -> None:
        """Take in a contribution."""
        self.weights.add(message)
        self.controls.put(message.sender, message.control, message.samples)


@dataclass(frozen=True, kw_only=True)
class Scaffold:
    """Stochastic controlled averaging."""

    server_lr: float = 1.0  # η_g
    """How far the model moves towards the mean of what devices send; 1: all the way."""
    local_steps: int | None = None  # H
    """Batches a device trains in a round; by default whole passes over its data."""
    local_epochs: int = 1
    """Passes over its data that a device trains in a round, where `local_steps` is not given."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a device in both averages: its number of samples, or the same for all."""

    splits: ClassVar[bool] = False
    messages: ClassVar[tuple[type[Message], ...]] = (Train, Trained)

    def __post_init__(self) -> None:
        check_local(self.local_steps, self.local_epochs)
        if not self.server_lr > 0:
            raise ValueError(f"server_lr {self.server_lr} must be above 0")

    def check(self, training: Training) -> None:
        """Refuse steps that are not learning rate times gradient, which c_k is computed back from.

        Raises:
            ValueError: another optimizer than plain SGD.
        """
        optimizer, reason = training.optimizer, "control variates assume plain steps along gradients"
        if not isinstance(optimizer, Sgd):
            raise ValueError(f"scaffold cannot train with {type(optimizer).__name__.lower()}: {reason}; use sgd")
        if optimizer.momentum:
            raise ValueError(
                f"scaffold cannot train with momentum {optimizer.momentum}: {reason}; use momentum: 0, or leave it out"
            )
        if optimizer.clip is not None:
            raise ValueError(f"scaffold cannot train with clip {optimizer.clip}: {reason}; leave it out")

    async def device(self, me: Device) -> None:
        """Steps w ← w − lr·(g − c_k + c); then c_k⁺ = c_k − c + (w_t − w_k)/(H·lr)."""
        while True:
            train = await newest(me, Train)
            w_t, c = train.weights, train.control
            me.model.load(w_t, train.round, keep=(w_t, c))
            batches = me.batches(self.local_steps, self.local_epochs)
            await compute(me.model.train(batches, Controlled(c)))
            moved = me.model.renew_control(c, since=w_t, steps=len(batches))
            await send(SERVER, Trained(me.model.take(), moved, me.samples, train.round))

    async def server(self, me: Server) -> None:
        """w ← w + η_g·mean(w_k − w); c ← c + P/K·mean(c_k⁺ − c_k)."""
        w, c = me.initial, me.zero_control()
        everybody = self.weight(me, me.devices)
        me.publish(w)
        for t in count() if me.rounds is None else range(me.rounds):
            chosen = await me.sample()
            with me.round(t, chosen) as barrier:
                await broadcast(chosen, lambda k: Train(me.fit(w, k), me.fit(c, k), t))
                weights = me.mean(expected=chosen, weighting=self.weighting, base=w)
                controls = me.mean(expected=chosen, weighting=self.weighting, part="parameters", base=me.zero_control())
                if await barrier.gather(Trained, into=Both(weights, controls)):
                    mean, moved = await compute(weights.result(), controls.result())
                    w = mean if self.server_lr == 1 else await compute(me.toward(w, mean, self.server_lr))
                    share = self.weight(me, barrier.delivered) / everybody  # P/K
                    c = await compute(me.shift(c, moved, share))
            me.publish(w)

    def weight(self, me: Server, devices: Sequence[int]) -> int:
        """What devices weigh together in an average."""
        return len(devices) if self.weighting == "uniform" else sum(me.samples(k) for k in devices)
