"""Schedulers that each break one rule; otherwise they are the shortest FedAvg there is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

import numpy as np
import torch

from fedsim.learning.context import Device, Server
from fedsim.script import (
    SERVER,
    Evaluate,
    Message,
    Payload,
    Role,
    broadcast,
    compute,
    gather,
    recv,
    send,
    sleep,
)


@dataclass(frozen=True, slots=True)
class Train(Message):
    """To a device."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload


@dataclass(frozen=True, slots=True)
class Trained(Message):
    """To the server."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Payload
    samples: int


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Breaks no rule; the others change a step of it."""

    splits: ClassVar[bool] = False
    messages: ClassVar[tuple[Any, ...]] = (Train, Trained)

    async def device(self, me: Device) -> None:
        """Train and answer."""
        while True:
            me.model.load((await recv(Train)).weights)
            await self.work(me)
            await send(SERVER, Trained(me.model.take(), samples=me.samples))

    async def work(self, me: Device) -> None:
        """One step."""
        await compute(me.model.train(me.batches(1)))

    async def server(self, me: Server) -> None:
        """Rounds."""
        w = me.initial
        self.name(me, w)
        for t in count() if me.rounds is None else range(me.rounds):
            chosen = await me.sample()
            with me.round(t, chosen):
                await self.give(me, chosen, w)
                w = await self.collect(me, chosen, w)
            self.name(me, w)

    async def give(self, me: Server, chosen: tuple[int, ...], w: Payload) -> None:
        """To each what it has of the model."""
        await broadcast(chosen, lambda k: Train(me.fit(w, k)))

    async def collect(self, me: Server, chosen: tuple[int, ...], w: Payload) -> Payload:
        """The mean of what came back."""
        total = me.mean(expected=chosen, base=w)
        return await compute(total.result()) if await gather(chosen, Trained, into=total) else w

    def name(self, me: Server, w: Payload) -> None:
        """Publish."""
        me.publish(w)


@dataclass(frozen=True, kw_only=True)
class AwaitsAsyncio(Sound):
    """Awaits another event loop's effect."""

    async def work(self, me: Device) -> None:
        await asyncio.sleep(1)


@dataclass(frozen=True, kw_only=True)
class YieldsNothing(Sound):
    """Awaits what hands something to the event loop."""

    async def work(self, me: Device) -> None:
        await asyncio.sleep(0)


@dataclass(frozen=True, kw_only=True)
class SendsUndeclared(Sound):
    """Forgets one of its messages."""

    messages: ClassVar[tuple[Any, ...]] = (Train,)


_kept: list[object] = []


@dataclass(frozen=True, kw_only=True)
class UsesId(Sound):
    """Lets time follow from an address in memory."""

    async def work(self, me: Device) -> None:
        _kept.append(object())
        await sleep((id(_kept[-1]) % 10_000) / 1e6)
        await Sound.work(self, me)


@dataclass(frozen=True, kw_only=True)
class UsesGlobalRandom(Sound):
    """Draws from `random`, although its draw changes nothing."""

    async def work(self, me: Device) -> None:
        random.random()
        await Sound.work(self, me)


@dataclass(frozen=True, kw_only=True)
class UsesGlobalNumpy(Sound):
    """Draws from `numpy.random`."""

    async def work(self, me: Device) -> None:
        np.random.random()
        await Sound.work(self, me)


@dataclass(frozen=True, kw_only=True)
class UsesGlobalTorch(Sound):
    """Draws from torch's generator."""

    async def work(self, me: Device) -> None:
        torch.rand(1)
        await Sound.work(self, me)


@dataclass(frozen=True, kw_only=True)
class ForgetsDisconnected(Sound):
    """Waits for those who have left."""

    async def collect(self, me: Server, chosen: tuple[int, ...], w: Payload) -> Payload:
        total = me.mean(expected=chosen)
        for k in chosen:
            total.add(await recv(Trained, source=k))
        mean = await compute(total.result())
        return mean


@dataclass(frozen=True, kw_only=True)
class NeverPublishes(Sound):
    """Keeps its model to itself."""

    def name(self, me: Server, w: Payload) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class NeverComputes(Sound):
    """Describes its work, and forgets to have it done."""

    async def work(self, me: Device) -> None:
        me.model.train(me.batches(1))


@dataclass(frozen=True, kw_only=True)
class PublishesHalf(Sound):
    """Publishes the device block only."""

    splits: ClassVar[bool] = True

    async def work(self, me: Device) -> None:
        for batch in me.batches(1):
            await compute(me.block.forward(batch))
        await sleep(0.001)


@dataclass(frozen=True, kw_only=True)
class NeverEnds(Sound):
    """Ignores `me.rounds`."""

    async def server(self, me: Server) -> None:
        me.publish(me.initial)
        while True:
            await sleep(1)


@dataclass(frozen=True, kw_only=True)
class EndsEarly(Sound):
    """Ends after two rounds even where no number of rounds is given."""

    async def server(self, me: Server) -> None:
        w = me.initial
        self.name(me, w)
        for _ in range(me.rounds or 2):
            chosen = await me.sample()
            await broadcast(chosen, Train(w))
            w = await self.collect(me, chosen, w)
            self.name(me, w)


@dataclass(frozen=True, kw_only=True)
class FitsNothing(Sound):
    """Sends the whole model to everybody."""

    async def give(self, me: Server, chosen: tuple[int, ...], w: Payload) -> None:
        await broadcast(chosen, Train(w))


@dataclass(frozen=True, kw_only=True)
class NoBase(Sound):
    """Does not say what stays where nobody has a coordinate."""

    async def collect(self, me: Server, chosen: tuple[int, ...], w: Payload) -> Payload:
        total = me.mean(expected=chosen)
        return await compute(total.result()) if await gather(chosen, Trained, into=total) else w


@dataclass(frozen=True, kw_only=True)
class NeedsValues(Sound):
    """Evaluates without saying `validates`."""

    async def collect(self, me: Server, chosen: tuple[int, ...], w: Payload) -> Payload:
        await Evaluate((w,))
        return await Sound.collect(self, me, chosen, w)


@dataclass(frozen=True, kw_only=True)
class Validates(NeedsValues):
    """Evaluates and says so, which is right."""

    validates: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class NeedsOption(Sound):
    """An option without a default."""

    step: int


@dataclass(kw_only=True)
class NotFrozen:
    """Can be changed."""

    splits: ClassVar[bool] = False
    messages: ClassVar[tuple[Any, ...]] = ()


@dataclass(frozen=True)
class Positional:
    """Options by position."""

    step: int = 1


class NoDataclass:
    """Has no options that anyone could write down."""


@dataclass(frozen=True, kw_only=True)
class NoSplits:
    """Does not say whether the model is cut."""

    async def device(self, me: Device) -> None:
        """Nothing."""

    async def server(self, me: Server) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class PlainScript(NoSplits):
    """A script that is no coroutine function."""

    splits: ClassVar[bool] = False

    def server(self, me: Server) -> Coroutine[Any, Any, None]:
        raise NotImplementedError


class NoRole(Message):
    """Neither a dataclass nor of a role."""


@dataclass(frozen=True, slots=True)
class Roleless(Message):
    """Without a role."""


@dataclass(frozen=True, kw_only=True)
class WrongMessage(Sound):
    """A message that is none."""

    messages: ClassVar[tuple[Any, ...]] = (Train, Trained, int)


@dataclass(frozen=True, kw_only=True)
class RolelessMessage(Sound):
    """A message without a role."""

    messages: ClassVar[tuple[Any, ...]] = (Train, Trained, Roleless)


@dataclass(frozen=True, kw_only=True)
class CatchesItsEnd(Sound):
    """Goes on when it is closed."""

    async def device(self, me: Device) -> None:
        try:
            await Sound.device(self, me)
        except GeneratorExit:
            await sleep(1)
