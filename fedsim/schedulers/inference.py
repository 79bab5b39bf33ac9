"""Inference: every device gets the model once and answers requests from its own data; nothing is trained.

What a board takes to answer: time, memory and energy. A language model reads a prompt and then gives a token at a time.
No paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from fedsim.learning.context import Device, Job, Server
from fedsim.learning.plan import MODEL, BlockPlan
from fedsim.quantities import Duration
from fedsim.schedulers.options import counted
from fedsim.script import (
    SERVER,
    Connected,
    Disconnected,
    Message,
    Part,
    Payload,
    Role,
    broadcast,
    compute,
    recv,
    send,
    sleep,
)


@dataclass(frozen=True, slots=True)
class Deploy(Message):
    """Server to device: answer requests with this model."""

    role: ClassVar[Role] = Role.MODEL
    weights: Payload  # w


@dataclass(frozen=True, slots=True)
class Answered(Message):
    """Device to server: all requests have been answered."""

    role: ClassVar[Role] = Role.CONTROL
    requests: int


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Deployment of a model for inference only."""

    requests: int | None = None
    """Requests that each device answers; by default `until.rounds`."""
    size: int = 1
    """Samples of a request: pictures, or prompts that are answered together."""
    generate: int | None = None  # G
    """New tokens of an answer, of language models; the prompt is the rest of a sample. By default half of a sample."""
    every: Duration | None = None
    """Time from one request of a device to the next, which waits if the device is not done; by default each comes when
    the one before is answered."""

    splits: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    messages: ClassVar[tuple[type[Message], ...]] = (Deploy, Answered)

    def __post_init__(self) -> None:
        for name, least in (("requests", 1), ("size", 1), ("generate", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} {value} must be {least} or more{', or left out' if name != 'size' else ''}")
        if self.every is not None and not self.every > 0:
            raise ValueError(f"every {self.every} must be above 0 s, or left out")

    def new_tokens(self, length: int | None) -> int:
        """G, for samples of `length` tokens; None: they are no text.

        Raises:
            ValueError: there would be no prompt, or nothing that tokens could follow.
        """
        if length is None:
            if self.generate:
                raise ValueError(f"generate {self.generate} is for language models; leave it out")
            return 0
        tokens = length // 2 if self.generate is None else self.generate
        if tokens >= length:
            raise ValueError(
                f"generate {tokens} leaves no prompt of samples of {length} tokens; choose {length - 1} or less, or "
                "set data.tokens.length to the tokens of prompt and answer together"
            )
        return tokens

    def settled(self, job: Job) -> Self:
        """The same with what was left open."""
        decoding = job.plans[MODEL].decoding
        tokens = 0 if decoding is None else job.plans[MODEL].model.input[0] - decoding.length
        return replace(self, requests=self.requests or job.rounds, generate=tokens or self.generate)

    def works(self, plan: BlockPlan, batch: int) -> Sequence[Part]:
        """What a device does for a request of at most `batch` samples, in place of steps of training."""
        return plan.answer_parts(min(self.size, batch), self.generate or 0)

    async def device(self, me: Device) -> None:
        """Answer request after request."""
        deploy = await recv(Deploy)
        me.model.load(deploy.weights)
        asked = me.now
        for number in counted(self.requests):
            if self.every is not None and number:
                asked += self.every
                if asked > me.now:
                    await sleep(asked - me.now)
            me.mark("asked", asked if self.every is not None else me.now)
            (batch,) = me.batches(steps=1, size=self.size)
            await compute(me.model.answer(batch, self.generate or 0))
            me.mark("answered", batch.size * (self.generate or 0))
        me.model.close()
        await send(SERVER, Answered(self.requests or 0))

    async def server(self, me: Server) -> None:
        """Send w, wait until all are done; one that is back begins again."""
        me.publish(me.initial)
        chosen = await me.sample()
        waiting = set(chosen)
        await broadcast(chosen, lambda k: Deploy(me.fit(me.initial, k)))
        while waiting:
            match await recv(Answered, Disconnected, Connected):
                case Answered(sender=k) | Disconnected(device=k):
                    waiting.discard(k)
                case Connected(device=k):
                    if k in chosen:
                        waiting.add(k)
                        await send(k, Deploy(me.fit(me.initial, k)))
