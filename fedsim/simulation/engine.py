"""The virtual-clock engine: scripts in, a trace out.

The clock counts integer nanoseconds. What is going to happen lies in one heap, ordered by (time, sequence); a node's
script runs from one effect to the next and takes no time in between. Durations come from prices, arrivals from the
network, never from a stopwatch. The engine knows no scheduler, no tensors and no files.

One class, since all that happens moves the same heap, clock and actors; what can stand alone does so beside it:
conditions, envelopes, evaluation, scripts, spans, workers.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, Final

from fedsim.errors import Deadlock, RunError, ScriptError, SimulatedOutOfMemory
from fedsim.runtime.conditions import LAST, LONGEST, Ending, Fault, Limits, Shortage, in_order, nanoseconds
from fedsim.runtime.coroutines import ANY, SENDING, SLEEP, close, foreign, name, out_of_memory, place, started
from fedsim.runtime.envelopes import ENVELOPE_BYTES, roles
from fedsim.runtime.memory import Ledger
from fedsim.runtime.published import Published
from fedsim.runtime.sofar import SoFar, Tally
from fedsim.runtime.spans import Price, Spans, append, cut, lay
from fedsim.script import (
    SERVER,
    Command,
    Compute,
    Connected,
    Disconnected,
    Evaluate,
    Message,
    Payload,
    Recv,
    Send,
    Sleep,
    Timeout,
)
from fedsim.simulation.evaluation import Evaluation
from fedsim.simulation.scripts import Actor, describe
from fedsim.simulation.transfers import Flight, Network, Transfers
from fedsim.simulation.workers import Workers
from fedsim.trace import Trace

__all__ = ["Ending", "Fault", "Limits", "Network", "Simulation"]

Script = Callable[[Any], Any]

_OBJECTS: Final = 10
"""Objects that a device in the middle of an effect holds, about.

Python's cyclic collector looks at young objects after every 700 allocations. With 100,000 devices nearly all of them
still live then and are soon taken for old, and going through all old ones takes half of the run. So it waits until
every device may have gone on by one effect.
"""

_SHELVE: Final = 50_000
"""Events after which it is looked whether records should go to disk."""

_SUSPENDED: Final = object()  # what an effect answers with where the answer is not there yet


class Simulation:
    """One run on the virtual clock.

    Args:
        trace: receives the records; its node table names every node.
        server: makes the server's coroutine from its port.
        device: makes a device's coroutine from its port, at the device's first message.
        devices: how many there are, numbered from 0.
        lanes: works a node runs at once, by node number; nodes not named have one.
        price: nanoseconds that a cost takes on a node, if it starts at a moment.
        network: start and arrival of messages.
        workers: who does the real work.
        limits: when to end and when to evaluate.
        faults: devices that leave and return.
        churn: for devices that come and go by a recording, what they do next, one after the other.
        memory: what nodes hold; None does not account for it.
        shortage: what happens where memory does not suffice.
        observe: called at every mark with its name and value; for progress bars.
    """

    def __init__(
        self,
        *,
        trace: Trace,
        server: Script,
        device: Script,
        devices: int,
        price: Price,
        network: Network,
        workers: Workers,
        limits: Limits,
        lanes: Mapping[int, int] | None = None,
        faults: Sequence[Fault] = (),
        churn: Mapping[int, Iterator[Fault]] | None = None,
        memory: Ledger | None = None,
        shortage: Shortage = Shortage.REFUSE,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        self.trace = trace
        self.now = 0
        self.absent: set[int] = set()
        self._server = server
        self._device = device
        self._devices = devices
        self._price = price
        self._workers = workers
        self._limits = limits
        self._lanes = lanes or {}
        self._churn = churn or {}
        self._ledger = memory
        self._shortage = shortage
        self._overdrawn = False  # a command that takes no time has asked for more memory than there is
        self._observe = observe
        self._evaluation = Evaluation(workers, self.mark, limits.reached)
        self._heap: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._sequence = 0
        self._idle = 0  # events in the heap that will wake nobody: a heap of these alone is a deadlock
        self._ending: Ending | None = None
        self._asked = False  # somebody wants it to stop, or to look
        self._stopping = False
        self._look: Callable[[], None] | None = None
        self._tally: Tally | None = None  # of whoever looks
        self._trained = 0
        self._shelve_at = _SHELVE
        self._actors: list[Actor | None] = [None] * (devices + 1)  # the server is the last: actors[-1]
        self._transfers = Transfers(
            trace=trace,
            network=network,
            ledger=memory,
            push=self._push,
            overtaken=self._overtake,
            deliver=self._deliver,
            sent=self._sent,
        )
        self._roles: dict[tuple[type[Message], ...], str] = {}
        self._effects: dict[type, Callable[[Actor, Any], Any]] = {
            Send: self._send,
            Recv: self._recv,
            Compute: self._compute,
            Sleep: self._sleep,
            Evaluate: self._evaluate,
        }
        for fault in in_order(faults, devices):
            self._push(nanoseconds(fault.leave), self._leave, fault.device)
            if fault.back is not None:
                self._push(nanoseconds(fault.back), self._return, fault.device)
        for node in self._churn:
            self._go_on(node)
        if limits.every is not None:
            self._tick_later(nanoseconds(limits.every))

    @property
    def published(self) -> Published | None:
        """The current global model."""
        return self._evaluation.published

    # ------------------------------------------------- from outside, by any thread or handler of a signal

    @property
    def stopping(self) -> bool:
        """Whether somebody wants it to end at the next event."""
        return self._stopping

    @stopping.setter
    def stopping(self, wanted: bool) -> None:
        self._stopping = wanted
        self._asked = True

    def ask(self, look: Callable[[], None]) -> None:
        """Have `look` called once, before the next event and in the thread that runs this: nothing changes meanwhile.

        Of several that are asked for before an event, the last one is called; of those after the last event, none.
        """
        self._look = look
        self._asked = True

    def so_far(self) -> SoFar:
        """Figures up to now; for `ask`, and after the end."""
        if self._tally is None:
            self._tally = Tally(self._devices, self._lanes)
        there = (actor.computing for actor in self._actors if actor is not None and actor.computing)
        return self._tally.look(self.trace, self.now, [span for spans in there for span in spans])

    # --------------------------------------------------------------------------------------- the run

    def run(self) -> Ending:
        """Run to the end, once; afterwards the trace is complete and every script is closed, whatever happened.

        Raises:
            Deadlock: scripts wait, and nothing is left that could wake them.
            ScriptError: a script broke a rule; the message says where.
            SimulatedOutOfMemory: a node needs more memory than it may use, and the run is not to go on then.
        """
        assert self._actors[SERVER] is None, "a simulation runs once"
        failure: BaseException | None = None
        collecting = gc.get_threshold()
        try:
            if collecting[0]:
                gc.set_threshold(max(collecting[0], _OBJECTS * self._devices), *collecting[1:])
            self._play()
            self._evaluation.measure_last(self._trained)
        except BaseException as error:
            failure = error
            raise
        finally:
            gc.set_threshold(*collecting)
            self._close(failure)
        assert self._ending is not None
        return self._ending

    def _play(self) -> None:
        heap, horizon = self._heap, self._limits.horizon
        server = self._join(SERVER)
        server.awaited = None
        server.script = started(SERVER, self._server(server))
        self._resume(server, None)
        while self._ending is None:
            if self._asked:
                self._answer()
            elif len(heap) == self._idle:
                raise Deadlock(describe(self._actors, self.now, len(self._transfers)))
            else:
                event = heappop(heap)
                if event[1] >= self._shelve_at:
                    self._shelve_at = self._sequence + _SHELVE
                    self.trace.shelve()
                if event[0] > horizon:
                    heappush(heap, event)
                    self._run_out(horizon)
                else:
                    self.now, _, happen, what = event
                    happen(what)

    def _answer(self) -> None:
        """Do what was asked from outside."""
        self._asked = False
        look, self._look = self._look, None
        if look is not None:
            look()
        if self._stopping:
            self._ending = Ending.INTERRUPTED

    def _run_out(self, horizon: int) -> None:
        if self._limits.time is None:
            raise RunError(
                f"at {self.now / 1e9:g} s something lasts beyond the end of the clock, {LAST / 1e9:g} s; look for a "
                "latency, a link or a profile with such a figure, or give until.time"
            )
        self.now = horizon
        self._ending = Ending.TIME

    def _push(self, time: int, happen: Callable[[Any], None], what: Any) -> None:
        self._sequence += 1
        heappush(self._heap, (time, self._sequence, happen, what))

    def _overtake(self, events: int) -> None:
        """So many more events in the heap will wake nobody."""
        self._idle += events

    def _join(self, node: int) -> Actor:
        actor = self._actors[node] = Actor(node, self, 0)
        self.trace.marks.append((node, 0, "join", 0.0, ""))
        return actor

    def _resume(self, actor: Actor, value: Any) -> None:
        """Let a script run until it awaits something that is not there yet."""
        send = actor.script.send
        effects = self._effects
        while True:
            try:
                effect = send(value)
            except StopIteration:
                self._ended(actor)
                return
            if self._overdrawn:
                self._overdrawn = False
                if self._short(actor):
                    return
            try:
                handle = effects.get(type(effect))
                if handle is None:
                    raise foreign(effect)
                value = handle(actor, effect)
            except ScriptError as error:
                raise ScriptError(f"{error} (at {place(actor.script)})") from error
            if value is _SUSPENDED:
                return

    def _ended(self, actor: Actor) -> None:
        actor.over = True
        self._leave_lying(actor)
        self.trace.marks.append((actor.node, self.now, "end", 0.0, ""))
        if actor.node == SERVER:
            self._ending = Ending.SERVER

    # ------------------------------------------------- effects: they answer, or say that the script is suspended

    def _send(self, actor: Actor, effect: Send) -> Any:
        node, now, transfers = actor.node, self.now, self._transfers
        message, parcel, loaded = transfers.weighed(effect.message, node)
        if loaded and self._ledger is not None and effect.to:
            fits = self._ledger.queued(node, message, parcel.nbytes, len(effect.to), now)
            if not fits and self._short(actor):
                return _SUSPENDED
        if effect.blocking and effect.to:
            actor.sending, actor.copies = message, len(effect.to)
            actor.awaited, actor.source, actor.since = SENDING, effect.to[0] if len(effect.to) == 1 else ANY, now
        for target in effect.to:
            if not SERVER <= target < self._devices:
                known = f"devices are numbered 0 to {self._devices - 1}, the server is {SERVER}"
                raise ScriptError(f"{name(node)} sends {type(message).__name__} to node {target}; {known}")
            transfers.send(message, parcel, actor, self._actors[target] or self._join(target), now)
        transfers.expect()
        return _SUSPENDED if actor.sending is not None else None

    def _recv(self, actor: Actor, effect: Recv[Any]) -> Any:
        kinds, source = effect.kinds, effect.source
        message = actor.mailbox.take(kinds, source, effect.by)
        if message is not None:
            if actor.stays or actor.inbox:
                self.taken(actor, message)
            return message
        awaited = self._roles.get(kinds)
        if awaited is None:
            awaited = self._roles[kinds] = roles(kinds)
        if effect.until is not None and not self._set_timer(actor, effect.until):
            return Timeout()
        actor.waiting = effect
        actor.awaited = awaited
        actor.source = ANY if source is None else source
        actor.since = self.now
        return _SUSPENDED

    def _set_timer(self, actor: Actor, until: float) -> bool:
        """Whether there is time left to wait."""
        if math.isnan(until):
            raise ScriptError("recv until a time that is not a number")
        moment = LAST if until > LONGEST else nanoseconds(max(until, 0.0))
        if moment <= self.now:
            return False
        if moment < LAST:
            actor.timer = [actor]
            self._push(moment, self._timeout, actor.timer)
        return True

    def _sleep(self, actor: Actor, effect: Sleep) -> Any:
        if not 0 <= effect.seconds <= LONGEST:
            raise ScriptError(f"sleep for {effect.seconds} s; a duration is from 0 to {LONGEST:g} s")
        actor.awaited = SLEEP
        actor.source = ANY
        actor.since = self.now
        self._push(self.now + nanoseconds(effect.seconds), self._wake, actor)
        return _SUSPENDED

    def _compute(self, actor: Actor, effect: Compute[Any]) -> Any:
        works, node = effect.works, actor.node
        spans: Spans = []
        if self._ledger is not None:
            fits, actor.memory = self._ledger.computing(node, works, self.now)
            if not fits and self._short(actor):
                return _SUSPENDED
        if effect.single:
            end = append(spans, node, works[0], 0, self.now, self._price)
            actor.answer = works[0].result
            self._workers.start(node, (works[0].command,))
        else:
            end = lay(spans, node, works, self.now, self._lanes.get(node, 1), self._price)
            actor.answer = tuple(work.result for work in works)
            self._workers.start(node, tuple(work.command for work in works))
        actor.computing = spans
        self._sequence += 1
        heappush(self._heap, (end, self._sequence, self._done, actor))
        return _SUSPENDED

    def _evaluate(self, actor: Actor, effect: Evaluate) -> Any:
        quality = self._workers.evaluate(effect.model, effect.split)
        if quality is None:
            raise ScriptError(f"{name(actor.node)} evaluates a model, but learning is off, so there are no values")
        return quality

    # ------------------------------------------------------------------------------------------ events

    def _deliver(self, flight: Flight) -> None:
        number, message, parcel, sender, receiver, _, _ = flight
        if sender.left or receiver.left:
            self._transfers.lose(flight, self.now)
            return
        self._transfers.arrived(flight, self.now)
        ledger = self._ledger
        if receiver.over:
            return
        if ledger is not None and parcel.nbytes > ENVELOPE_BYTES:
            receiver.inbox[id(message)] = parcel.nbytes
            if not ledger.take(receiver.node, parcel.nbytes, self.now) and self._short(receiver):
                return
        if receiver.script is not None:
            self._hand_over(receiver, message, number)
            return
        self._end_wait(receiver, number)
        receiver.stays[id(message)] = number, self.now
        receiver.mailbox.put(message)
        receiver.script = started(receiver.node, self._device(receiver))
        self._resume(receiver, None)

    def _hand_over(self, actor: Actor, message: Message, number: int) -> None:
        """Give a message to the script that waits for it, or let it wait in the mailbox."""
        wanted = actor.waiting
        if (
            wanted is not None
            and type(message) in wanted.kinds
            and (wanted.source is None or wanted.source == message.sender)
        ):
            self._end_wait(actor, number)
            actor.mailbox.note(message)
            if actor.inbox:
                self.taken(actor, message)
            self._resume(actor, message)
        else:
            if number >= 0:
                actor.stays[id(message)] = number, self.now
            actor.mailbox.put(message)

    def _end_wait(self, actor: Actor, number: int) -> None:
        """Record a wait that a message (or, with number -1, something else) has ended."""
        if self.now > actor.since:
            self.trace.waits.append((actor.node, actor.since, self.now, actor.awaited, actor.source, number))
        actor.awaited = actor.waiting = None
        if actor.timer is not None:
            actor.timer.clear()
            actor.timer = None
            self._idle += 1

    def _done(self, actor: Actor) -> None:
        if actor.over:
            self._idle -= 1  # it left meanwhile
            return
        self._workers.finish(actor.node)
        spans = actor.computing
        assert spans is not None
        actor.computing = None
        if self._ledger is not None:
            self._ledger.drop(actor.node, actor.memory)
        self.trace.spans.extend(spans)
        if actor.node != SERVER:
            for span in spans:
                self._trained += span[7]
        self._resume(actor, actor.answer)

    def _sent(self, actor: Actor) -> None:
        if not actor.over:  # it may have left in this very moment
            actor.sending = None
            self._end_wait(actor, -1)
            self._resume(actor, None)

    def _wake(self, actor: Actor) -> None:
        if actor.over:
            self._idle -= 1  # it left meanwhile
            return
        self._end_wait(actor, -1)
        self._resume(actor, None)

    def _timeout(self, timer: list[Actor]) -> None:
        if not timer:
            self._idle -= 1  # the wait has ended before
            return
        actor = timer[0]
        actor.timer = None
        self._end_wait(actor, -1)
        self._resume(actor, Timeout())

    def _tick_later(self, period: int) -> None:
        self._idle += 1
        self._push(self.now + period, self._tick, period)

    def _tick(self, period: int) -> None:
        self._idle -= 1
        self._tick_later(period)
        self._measure(None)

    def _measure(self, published: Published | None) -> None:
        if self._evaluation.measure(self._trained, published):
            self._ending = Ending.QUALITY

    # ------------------------------------------------------------------------------ devices come and go

    def _leave(self, node: int) -> None:
        self._go_away(node)
        self._notify(Disconnected(node, sender=node))

    def _go_away(self, node: int) -> None:
        actor = self._actors[node] or self._join(node)
        self.trace.marks.append((node, self.now, "leave", 0.0, ""))
        if not actor.over:
            self._idle += actor.computing is not None or actor.awaited == SLEEP  # their events will wake nobody
            self._interrupt(actor)
        actor.left = True
        actor.since = self.now
        self._transfers.reset(node, self.now)
        self._workers.forget(node)
        if self._ledger is not None:
            self._ledger.empty(node)
        self.absent.add(node)
        nobody = self._actors[node] = Actor(node, self, self.now)
        nobody.left = nobody.over = True  # what is sent to it meanwhile is lost at once

    def _return(self, node: int) -> None:
        self._actors[node] = Actor(node, self, self.now)
        self.absent.discard(node)
        self.trace.marks.append((node, self.now, "return", 0.0, ""))
        if node in self._churn:
            self._go_on(node)
        self._notify(Connected(node, sender=node))

    def _go_on(self, node: int) -> None:
        """Put the next time that a recorded device is away into the heap; one that is away at the start has left."""
        fault = next(self._churn[node], None)
        if fault is not None:
            if fault.leave > 0:
                self._push(nanoseconds(fault.leave), self._leave, node)
            else:
                self._go_away(node)
            if fault.back is not None:
                self._push(nanoseconds(fault.back), self._return, node)

    def _notify(self, notice: Message) -> None:
        server = self._actors[SERVER]
        assert server is not None
        self._hand_over(server, notice, -1)

    def _interrupt(self, actor: Actor) -> None:
        """Record what a node was doing, and close its script."""
        if actor.awaited is not None:
            self._end_wait(actor, -1)
        if actor.computing is not None:
            self.trace.spans.extend(cut(actor.computing, self.now))
            actor.computing = None
        self._leave_lying(actor)
        actor.over = True
        close(actor.script, actor.node)

    def _leave_lying(self, actor: Actor) -> None:
        """Nobody will take what still waits for a script."""
        now = self.now
        self.trace.stays.extend(
            (actor.node, since, now, number) for number, since in actor.stays.values() if since < now
        )
        actor.stays.clear()

    def _short(self, actor: Actor) -> bool:
        """A node needs more memory than it may use: answers whether it has left because of it."""
        assert self._ledger is not None
        node = actor.node
        needed, usable = self._ledger.held(node), self._ledger.usable(node)
        self.mark(node, "out_of_memory", needed, {"usable": usable})
        if self._shortage is Shortage.RECORD:
            return False
        if self._shortage is Shortage.LEAVE and node != SERVER:
            self._leave(node)
            return True
        raise SimulatedOutOfMemory(out_of_memory(name(node), self.now / 1e9, needed, usable))

    # ----------------------------------------------------------------------- plain calls of the ports

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Name the current global model (called by the server's script through its port)."""
        published = self._evaluation.publish(version, model)
        if self._limits.every is None:
            self._push(self.now, self._measure, published)

    def queue(self, command: Command) -> None:
        """A command that takes no time (called through a port)."""
        if command.holds and self._ledger is not None and not self._ledger.take(command.node, command.holds, self.now):
            self._overdrawn = True  # the script is running: it goes as far as its next effect
        self._workers.queue(command)

    def taken(self, actor: Actor, message: Message) -> None:
        """A script has taken a message out of its mailbox (also called through a port)."""
        stay = actor.stays.pop(id(message), None)
        if stay is not None and stay[1] < self.now:
            self.trace.stays.append((actor.node, stay[1], self.now, stay[0]))
        nbytes = actor.inbox.pop(id(message), None)
        if nbytes is not None:
            assert self._ledger is not None
            self._ledger.drop(actor.node, nbytes)

    def mark(self, node: int, name: str, value: float, detail: Mapping[str, object] | None) -> None:
        """Record a moment (called through a port)."""
        self.trace.mark(node, self.now, name, value, detail)
        if self._observe is not None:
            self._observe(name, value)

    # ---------------------------------------------------------------------------------------- the end

    def _close(self, failure: BaseException | None) -> None:
        """Record what every node was doing, close every script and note what is still under way.

        What goes wrong in that is raised at the end, or noted at the `failure` that ended the run.
        """
        self.trace.end = self.now
        for peak in () if self._ledger is None else self._ledger.peaks():
            self.trace.marks.append((peak.node, peak.time, "memory.peak", float(peak.nbytes), ""))
        problems: list[BaseException] = []
        for actor in self._actors:
            if actor is not None and not actor.over:
                try:
                    self._interrupt(actor)
                except BaseException as error:
                    problems.append(error)
        announced = sorted(event for event in self._heap if event[2] == self._deliver)
        self._transfers.close((event[3] for event in announced), self.now)
        self._heap.clear()
        if failure is None and problems:
            raise problems[0]
        for problem in problems:
            assert failure is not None
            failure.add_note(f"then, while the scripts were closed: {problem}")
