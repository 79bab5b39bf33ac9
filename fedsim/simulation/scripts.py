"""A script under way: its coroutine, its mailbox, what it waits for; and what is said when it misbehaves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from fedsim.errors import ScriptError
from fedsim.mailbox import Mailbox
from fedsim.script import SERVER, Command, Message, Payload, Recv

if TYPE_CHECKING:
    from fedsim.simulation.engine import Simulation


class Actor:
    """One life of a node's script. It is also the node's `Port`: the plain calls a script may make.

    A device that leaves and returns gets a new actor with the next `incarnation`; messages of an earlier life are
    lost. `waits` counts finished waits, so that a timeout can tell whether the wait it was set for is over.
    """

    __slots__ = (
        "_engine",
        "away",
        "answer",
        "asleep",
        "computing",
        "incarnation",
        "mailbox",
        "node",
        "over",
        "script",
        "since",
        "waiting",
        "waits",
    )

    def __init__(self, node: int, engine: Simulation) -> None:
        self._engine = engine
        self.node = node
        self.mailbox = Mailbox()
        self.script: Any = None
        self.incarnation = 0
        self.away = False
        self.over = False
        self.asleep = False
        self.waiting: Recv[Any] | None = None
        self.waits = 0
        self.since = 0
        self.computing: list[tuple[int, Any, int, int]] | None = None
        self.answer: Any = None

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
        return self.mailbox.take(kinds)

    def command(self, command: Command) -> None:
        """Queue a command that takes no time."""
        self._engine.queue(command)

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Record a moment."""
        self._engine.mark(self.node, name, value, detail)

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Name the current global model."""
        self._engine.publish(version, model)


def name(node: int) -> str:
    """What a node is called in messages."""
    return "server" if node == SERVER else f"device {node}"


def _place(script: Any) -> str:
    """The line at which a script is suspended: the innermost coroutine's."""
    innermost = script
    while isinstance(getattr(innermost, "cr_await", None), CoroutineType):
        innermost = innermost.cr_await
    frame = getattr(innermost, "cr_frame", None)
    if frame is None:
        return "a place that is no coroutine"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def reject(script: Any, foreign: object) -> NoReturn:
    """Refuse something that a script awaited and that is no effect.

    Raises:
        ScriptError: always, naming the script's line.
    """
    place = _place(script)
    script.close()
    raise ScriptError(
        f"the script awaited something that is not a fedsim effect ({type(foreign).__name__}) at {place}; "
        "await only compute, send, recv, sleep, gather, broadcast or coroutines made of these "
        "(asyncio and other event loops do not run here)"
    )


def unfinished(actor: Actor) -> None:
    """Close a script that has not returned.

    Raises:
        ScriptError: it caught its own closing and went on.
    """
    actor.over = True
    if actor.script is None:
        return
    place = _place(actor.script)
    try:
        actor.script.close()
    except RuntimeError as error:
        raise ScriptError(
            f"the script of {name(actor.node)} awaited again after it was closed, at {place}; "
            "let GeneratorExit pass (no await in `finally`, no bare `except`)"
        ) from error


def describe(actors: Sequence[Actor | None], now: int) -> str:
    """Who waits for what: the text of a deadlock."""
    lines = []
    there = sorted((actor for actor in actors if actor is not None), key=lambda actor: actor.node)
    for actor in there:
        if actor.over or actor.waiting is None:
            continue
        kinds = " or ".join(kind.__name__ for kind in actor.waiting.kinds)
        source = "" if actor.waiting.source is None else f" from {name(actor.waiting.source)}"
        inbox = ", ".join(f"{count} {kind}" for kind, count in actor.mailbox.waiting().items()) or "nothing"
        lines.append(f"  {name(actor.node)} waits for {kinds}{source} since {actor.since / 1e9:g} s; inbox: {inbox}")
    if len(lines) > 20:
        lines[20:] = [f"  and {len(lines) - 20} more"]
    never = sum(1 for actor in actors if actor is None or actor.script is None)
    if never:
        lines.append(f"  {never} devices were never sent a message")
    return f"deadlock at {now / 1e9:g} s: every script waits and no message is under way\n" + "\n".join(lines)
