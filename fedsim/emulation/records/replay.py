"""An emulation once more, from its journal: real work in the recorded order, and no clock.

All nodes' scripts run in this process, each for as long as what it was given is there. A message is there once its
sender has sent it here, too, and it crosses as between hosts, encoded and decoded; so the same bits come out. Whatever
a script does that its journal does not know is an error, since from there on it would be another run.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from fedsim.emulation.driver import Life, Script
from fedsim.emulation.exchange import Terms, Values
from fedsim.emulation.records.journal import Entry, Past, What, notice, pasts
from fedsim.errors import RunError, ScriptError
from fedsim.runtime.coroutines import close, foreign, name, place, started
from fedsim.runtime.envelopes import Form
from fedsim.script import (
    SERVER,
    Command,
    Compute,
    Effect,
    Evaluate,
    Message,
    Payload,
    Quality,
    Recv,
    Send,
    Sleep,
    Timeout,
)
from fedsim.wire.codec import Cargo, Decoder, Encoder, joined, load
from fedsim.wire.registry import Registry


class Host(Values, Protocol):
    """Does the work of a node, or of several."""

    def run(self, command: Command) -> None:
        """Run one command; its payload, if it makes one, is there afterwards."""
        ...

    def forget(self, node: int) -> None:
        """Drop what a node holds."""
        ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay."""

    version: int | None
    """Of the last model that was published."""
    model: tuple[Payload, ...]
    """Its handles; the values are with the server's host."""
    works: Mapping[int, tuple[str, ...]]
    """What each node computed: the methods of its works, in order."""


def replay(
    notes: Iterable[Sequence[Any]],
    scripts: Mapping[int, Script],
    hosts: Mapping[int, Host],
    terms: Terms,
    publish: Callable[[int, tuple[Payload, ...]], None] | None = None,
) -> Replayed:
    """Run the journal of an emulation to its end.

    Args:
        notes: of all nodes, in any order; what is no journal is passed over.
        scripts: makes a node's coroutine from its port, once for each of its lives.
        hosts: of the nodes, fresh; nodes may share one, unless a codec feeds errors back and devices come and go.
        terms: of the run.
        publish: told of every global model, version and handles, while its values are there.

    Raises:
        RunError: the journal is not whole, or is not that of these scripts: which node, where in its journal, what it
            says and what the script did.
    """
    lives = pasts(notes)
    if SERVER not in lives:
        raise RunError("there is no journal of the server among these notes; emulate with a journal")
    strangers = [name(node) for node in lives if node not in scripts or node not in hosts]
    if strangers:
        raise RunError(f"the journal is of another run: it has {', '.join(strangers)}, for which there is no script")
    mail = _Mail(lives, hosts, terms)
    ready = deque(_Node(node, past, scripts[node], hosts[node], mail, publish) for node, past in lives.items())
    nodes = tuple(ready)
    waiting: dict[int, list[_Node]] = {}
    try:
        while ready:
            node = ready.popleft()
            missing = node.go_on()
            if missing is not None:
                waiting.setdefault(missing, []).append(node)
            for number in mail.fresh():
                ready.extend(waiting.pop(number, ()))
        for missing, stuck in waiting.items():
            raise stuck[0].waits_in_vain(missing)
    finally:
        for node in nodes:
            node.abandon()
    server = next(node for node in nodes if node.number == SERVER)
    return Replayed(*server.published, {node.number: tuple(node.works) for node in nodes})


class _Mail:
    """Messages that have been sent here and that a journal speaks of, for as long as it does."""

    def __init__(self, lives: Mapping[int, Sequence[Past]], hosts: Mapping[int, Host], terms: Terms) -> None:
        entries = (entry for past in lives.values() for life in past for entry in life.entries)
        self._due = Counter(number for entry in entries for number in entry.references())
        self._sent: dict[int, tuple[int, Message]] = {}  # receiver and message
        self._fresh: list[int] = []
        self._hosts = hosts
        self._terms = terms
        self._registry = Registry(terms.messages)
        self._payloads = itertools.count(1)
        self._forms: dict[type[Message], Form] = {}

    def send(self, node: int, message: Message, copies: Iterable[tuple[int, int]]) -> None:
        """Let copies of a message, each with its number and receiver, be there; whoever is not to get it is left out.

        What its payloads become is settled by the first of these, also where nobody takes it.
        """
        form = self._forms.get(type(message))
        if form is None:
            form = self._forms[type(message)] = Form(type(message))
        stamped = form.stamped(message, node)
        cargo: Cargo | None = None
        for number, target in copies:
            if cargo is None:
                value_of = partial(self._hosts[node].outgoing, reader=target)
                cargo = load(self._registry, stamped, value_of, checksum=False)
            if number in self._due:
                if number in self._sent:
                    raise RunError(f"two messages have the number {number}, the later one is of {name(node)}")
                self._sent[number] = target, self._crossed(node, target, cargo, number)
                self._fresh.append(number)

    def _crossed(self, node: int, target: int, cargo: Cargo, number: int) -> Message:
        """The message as its receiver gets it, its values with the receiver's host."""
        host, terms = self._hosts[target], self._terms
        encoded = Encoder(self._registry, checksum=False).address(cargo, number)
        decoder = Decoder(
            self._registry,
            node,
            host.layout_of,
            self._payloads,
            terms.bounds,
            channels_last=terms.channels_last,
            checksum=False,
        )
        incoming = decoder.begin(encoded.header + encoded.definitions)
        incoming.buffer[:] = joined(encoded.body)
        message, values = decoder.finish(incoming)
        host.incoming(values)
        return message

    def forget(self, device: int) -> None:
        """What the server's host holds of a device that has left: a shared one forgets when that is back."""
        server = self._hosts[SERVER]
        if device in self._hosts and self._hosts[device] is not server:
            server.forget(device)

    def fresh(self) -> list[int]:
        """The numbers of what has been sent since this was last asked."""
        found, self._fresh = self._fresh, []
        return found

    def there(self, number: int) -> bool:
        """Whether a message has been sent."""
        return number in self._sent

    def take(self, number: int) -> tuple[int, Message]:
        """Receiver and message; it is kept for as long as a journal is yet to speak of it."""
        self._due[number] -= 1
        return self._sent[number] if self._due[number] else self._sent.pop(number)


class _Node:
    """One node: its lives one after the other, and what it has done in them."""

    def __init__(
        self,
        number: int,
        past: Sequence[Past],
        script: Script,
        host: Host,
        mail: _Mail,
        publish: Callable[[int, tuple[Payload, ...]], None] | None,
    ) -> None:
        self.number = number
        self.host = host
        self.mail = mail
        self.works: list[str] = []
        self.published: tuple[int | None, tuple[Payload, ...]] = (None, ())
        self._script = script
        self._publish = publish
        self._past = deque(past)
        self._life: _Life | None = None
        self._lived = False

    def go_on(self) -> int | None:
        """Go on as far as there is something to go on with; the number of the message that is missing, if one is."""
        while self._life is not None or self._past:
            if self._life is None:
                if self._lived:
                    self.host.forget(self.number)
                self._life, self._lived = _Life(self, self._past.popleft(), self._script), True
            missing = self._life.go_on()
            if missing is not None:
                return missing
            self._life = None
        return None

    def abandon(self) -> None:
        """It is not to go on."""
        if self._life is not None:
            self._life.abandon()

    def waits_in_vain(self, number: int) -> RunError:
        """The error of a message that is never sent."""
        assert self._life is not None
        return self._life.unfit(f"nobody has sent message {number}, nor is anything left that could lead to it")

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """There is a new global model."""
        self.published = version, model
        if self._publish is not None:
            self._publish(version, model)


class _Over(BaseException):
    """The journal of a life that has crashed is at its end."""


class _Life:
    """One life of a script, on what it was given; its `Port`."""

    def __init__(self, owner: _Node, past: Past, script: Script) -> None:
        self.node = owner.number
        self._owner = owner
        self._mail = owner.mail
        self._past = past
        self._make = script
        self._at = 1  # the entry that comes next, behind `begin`
        self._step = 0
        self._effect: Effect[Any] | None = None
        self._over = False
        self._coroutine: Any = None
        self._connections: dict[int, int] = {}
        end = past.end
        self._returned = end is not None and end.value[0] == Life.RETURNED.name
        self._last = end if not self._returned else None  # where it was stopped in the middle of an effect

    def go_on(self) -> int | None:
        """Go on to the end of the life, answering with None, or to what waits for the message with this number."""
        try:
            while True:
                missing = self._missing()
                if missing is not None:
                    return missing
                if self._over:
                    self._close()
                    return None
                self._over = not self._advance()
        except _Over:
            if self.node == SERVER:
                raise self.unfit("the script goes on; it is not whole") from None
            self.abandon()
        return None

    def abandon(self) -> None:
        """Close the script, whatever it does on its way out."""
        with suppress(Exception, _Over):
            close(self._coroutine, self.node)

    def unfit(self, found: str) -> RunError:
        """The error of a script that does something else than what its journal says."""
        if self._at < len(self._past.entries):
            entry = self._past.entries[self._at]
            said = f"says {entry.what.value} {entry.value} at effect {entry.step}"
        else:
            said = "has nothing more"
        at = "" if self._coroutine is None else f" (at {place(self._coroutine)})"
        return RunError(f"{self._where()} {said}, but {found}, at effect {self._step}{at}")

    def _where(self) -> str:
        return f"entry {self._at} of the journal of {name(self.node)}, life {self._past.life},"

    # ------------------------------------------------------------------------------------------ the script

    def _missing(self) -> int | None:
        """The first message that the script is given before it awaits something else, and that is not there yet.

        Plain calls cannot wait, so the script does not go on before all is there that they are to answer with. In
        between it sends nothing, so nobody's message hangs on that.
        """
        for entry in itertools.islice(self._past.entries, self._at, None):
            if entry.step != self._step:
                return None
            for number in entry.references():
                if not self._mail.there(number):
                    return number
        return None

    def _advance(self) -> bool:
        """Let the script go on to its next effect; False at the end of the life."""
        try:
            if self._coroutine is None:
                self._coroutine = started(self.node, self._make(self))
                effect = self._coroutine.send(None)
            else:
                effect = self._coroutine.send(self._answer())
        except StopIteration:
            end = self._peek()
            if end is not None and (end is not self._past.end or not self._returned or end.step != self._step):
                raise self.unfit("the script returns") from None
            return False
        self._step += 1
        self._effect = effect
        if self._returned and self._step > self._past.entries[-1].step:
            raise self.unfit(f"the script awaits {_shown(effect)}")
        try:
            self._begin(effect)
        except ScriptError as error:
            raise ScriptError(f"{error} (at {place(self._coroutine)})") from error
        return not self._stopped

    @property
    def _stopped(self) -> bool:
        """Whether the life ended in the present effect."""
        return self._last is not None and self._last.step == self._step

    def _begin(self, effect: Effect[Any]) -> None:
        """Do what others may see of an effect before it is answered."""
        match effect:
            case Send():
                self._send(effect)
            case Compute():
                works = effect.works
                if self._stopped:
                    assert self._last is not None
                    works = works[: self._last.value[1]]
                for work in works:
                    self._owner.host.run(work.command)
                    self._owner.works.append(work.command.method)
            case Recv() | Sleep() | Evaluate():
                pass
            case _:
                raise foreign(effect)

    def _send(self, effect: Send) -> None:
        if self._stopped and not self._comes(What.SEND):
            return
        numbers = self._next(What.SEND, f"the script sends {_shown(effect)}")
        if len(numbers) != len(effect.to):
            raise self._misfit(f"the script sends {len(effect.to)} copies of {_shown(effect)}")
        if self._comes(What.CONNECTIONS):
            for target, connection in self._next(What.CONNECTIONS, "the script goes on"):
                self._connect(target, connection)
        copies = zip(numbers, effect.to, strict=True)
        self._mail.send(self.node, effect.message, (copy for copy in copies if self._connections.get(copy[1], 1)))

    def _connect(self, target: int, connection: int) -> None:
        """What goes to a node from now on goes by another connection, or is lost."""
        self._connections[target] = connection
        if self.node == SERVER:
            self._mail.forget(target)

    def _answer(self) -> Any:
        """What the present effect is answered with."""
        match self._effect:
            case Recv() as effect:
                found = self._next(What.RECV, f"the script awaits {_shown(effect)}")
                if found is None:
                    if effect.until is None:
                        raise self._misfit(f"the script awaits {_shown(effect)} without any time limit")
                    return Timeout()
                return self._message(found, effect.kinds, effect.source)
            case Evaluate():
                return Quality(*self._next(What.EVALUATE, "the script evaluates a model"))
            case Compute() as effect:
                return effect.works[0].result if effect.single else tuple(work.result for work in effect.works)
            case _:
                return None

    def _close(self) -> None:
        """The life is over."""
        close(self._coroutine, self.node)
        if self._past.end is not None and self._at != len(self._past.entries) - 1:
            raise self.unfit("the script has ended")

    # ----------------------------------------------------------------------------------------- the journal

    def _peek(self) -> Entry | None:
        entries = self._past.entries
        return entries[self._at] if self._at < len(entries) else None

    def _comes(self, what: What) -> bool:
        entry = self._peek()
        return entry is not None and entry.what is what and entry.step == self._step

    def _next(self, what: What, doing: str) -> Any:
        """The value of the next entry, which is an answer to what the script is doing."""
        entry = self._peek()
        if entry is None:
            raise _Over
        if entry.what is not what or entry.step != self._step:
            raise self.unfit(doing)
        self._at += 1
        return entry.value

    def _misfit(self, doing: str) -> RunError:
        """The error of the entry that was looked at last."""
        self._at -= 1
        return self.unfit(doing)

    def _message(self, found: Any, kinds: Collection[type[Message]], source: int | None = None) -> Message:
        """The message of a reference, if it is one of those that the script asks for."""
        if isinstance(found, list):
            message = notice(found)
        else:
            target, message = self._mail.take(found)
            if target != self.node:
                raise self._misfit(f"message {found} is sent to {name(target)}")
        if type(message) not in kinds or source not in (None, message.sender):
            asked = "|".join(kind.__name__ for kind in kinds)
            what = f"{type(message).__name__} of {name(message.sender)}"
            of = "" if source is None else f" of {name(source)}"
            raise self._misfit(f"that is {what}, and the script asks for {asked}{of}")
        return message

    # ------------------------------------------------------------------ plain calls of the script (Port)

    @property
    def now(self) -> float:
        """Seconds since the start of the run, as they were then."""
        now: float = self._next(What.NOW, "the script asks for the time")
        return now

    @property
    def absent(self) -> Collection[int]:
        """The devices that had left and not come back."""
        return frozenset(self._next(What.ABSENT, "the script asks who is absent"))

    def poll(self, *kinds: type[Message]) -> Message | None:
        """The message that was there, or nothing."""
        found = self._next(What.POLL, f"the script polls {'|'.join(kind.__name__ for kind in kinds)}")
        return None if found is None else self._message(found, kinds)

    def arrived(self, kind: type[Message]) -> list[Message]:
        """The messages of `kind` that had come since this was last asked."""
        asked = f"the script asks which {kind.__name__} have come"
        named, found = self._next(What.ARRIVED, asked)
        if named != kind.__name__:
            raise self._misfit(asked)
        return [self._message(each, (kind,)) for each in found]

    def outgoing(self, kind: type[Message]) -> int:
        """How many messages of `kind` were under way."""
        asked = f"the script asks how many {kind.__name__} are under way"
        named, count = self._next(What.OUTGOING, asked)
        if named != kind.__name__:
            raise self._misfit(asked)
        return int(count)

    def drop(self, message: Message) -> None:
        """Refuse a message that waits."""
        asked = f"the script drops {type(message).__name__} of {name(message.sender)}"
        found = self._next(What.DROP, asked)
        if found is not None and isinstance(found, int) and self._mail.take(found)[1] is not message:
            raise self._misfit(asked)

    def command(self, command: Command) -> None:
        """Run a command that takes no time."""
        self._owner.host.run(command)

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Nothing is recorded."""

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Name the current global model."""
        self._owner.publish(version, model)


def _shown(effect: object) -> str:
    match effect:
        case Recv():
            kinds = "|".join(kind.__name__ for kind in effect.kinds)
            return kinds if effect.source is None else f"{kinds} of {name(effect.source)}"
        case Send():
            return type(effect.message).__name__
        case _:
            return type(effect).__name__
