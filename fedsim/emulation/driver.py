"""The wall-clock runtime of one node: a script in, records out.

A driver lets one life of a script run from one effect to the next, in the thread that calls `run`. Works are done for
real and end when the pacer says; messages go out through a post and come in, from other threads, through `deliver`. It
is also the node's `Port`. It knows neither how messages travel nor who else there is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from fedsim.emulation.clock import Clock
from fedsim.emulation.holdings import Holdings, Leaving
from fedsim.emulation.pacing import Pacer
from fedsim.emulation.records.journal import Journal, What, reference
from fedsim.errors import ScriptError
from fedsim.mailbox import Mailbox
from fedsim.runtime.conditions import LAST, LONGEST, nanoseconds
from fedsim.runtime.coroutines import ANY, SENDING, SLEEP, close, foreign, place, started
from fedsim.runtime.deadlock import Waiting
from fedsim.runtime.envelopes import ENVELOPE_BYTES, Form, Parcel, roles
from fedsim.runtime.spans import Price, Spans, append, cut, lay
from fedsim.script import (
    Command,
    Compute,
    Connected,
    Disconnected,
    Evaluate,
    Message,
    Payload,
    Quality,
    Recv,
    Role,
    Send,
    Sleep,
    Timeout,
)
from fedsim.trace import Trace

_AWAITED: Final = {SLEEP: "the end of a sleep", SENDING: "the arrival of what it has sent"}

Script = Callable[[Any], Any]
"""Makes the coroutine of a node from its port."""


class Host(Protocol):
    """Runs the commands of this node."""

    def run(self, command: Command) -> None:
        """Run one command; its payload, if it makes one, is there afterwards."""
        ...

    def evaluate(self, model: tuple[Payload, ...], split: str) -> Quality:
        """Measure a model on a split of the data."""
        ...


class Post(Protocol):
    """Takes messages to other nodes."""

    def number(self) -> int:
        """A number for the next message, which no other message of the run has."""
        ...

    def send(self, number: int, target: int, message: Message, parcel: Parcel, queued: int) -> int | None:
        """Queue a message; blocks while too many bytes wait. The driver is told when it has `landed`.

        Answers with the ordinal of the connection with the target, from 1, where it knows; 0: there is none.
        """
        ...


class Life(Enum):
    """How a life of a script ended."""

    RETURNED = "the script returned"
    STOPPED = "it was stopped"
    LEFT = "its memory does not suffice"


class _Stopped(BaseException):
    """The script is not to go on."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What a script waits for, and since when."""

    since: int
    awaited: str
    source: int = ANY


class Driver:
    """One life of a node's script.

    Args:
        node: its number.
        trace: receives the node's spans, waits, stays and marks.
        clock: the scenario's time.
        pacer: when works of this node end.
        price: nanoseconds that a cost takes on this node, if it starts at a moment.
        lanes: works that it runs at once.
        host: does the works.
        post: takes messages away.
        memory: what this node holds; None does not account for it.
        publish: told of every new global model: version, handles, moment.
        since: moment (ns) from which the node waits for its first message.
        journal: of this life; None keeps none.
    """

    def __init__(
        self,
        node: int,
        *,
        trace: Trace,
        clock: Clock,
        pacer: Pacer,
        price: Price,
        lanes: int,
        host: Host,
        post: Post,
        memory: Holdings | None = None,
        publish: Callable[[int, tuple[Payload, ...], int], None] | None = None,
        since: int = 0,
        journal: Journal | None = None,
    ) -> None:
        self.node = node
        self.effects = 0
        """How many the script has awaited."""
        self.due: int | None = None
        """When what the script does now ends by itself, as far as that is known; it may be over."""
        self._absent: frozenset[int] = frozenset()
        self._trace = trace
        self._clock = clock
        self._pacer = pacer
        self._price = price
        self._lanes = lanes
        self._host = host
        self._post = post
        self._memory = memory
        self._publish = publish
        self._journal = journal
        self._connections: dict[int, int] = {}  # with each node, the one by which it was sent something last
        self._done = 0  # works of the present effect that have been done
        self._changed = threading.Condition()  # guards everything that other threads touch: up to `_arrived_at`
        self._stopping = False
        self._mailbox = Mailbox()
        self._came: dict[int, tuple[int, int, int]] = {}  # a waiting message, by identity: number, arrival, bytes
        self._noted: dict[type[Message], list[int]] = {}  # for a journal, the numbers of what `arrived` will tell
        self._flying: dict[int, tuple[Message, int]] = {}  # messages under way, by number, and bytes held for them
        self._watched: dict[type[Message], int] = {}  # under way, of the classes that the script asks for
        self._blocking: set[int] = set()  # of a blocking send, the copies that are under way
        self._arrived_at = 0  # the last of these that has arrived
        self._waiting: _Waiting | None = _Waiting(since, Role.MODEL.value)
        self._forms: dict[type[Message], Form] = {}
        self._roles: dict[tuple[type[Message], ...], str] = {}
        self._effects: Final[Mapping[type, Callable[[Any], Any]]] = {
            Send: self._send,
            Recv: self._recv,
            Compute: self._compute,
            Sleep: self._sleep,
            Evaluate: self._evaluate,
        }

    # ------------------------------------------------------------------------------- the script's thread

    def run(self, script: Script, *, at_once: bool = False) -> Life:
        """Run a life of a script to its end, once; afterwards it is closed, and all that it did is in the trace.

        It begins `at_once`, or when the first message is there.

        Raises:
            ScriptError: the script broke a rule; the message says where.
            SimulatedOutOfMemory: the node needs more memory than it may use, and the run is not to go on then.
        """
        ended = self._live(script, at_once=at_once)
        if self._journal is not None and self._journal.begun:
            self._journal.given(What.END, [ended.name, self._done])
        return ended

    def _live(self, script: Script, *, at_once: bool) -> Life:
        coroutine: Any = None
        try:
            if at_once:
                self._waiting = None
            else:
                self._first_message()
            if self._journal is not None:
                self._journal.given(What.BEGIN, None)
            coroutine = started(self.node, script(self))
            self._play(coroutine)
        except _Stopped:
            if self._waiting is not None:
                self._waited(self._clock.now())
            return Life.STOPPED
        except Leaving:
            return Life.LEFT
        finally:
            close(coroutine, self.node)
            self._leave_lying()
        self._trace.mark(self.node, self._clock.now(), "end")
        return Life.RETURNED

    def _play(self, coroutine: Any) -> None:
        value: Any = None
        while True:
            self.effects += 1
            try:
                effect = coroutine.send(value)
            except StopIteration:
                return
            if self._journal is not None:
                self._journal.step += 1
                self._done = 0
            if self._memory is not None:
                self._memory.check(self._clock.now())
            try:
                handle = self._effects.get(type(effect))
                if handle is None:
                    raise foreign(effect)
                value = handle(effect)
            except ScriptError as error:
                raise ScriptError(f"{error} (at {place(coroutine)})") from error

    def _first_message(self) -> None:
        """Wait for it as for a model; it stays in the mailbox."""
        with self._changed:
            self._wait(lambda: bool(self._came))
            number, arrived, _ = next(iter(self._came.values()))
        self._waited(arrived, number)

    def _wait(self, ready: Callable[[], bool], until: int | None = None) -> bool:
        """Wait, with the condition held, until `ready` or a moment; answers whether it is ready."""
        self.due = until
        while not ready():
            if self._stopping:
                raise _Stopped
            if until is not None and self._clock.now() >= until:
                return False
            self._clock.wait(self._changed, until)
        return True

    def _waited(self, end: int, number: int = -1) -> None:
        """Record a wait that has ended, by a message if it has a number."""
        waiting, self._waiting = self._waiting, None
        assert waiting is not None
        if end > waiting.since:
            self._trace.waits.append((self.node, waiting.since, end, waiting.awaited, waiting.source, number))
        else:
            self._stayed(number, end, waiting.since)

    def _stayed(self, number: int, arrived: int, taken: int) -> None:
        """Record that a message, if it has a number, has waited for the script."""
        if number >= 0 and arrived < taken:
            self._trace.stays.append((self.node, arrived, taken, number))

    def _leave_lying(self) -> None:
        """Nobody will take what still waits for the script."""
        with self._changed:
            left = list(self._came.values())
        now = self._clock.now() if left else 0
        for number, arrived, _ in left:
            self._stayed(number, arrived, now)

    # ---------------------------------------------------------------------------------------- effects

    def _send(self, effect: Send) -> None:
        form = self._forms.get(type(effect.message))
        if form is None:
            form = self._forms[type(effect.message)] = Form(type(effect.message))
        message = form.stamped(effect.message, self.node)
        parcel = form.empty or form.weighed(message)
        now = self._clock.now()
        held = 0
        if self._memory is not None and form.loaded and effect.to:
            held = parcel.nbytes
            self._memory.queued(message, held, len(effect.to), now)
        kind = type(message)
        numbers = [self._post.number() for _ in effect.to]
        if self._journal is not None:
            self._journal.given(What.SEND, numbers)
        changed: list[list[int]] = []
        for number, target in zip(numbers, effect.to, strict=True):
            with self._changed:
                self._flying[number] = (message, held)
                if kind in self._watched:
                    self._watched[kind] += 1
                if effect.blocking:
                    self._blocking.add(number)
            connection = self._post.send(number, target, message, parcel, now)
            if connection is not None and self._connections.get(target, 1) != connection:
                self._connections[target] = connection
                changed.append([target, connection])
        if self._journal is not None and changed:
            self._journal.given(What.CONNECTIONS, changed)
        if effect.blocking:
            self._waiting = _Waiting(now, SENDING, effect.to[0] if len(effect.to) == 1 else ANY)
            with self._changed:
                self._wait(lambda: not self._blocking)
                arrived = self._arrived_at
            self._waited(arrived)
            self._pacer.arrived(arrived)

    def _recv(self, effect: Recv[Any]) -> Message | Timeout:
        kinds, source, by = effect.kinds, effect.source, effect.by
        awaited = self._roles.get(kinds)
        if awaited is None:
            awaited = self._roles[kinds] = roles(kinds)
        self._waiting = _Waiting(self._clock.now(), awaited, ANY if source is None else source)
        until = None if effect.until is None else _moment(effect.until)
        found: list[Message] = []

        def taken() -> bool:
            message = self._mailbox.take(kinds, source, by)
            if message is not None:
                found.append(message)
            return message is not None

        with self._changed:
            if not self._wait(taken, until):
                assert until is not None
                self._waited(self._clock.now())
                self._pacer.arrived(until)
                if self._journal is not None:
                    self._journal.given(What.RECV, None)
                return Timeout()
            number, arrived, nbytes = self._came.pop(id(found[0]))
        if self._journal is not None:
            self._journal.given(What.RECV, reference(found[0], number))
        if self._memory is not None and nbytes:
            self._memory.drop(nbytes)
        self._waited(arrived, number)
        self._pacer.arrived(arrived)
        return found[0]

    def _compute(self, effect: Compute[Any]) -> Any:
        works, spans = effect.works, Spans()
        now = self._clock.now()
        kept = 0 if self._memory is None else self._memory.computing(works, now)
        begin = self._pacer.begin(now)
        if effect.single:
            end = append(spans, self.node, works[0], 0, begin, self._price)
        else:
            end = lay(spans, self.node, works, begin, self._lanes, self._price)
        self.due = end
        try:
            for work in works:
                self._host.run(work.command)
                self._done += 1
            self._pacer.done(begin, end, self._clock.now())
            with self._changed:
                self._wait(lambda: False, end)
        except _Stopped:
            self._trace.spans.extend(cut(within(spans, now, None), self._clock.now()))
            raise
        done = self._clock.now()
        if self._memory is not None:
            self._memory.drop(kept)
        self._trace.spans.extend(within(spans, now, done))
        return works[0].result if effect.single else tuple(work.result for work in works)

    def _sleep(self, effect: Sleep) -> None:
        if not 0 <= effect.seconds <= LONGEST:
            raise ScriptError(f"sleep for {effect.seconds} s; a duration is from 0 to {LONGEST:g} s")
        now = self._clock.now()
        end = now + nanoseconds(effect.seconds)
        self._waiting = _Waiting(now, SLEEP)
        with self._changed:
            self._wait(lambda: False, end)
        self._waited(self._clock.now())
        self._pacer.arrived(end)

    def _evaluate(self, effect: Evaluate) -> Quality:
        quality = self._host.evaluate(effect.model, effect.split)
        if self._journal is not None:
            self._journal.given(What.EVALUATE, [quality.accuracy, quality.loss, quality.samples])
        return quality

    # --------------------------------------------------------------------- plain calls of the script (Port)

    @property
    def now(self) -> float:
        """Seconds since the start of the run."""
        now = self._clock.now() / 1e9
        if self._journal is not None:
            self._journal.given(What.NOW, now)
        return now

    @property
    def absent(self) -> Collection[int]:
        """The devices that have left and not come back."""
        absent = self._absent
        if self._journal is not None:
            self._journal.given(What.ABSENT, sorted(absent))
        return absent

    def poll(self, *kinds: type[Message]) -> Message | None:
        """Take the first waiting message of `kinds`, or nothing."""
        with self._changed:
            message = self._mailbox.take(kinds)
            if message is not None:
                number, arrived, nbytes = self._came.pop(id(message))
        if self._journal is not None:
            self._journal.given(What.POLL, None if message is None else reference(message, number))
        if message is None:
            return None
        self._stayed(number, arrived, self._clock.now())
        if self._memory is not None and nbytes:
            self._memory.drop(nbytes)
        self._pacer.arrived(arrived)
        return message

    def arrived(self, kind: type[Message]) -> list[Message]:
        """The messages of `kind` that have come since this was last asked."""
        with self._changed:
            messages = self._mailbox.arrived(kind)
            if self._journal is not None:
                numbers = self._noted.get(kind)
                self._noted[kind] = []
                if numbers is None:  # asked for the first time: those that wait
                    numbers = [self._came[id(message)][0] for message in messages]
                found = [reference(message, number) for message, number in zip(messages, numbers, strict=True)]
                self._journal.given(What.ARRIVED, [kind.__name__, found])
            return messages

    def outgoing(self, kind: type[Message]) -> int:
        """How many messages of `kind` that this node has sent, since it first asked, are under way."""
        with self._changed:
            count = self._watched.setdefault(kind, 0)
        if self._journal is not None:
            self._journal.given(What.OUTGOING, [kind.__name__, count])
        return count

    def drop(self, message: Message) -> None:
        """Refuse a message that waits."""
        with self._changed:
            waited = self._mailbox.drop(message)
            number, arrived, nbytes = self._came.pop(id(message)) if waited else (-1, 0, 0)
        if self._journal is not None:
            self._journal.given(What.DROP, reference(message, number) if waited else None)
        self._stayed(number, arrived, self._clock.now())
        if self._memory is not None and nbytes:
            self._memory.drop(nbytes)

    def command(self, command: Command) -> None:
        """Run a command that takes no time."""
        if command.holds and self._memory is not None:
            self._memory.take(command.holds, self._clock.now())
        self._host.run(command)

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Record a moment."""
        self._trace.mark(self.node, self._clock.now(), name, value, detail)

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Name the current global model."""
        now = self._clock.now()
        self._trace.mark(self.node, now, "publish", version)
        if self._publish is not None:
            self._publish(version, model, now)

    # ------------------------------------------------------------------------------ from other threads

    def deliver(self, message: Message, number: int, arrived: int, nbytes: int = 0) -> None:
        """A message has come at a moment; notices have the number -1."""
        with self._changed:
            if self._memory is not None and nbytes > ENVELOPE_BYTES:
                self._memory.take(nbytes, arrived)
            if isinstance(message, Disconnected):
                self._absent = frozenset((*self._absent, message.device))
            elif isinstance(message, Connected):
                self._absent = frozenset(k for k in self._absent if k != message.device)
            self._came[id(message)] = (number, arrived, nbytes if nbytes > ENVELOPE_BYTES else 0)
            if type(message) in self._noted:
                self._noted[type(message)].append(number)
            self._mailbox.put(message)
            self._changed.notify_all()

    def landed(self, number: int, moment: int) -> None:
        """A message that this node has sent has arrived, or is lost."""
        with self._changed:
            flying = self._flying.pop(number, None)
            if flying is None:
                return
            message, held = flying
            if self._memory is not None and held:
                self._memory.ended(message, held)
            if type(message) in self._watched:
                self._watched[type(message)] -= 1
            if number in self._blocking:
                self._blocking.discard(number)
                self._arrived_at = max(self._arrived_at, moment)
            self._changed.notify_all()

    @property
    def awaiting(self) -> Waiting | None:
        """What the script waits for; None while it does something, or has ended."""
        with self._changed:
            waiting = self._waiting
            if waiting is None:
                return None
            kinds = waiting.awaited.replace("|", " or ")
            awaited = _AWAITED.get(waiting.awaited, f"a message ({kinds})")
            return Waiting(self.node, awaited, waiting.source, waiting.since, self._mailbox.waiting())

    def stop(self) -> None:
        """End this life: what it waits for will not come."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()


def within(spans: Spans, start: int, end: int | None) -> Spans:
    """Spans as they came to pass: none began before `start`; the last one of each lane ended at `end`."""
    last = {span[1]: index for index, span in enumerate(spans)}
    latest = math.inf if end is None else end
    found: Spans = []
    for index, (node, lane, kind, planned, until, *rest) in enumerate(spans):
        began, ended = min(max(planned, start), latest), min(max(until, start), latest)
        found.append((node, lane, kind, began, end if end is not None and last[lane] == index else ended, *rest))
    return found


def _moment(seconds: float) -> int:
    if math.isnan(seconds):
        raise ScriptError("recv until a time that is not a number")
    return LAST if seconds > LONGEST else nanoseconds(max(seconds, 0.0))
