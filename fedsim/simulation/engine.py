"""The virtual-clock engine: scripts in, a trace out.

The clock counts integer nanoseconds. What is going to happen lies in one heap, ordered by (time, sequence); a node's
script runs from one effect to the next and takes no time in between. Durations come from prices, arrivals from the
network, never from a stopwatch. The engine knows no scheduler, no tensors and no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from fedsim.costs import Cost
from fedsim.errors import Deadlock
from fedsim.script import (
    SERVER,
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
from fedsim.simulation.envelopes import ENVELOPE_BYTES, Parcel, pack
from fedsim.simulation.scripts import Actor, describe, reject, unfinished
from fedsim.simulation.workers import Workers
from fedsim.trace import Trace

NANOSECONDS: Final = 1_000_000_000

_DELIVER, _DONE, _WAKE, _TIMEOUT, _TICK, _LEAVE, _RETURN = range(7)

Script = Callable[[Any], Any]


class Network(Protocol):
    """When a message flows: `submit` answers with the start of its flow and its arrival, in nanoseconds."""

    def submit(self, now_ns: int, source: int, target: int, nbytes: int) -> tuple[int, int]: ...
    def reset(self, node: int) -> None: ...


class Ending(Enum):
    """Why a run ended."""

    SERVER = "the server's script returned"
    TIME = "until.time was reached"
    QUALITY = "until's accuracy or loss was reached"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A device that leaves and, perhaps, comes back."""

    device: int
    leave: float
    back: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a run ends, and when its model is evaluated.

    `reached` is asked at every evaluation; `every` None evaluates each published model once.
    """

    time: float | None = None
    every: float | None = None
    reached: Callable[[Quality], bool] | None = None


def _ns(seconds: float) -> int:
    """Seconds as whole nanoseconds, rounded up."""
    return math.ceil(seconds * NANOSECONDS)


class _Published:
    """The current global model and, once measured, its quality."""

    __slots__ = ("model", "quality", "version")

    def __init__(self, version: int, model: tuple[Payload, ...]) -> None:
        self.version = version
        self.model = model
        self.quality: Quality | None = None


class Simulation:
    """One run on the virtual clock.

    Args:
        trace: receives the records; its node table names every node.
        server: makes the server's coroutine from its port.
        device: makes a device's coroutine from its port, at the device's first message.
        lanes: works a node runs at once, by node number; nodes not named have one.
        price: nanoseconds that a cost takes on a node.
        network: arrival times of messages.
        workers: who does the real work.
        limits: when to end and when to evaluate.
        faults: devices that leave and return.
        observe: called at every mark with its name and value; for progress bars.
    """

    def __init__(
        self,
        *,
        trace: Trace,
        server: Script,
        device: Script,
        devices: int,
        price: Callable[[int, Cost], int],
        network: Network,
        workers: Workers,
        limits: Limits,
        lanes: Mapping[int, int] | None = None,
        faults: Sequence[Fault] = (),
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        self.trace = trace
        self.now = 0
        self.published: _Published | None = None
        self.stopping = False
        self.absent: set[int] = set()
        self._scripts = {"server": server, "device": device}
        self._price = price
        self._network = network
        self._workers = workers
        self._limits = limits
        self._lanes = lanes or {}
        self._observe = observe
        self._heap: list[tuple[int, int, int, int, Any]] = []
        self._sequence = 0
        self._messages = 0
        self._idle_events = 0
        self._ending: Ending | None = None
        self._trained = 0
        self._evaluated = -1
        self._actors: list[Actor | None] = [None] * (devices + 1)  # the server is the last: actors[-1]
        self._effects: dict[type, Callable[[Actor, Any], bool]] = {
            Send: self._send,
            Recv: self._recv,
            Compute: self._compute,
            Sleep: self._sleep,
            Evaluate: self._evaluate_now,
        }
        for fault in faults:
            self._push(_ns(fault.leave), _LEAVE, fault.device, None)
            if fault.back is not None:
                self._push(_ns(fault.back), _RETURN, fault.device, None)
        if limits.every is not None:
            self._tick_later(limits.every)

    # --------------------------------------------------------------------------------------- the run

    def run(self) -> Ending:
        """Run to the end; afterwards the trace is complete and every script is closed.

        Raises:
            Deadlock: scripts wait, and nothing is left that could wake them.
            ScriptError: a script awaited something foreign, or went on after it was closed.
        """
        horizon = math.inf if self._limits.time is None else _ns(self._limits.time)
        heap = self._heap
        handlers = (
            self._deliver,
            self._done,
            self._wake,
            self._timeout,
            self._tick,
            self._leave,
            self._return,
        )
        try:
            self._begin(SERVER, self._scripts["server"])
            while self._ending is None:
                if not heap or len(heap) == self._idle_events:
                    raise Deadlock(describe(self._actors, self.now))
                if heap[0][0] > horizon:
                    break
                if self.stopping:
                    self._ending = Ending.INTERRUPTED
                    break
                time, _, kind, node, data = heappop(heap)
                self.now = time
                handlers[kind](node, data)
            if self._ending is None:
                self.now = int(horizon)
                self._ending = Ending.TIME
            self._evaluate_last()
            return self._ending
        finally:
            self._close()

    def _push(self, time: int, kind: int, node: int, data: Any) -> None:
        self._sequence += 1
        heappush(self._heap, (time, self._sequence, kind, node, data))

    def _begin(self, node: int, script: Script) -> Actor:
        actor = Actor(node, self)
        self._actors[node] = actor
        self.trace.marks.append((node, self.now, "join", 0.0, ""))
        actor.script = script(actor)
        self._resume(actor, None)
        return actor

    def _resume(self, actor: Actor, value: Any) -> None:
        """Let a script run until it awaits something that is not there yet."""
        send = actor.script.send
        effects = self._effects
        actor.answer = value
        while True:
            try:
                effect = send(actor.answer)
            except StopIteration:
                self._ended(actor)
                return
            handle = effects.get(type(effect))
            if handle is None:
                reject(actor.script, effect)
            elif not handle(actor, effect):
                return

    def _ended(self, actor: Actor) -> None:
        actor.over = True
        self.trace.marks.append((actor.node, self.now, "end", 0.0, ""))
        if actor.node == SERVER:
            self._ending = Ending.SERVER

    # ---------------------------------------------------------- effects: True where the answer is there

    def _send(self, actor: Actor, effect: Send) -> bool:
        message = effect.message
        if message.sender != actor.node:
            message = replace(message, sender=actor.node)
        parcel = pack(message)
        now, source = self.now, actor.node
        for target in effect.to:
            receiver = self._actors[target]
            incarnation = 0 if receiver is None else -1 if receiver.away else receiver.incarnation
            started, arrived = self._network.submit(now, source, target, parcel.nbytes)
            self._messages += 1
            self._push(
                arrived,
                _DELIVER,
                target,
                (self._messages, message, parcel, now, started, actor.incarnation, incarnation),
            )
        actor.answer = None
        return True

    def _recv(self, actor: Actor, effect: Recv[Any]) -> bool:
        message = actor.mailbox.take(effect.kinds, effect.source, effect.by)
        if message is not None:
            actor.answer = message
            return True
        if effect.until is not None:
            moment = _ns(effect.until)
            if moment <= self.now:
                actor.answer = Timeout()
                return True
            self._push(moment, _TIMEOUT, actor.node, (actor, actor.waits))
        actor.waiting = effect
        actor.since = self.now
        return False

    def _sleep(self, actor: Actor, effect: Sleep) -> bool:
        if effect.seconds < 0 or not math.isfinite(effect.seconds):
            raise ValueError(f"sleep for {effect.seconds} s; a duration is finite and not negative")
        actor.since = self.now
        actor.asleep = True
        self._push(self.now + _ns(effect.seconds), _WAKE, actor.node, actor)
        return False

    def _compute(self, actor: Actor, effect: Compute) -> bool:
        """Works of one effect take the lane that is free first, in order."""
        now, node, price = self.now, actor.node, self._price
        free = [now] * min(self._lanes.get(node, 1), len(effect.works))
        spans = []
        for work in effect.works:
            lane = free.index(min(free))
            for part in work.parts:
                end = free[lane] + price(node, part.cost)
                spans.append((lane, part, free[lane], end))
                free[lane] = end
        actor.computing = spans
        actor.answer = effect.works[0].result if effect.single else tuple(w.result for w in effect.works)
        self._workers.start(node, [work.command for work in effect.works])
        self._push(max(free), _DONE, node, actor)
        return False

    def _evaluate_now(self, actor: Actor, effect: Evaluate) -> bool:
        quality = self._workers.evaluate(effect.model, effect.split)
        assert quality is not None, "a script needs values, but learning is off"
        actor.answer = quality
        return True

    # ------------------------------------------------------------------------------------------ events

    def _deliver(self, node: int, data: tuple[int, Message, Parcel, int, int, int, int]) -> None:
        number, message, parcel, queued, started, sent_by, sent_to = data
        sender = self._actors[message.sender]
        actor = self._actors[node]
        outcome = "delivered"
        if sender is not None and sender.incarnation != sent_by:
            outcome = "sender left"
        elif sent_to != (0 if actor is None else actor.incarnation):
            outcome = "receiver left"
        self._record(number, message, parcel, node, queued, started, outcome)
        if outcome != "delivered":
            return
        if actor is None or actor.script is None:
            self._first_message(node, actor, message, number)
        elif actor.over:
            return
        else:
            self._hand_over(actor, message, number)

    def _record(
        self, number: int, message: Message, parcel: Parcel, node: int, queued: int, started: int, outcome: str
    ) -> None:
        self.trace.transfers.append(
            (
                number,
                message.sender,
                node,
                parcel.kind,
                parcel.role,
                *parcel.payload,
                ENVELOPE_BYTES,
                queued,
                min(started, self.now),
                self.now,
                outcome,
            )
        )

    def _hand_over(self, actor: Actor, message: Message, number: int) -> None:
        """Give a message to the script that waits for it, or let it wait in the mailbox."""
        effect = actor.waiting
        if (
            effect is not None
            and type(message) in effect.kinds
            and (effect.source is None or effect.source == message.sender)
        ):
            self._end_wait(actor, effect, number)
            self._resume(actor, message)
        else:
            actor.mailbox.put(message)

    def _end_wait(self, actor: Actor, effect: Recv[Any], number: int) -> None:
        actor.waiting = None
        actor.waits += 1
        if self.now > actor.since:
            source = -2 if effect.source is None else effect.source
            self.trace.waits.append((actor.node, actor.since, self.now, roles(effect.kinds), source, number))

    def _first_message(self, node: int, actor: Actor | None, message: Message, number: int) -> None:
        """A device's script starts when it is first spoken to; until then it has waited for a model."""
        joined = 0 if actor is None else actor.since
        if actor is None:
            actor = self._actors[node] = Actor(node, self)
            self.trace.marks.append((node, 0, "join", 0.0, ""))
        if self.now > joined:
            self.trace.waits.append((node, joined, self.now, Role.MODEL.value, -2, number))
        actor.mailbox.put(message)
        actor.script = self._scripts["device"](actor)
        self._resume(actor, None)

    def _done(self, node: int, actor: Actor) -> None:
        spans = actor.computing
        if spans is None or actor is not self._actors[node]:
            return  # the device left meanwhile
        self._workers.finish(node)
        actor.computing = None
        for lane, part, start, end in spans:
            self._span(node, lane, part, start, end, end)
        self._resume(actor, actor.answer)

    def _span(self, node: int, lane: int, part: Any, start: int, end: int, until: int, *, wasted: bool = False) -> None:
        """Record a span; one that was cut off did the share of its MACs that its time is of the whole."""
        macs, forward = part.cost.macs, part.cost.forward_macs
        samples = part.samples
        if until < end:
            macs = macs * (until - start) // (end - start)
            forward = forward * (until - start) // (end - start)
            samples = 0
        elif not wasted and node != SERVER:
            self._trained += samples
        self.trace.spans.append((node, lane, part.kind, start, until, macs, forward, samples, wasted))

    def _wake(self, node: int, actor: Actor) -> None:
        if not actor.asleep or actor is not self._actors[node]:
            return
        actor.asleep = False
        if self.now > actor.since:
            self.trace.waits.append((node, actor.since, self.now, "sleep", -2, -1))
        self._resume(actor, None)

    def _timeout(self, _node: int, data: tuple[Actor, int]) -> None:
        actor, waits = data
        if actor.waiting is None or actor.waits != waits or actor.over:
            return
        self._end_wait(actor, actor.waiting, -1)
        self._resume(actor, Timeout())

    def _tick_later(self, seconds: float) -> None:
        self._idle_events += 1  # a tick wakes no script, so it must not hide a deadlock
        self._push(self.now + _ns(seconds), _TICK, SERVER, seconds)

    def _tick(self, _node: int, seconds: float | None) -> None:
        if seconds is not None:
            self._idle_events -= 1
            self._tick_later(seconds)
        self._evaluate_published()

    def _leave(self, node: int, _data: None) -> None:
        actor = self._actors[node]
        self.trace.marks.append((node, self.now, "leave", 0.0, ""))
        if actor is None:
            actor = self._actors[node] = Actor(node, self)
            self.trace.marks.append((node, 0, "join", 0.0, ""))
        if actor.script is None and self.now > actor.since:
            self.trace.waits.append((node, actor.since, self.now, Role.MODEL.value, -2, -1))
        self._interrupt(actor)
        self._network.reset(node)
        gone = Actor(node, self)
        gone.incarnation, gone.away = actor.incarnation + 1, True
        self._actors[node] = gone
        self._workers.forget(node)
        self.absent.add(node)
        self._notify(Disconnected(node, sender=node))

    def _return(self, node: int, _data: None) -> None:
        actor = self._actors[node]
        assert actor is not None and actor.away
        actor.away = False
        self.absent.discard(node)
        actor.since = self.now
        self.trace.marks.append((node, self.now, "return", 0.0, ""))
        self._notify(Connected(node, sender=node))

    def _notify(self, notice: Message) -> None:
        server = self._actors[SERVER]
        if server is not None and not server.over:
            self._hand_over(server, notice, -1)

    def _interrupt(self, actor: Actor) -> None:
        """Record what a script was doing, and close it."""
        if actor.waiting is not None:
            self._end_wait(actor, actor.waiting, -1)
        elif actor.asleep:
            if self.now > actor.since:
                self.trace.waits.append((actor.node, actor.since, self.now, "sleep", -2, -1))
            actor.asleep = False
        elif actor.computing is not None:
            for lane, part, start, end in actor.computing:
                if start < self.now:
                    self._span(actor.node, lane, part, start, end, min(end, self.now), wasted=True)
            actor.computing = None
        unfinished(actor)

    # -------------------------------------------------------------------------------------- evaluation

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Name the current global model (called by the server's script through its port)."""
        self.published = _Published(version, model)
        self.mark(SERVER, "publish", version, None)
        if self._limits.every is None:
            self._push(self.now, _TICK, SERVER, None)

    def _evaluate_published(self) -> None:
        published = self.published
        if published is None:
            return
        if published.quality is None:
            published.quality = self._workers.evaluate(published.model, "test")
        quality = published.quality
        if quality is None:
            return
        self._evaluated = published.version
        detail = {
            "loss": quality.loss,
            "samples": quality.samples,
            "version": published.version,
            "trained": self._trained,
        }
        self.mark(SERVER, "evaluate", quality.accuracy, detail)
        if self._ending is None and self._limits.reached is not None and self._limits.reached(quality):
            self._ending = Ending.QUALITY

    def _evaluate_last(self) -> None:
        """The last published model is always measured, whenever the run ends."""
        if self.published is not None and self.published.version != self._evaluated:
            self._evaluate_published()

    # ----------------------------------------------------------------------- plain calls of the ports

    def queue(self, command: Command) -> None:
        """A command that takes no time (called through a port)."""
        self._workers.queue(command)

    def mark(self, node: int, name: str, value: float, detail: Mapping[str, object] | None) -> None:
        """Record a moment (called through a port)."""
        self.trace.mark(node, self.now, name, value, detail)
        if self._observe is not None:
            self._observe(name, value)

    # ---------------------------------------------------------------------------------------- the end

    def _close(self) -> None:
        """Record what every node was doing, close its script and note what is still under way."""
        self.trace.end = self.now
        for actor in self._actors:
            if actor is None or actor.away:
                continue
            if actor.script is None:
                if self.now > actor.since:
                    self.trace.waits.append((actor.node, actor.since, self.now, Role.MODEL.value, -2, -1))
            elif not actor.over:
                self._interrupt(actor)
        for _, _, kind, node, data in sorted(e for e in self._heap if e[2] == _DELIVER):
            number, message, parcel, queued, started, sent_by, _ = data
            sender = self._actors[message.sender]
            left = sender is not None and sender.incarnation != sent_by
            self._record(number, message, parcel, node, queued, started, "sender left" if left else "in flight")
        self._heap.clear()


_ROLES: dict[tuple[type[Message], ...], str] = {}


def roles(kinds: tuple[type[Message], ...]) -> str:
    """The roles of message classes as a trace names them: `model`, `activations|contribution`."""
    text = _ROLES.get(kinds)
    if text is None:
        named = dict.fromkeys(kind.role.value for kind in kinds if kind not in (Disconnected, Connected))
        text = _ROLES[kinds] = "|".join(named) or Role.CONTROL.value
    return text
