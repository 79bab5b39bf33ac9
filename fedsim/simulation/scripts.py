"""A script under way: its coroutine, its mailbox, what it waits for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedsim.mailbox import Mailbox
from fedsim.runtime.coroutines import ANY
from fedsim.runtime.deadlock import Waiting, deadlock
from fedsim.script import Command, Message, Payload, Recv, Role

if TYPE_CHECKING:
    from fedsim.simulation.engine import Simulation


class Actor:
    """One life of a node's script. It is also the node's `Port`: the plain calls a script may make.

    A device that leaves and returns gets a new actor; what an actor that has `left` has sent or was sent is lost. A
    device's actor waits for a model, from `since` on, until it is first spoken to; only then it gets a script.
    """

    __slots__ = (
        "_engine",
        "answer",
        "awaited",
        "computing",
        "copies",
        "inbox",
        "left",
        "mailbox",
        "memory",
        "node",
        "over",
        "script",
        "sending",
        "since",
        "source",
        "stays",
        "timer",
        "under_way",
        "waiting",
    )

    def __init__(self, node: int, engine: Simulation, since: int) -> None:
        self._engine = engine
        self.node = node
        self.mailbox = Mailbox()
        self.script: Any = None
        self.left = False
        self.over = False  # nothing will be recorded of it any more

        # While it waits: for what, as a trace says it (None: it does not wait), from whom, since when. The last is the
        # moment of leaving for one that has left.
        self.awaited: str | None = Role.MODEL.value
        self.source = ANY
        self.since = since
        self.waiting: Recv[Any] | None = None
        self.timer: list[Actor] | None = None  # emptied when the wait ends before its time

        # While it computes: the spans as they will stand in the trace, what the script will get, bytes to let go of.
        self.computing: list[tuple[Any, ...]] | None = None
        self.answer: Any = None
        self.memory = 0

        self.under_way: dict[type[Message], int] = {}  # sent and not arrived, of the kinds that the script asks for

        self.sending: Message | None = None  # of a blocking send, of which so many copies are under way
        self.copies = 0
        # Of the messages that wait in the mailbox, by identity: bytes, number and arrival.
        self.inbox: dict[int, int] = {}
        self.stays: dict[int, tuple[int, int]] = {}

    @property
    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._engine.now / 1e9

    @property
    def absent(self) -> Collection[int]:
        """The devices that have left and not come back."""
        return self._engine.absent

    def poll(self, *kinds: type[Message]) -> Message | None:
        """Take the first waiting message of `kinds`, or nothing."""
        message = self.mailbox.take(kinds)
        if message is not None and (self.stays or self.inbox):
            self._engine.taken(self, message)
        return message

    def arrived(self, kind: type[Message]) -> list[Message]:
        """The messages of `kind` that have come since this was last asked."""
        return self.mailbox.arrived(kind)

    def outgoing(self, kind: type[Message]) -> int:
        """How many messages of `kind` that this node has sent, since it first asked, are under way."""
        return self.under_way.setdefault(kind, 0)

    def drop(self, message: Message) -> None:
        """Refuse a message that waits."""
        if self.mailbox.drop(message) and (self.stays or self.inbox):
            self._engine.taken(self, message)

    def command(self, command: Command) -> None:
        """Queue a command that takes no time."""
        self._engine.queue(command)

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Record a moment."""
        self._engine.mark(self.node, name, value, detail)

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Name the current global model."""
        self._engine.publish(version, model)


def describe(actors: Sequence[Actor | None], now: int, stuck: int = 0) -> str:
    """Who waits for what: the text of a deadlock; `stuck` messages are under way and do not move."""
    there = sorted((actor for actor in actors if actor is not None), key=lambda actor: actor.node)
    waits = (
        Waiting(
            actor.node,
            " or ".join(kind.__name__ for kind in actor.waiting.kinds),
            actor.source,
            actor.since,
            actor.mailbox.waiting(),
        )
        for actor in there
        if actor.waiting is not None
    )
    rest = {
        "not been sent a message": len(actors) - len(there) + sum(a.script is None and not a.left for a in there),
        "left and not come back": sum(actor.left for actor in there),
        "come to the end of their scripts": sum(actor.over and not actor.left for actor in there),
    }
    under_way = f"the messages under way ({stuck}) will never arrive" if stuck else "no message is under way"
    return deadlock(now, f"every script waits and {under_way}", waits, rest)
