"""Messages from their send to their arrival: weighed, given to the network, recorded when they arrive or are lost.

Knows when messages arrive, from the network alone; what a receiver then does with one is the engine's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from fedsim.runtime.conditions import LAST
from fedsim.runtime.envelopes import Form, Parcel
from fedsim.runtime.memory import Ledger
from fedsim.script import Message
from fedsim.simulation.scripts import Actor
from fedsim.trace import Trace

Flight = tuple[int, Message, Parcel, Actor, Actor, int, int]
"""A message whose arrival is known: number, message, parcel, sender, receiver, moment of the send, start of its flow.

What shares the network with others is a flight without its last entry until its arrival is announced.
"""

_NEVER: Final = LAST + 1


class Network(Protocol):
    """When messages flow; all moments are nanoseconds.

    A message gets its times at once where nothing that is sent later can change them. Otherwise it is announced: the
    engine calls `step` at the moment that `next` names.
    """

    def submit(self, now: int, source: int, target: int, nbytes: int, number: int, /) -> tuple[int, int] | None:
        """The start of a message's flow and its arrival, not before `now`; None: `step` will announce them."""
        ...

    def next(self) -> int | None:
        """The earliest moment at which `step` may have something to announce; None: there is none."""
        ...

    def step(self, now: int, /) -> Sequence[tuple[int, int, int]]:
        """The messages that arrive by `now`, in order: arrival (`now`, if steps are not missed), number, start."""
        ...

    def reset(self, now: int, node: int, /) -> Sequence[tuple[int, int | None]]:
        """A node has left: close its connections.

        Answers with the messages that are lost by it and had no times yet: number, and start if it had started.
        """
        ...

    def under_way(self) -> Sequence[tuple[int, int | None]]:
        """The messages that are not announced yet: number, and start if it has started."""
        ...


class Transfers:
    """The messages that are under way.

    Args:
        trace: receives a record of every transfer when it ends.
        network: start and arrival of messages.
        ledger: what nodes hold; None where that is not accounted for.
        push: puts something that is going to happen into the engine's heap.
        overtaken: told that an event in the heap will do nothing.
        deliver: called with a flight at its arrival.
        sent: called with a sender that waits until a message has arrived, when its last copy has, or is lost.
    """

    def __init__(
        self,
        *,
        trace: Trace,
        network: Network,
        ledger: Ledger | None,
        push: Callable[[int, Callable[[Any], None], Any], None],
        overtaken: Callable[[int], None],
        deliver: Callable[[Flight], None],
        sent: Callable[[Actor], None],
    ) -> None:
        self._records = trace.transfers
        self._network = network
        self._ledger = ledger
        self._push = push
        self._overtaken = overtaken
        self._deliver = deliver
        self._sent = sent
        self._forms: dict[type[Message], Form] = {}
        self._count = 0
        self._flights: dict[int, tuple[Any, ...]] = {}  # by number: those whose arrival is yet to be announced
        self._step_at = _NEVER

    def __len__(self) -> int:
        """How many are to be announced yet."""
        return len(self._flights)

    def weighed(self, message: Message, node: int) -> tuple[Message, Parcel, bool]:
        """A message with its sender filled in, what it weighs, and whether its class can carry payloads.

        Raises:
            ScriptError: it is no message.
        """
        form = self._forms.get(type(message))
        if form is None:
            form = self._forms[type(message)] = Form(type(message))
        if message.sender != node:
            message = form.stamped(message, node)
        empty = form.empty
        return (message, form.weighed(message), form.loaded) if empty is None else (message, empty, False)

    def send(self, message: Message, parcel: Parcel, sender: Actor, receiver: Actor, now: int) -> None:
        """Give a message to the network; one to a node that has left is lost at once. `expect` has to follow."""
        self._count = number = self._count + 1
        if type(message) in sender.under_way:
            sender.under_way[type(message)] += 1
        if receiver.left:
            self.lose((number, message, parcel, sender, receiver, now, now), now)
            return
        times = self._network.submit(now, sender.node, receiver.node, parcel.nbytes, number)
        if times is None:
            self._flights[number] = (number, message, parcel, sender, receiver, now)
            return
        flows, arrived = times
        assert now <= arrived, f"a message that is sent at {now} ns arrives at {arrived} ns"
        self._push(arrived, self._deliver, (number, message, parcel, sender, receiver, now, flows))

    def expect(self) -> None:
        """See to it that the network's next step is in the heap, once."""
        if not self._flights:
            return
        moment = self._network.next()
        if moment is not None and moment < self._step_at:
            if self._step_at != _NEVER:
                self._overtaken(1)  # the later step will find nothing
            self._step_at = moment
            self._push(moment, self._step, moment)

    def _step(self, moment: int) -> None:
        if moment != self._step_at:
            self._overtaken(-1)  # there was an earlier one
            return
        self._step_at = _NEVER
        for arrived, number, flows in self._network.step(moment):
            self._push(arrived, self._deliver, (*self._flights.pop(number), flows))
        self.expect()

    def arrived(self, flight: Flight, now: int) -> None:
        """Record a message that has arrived at `now`."""
        number, message, parcel, sender, receiver, queued, flows = flight
        self._landed(sender, message, now)
        ends = (queued, flows, now, "delivered", parcel.round)
        self._records.append((number, sender.node, receiver.node, *parcel.columns, *ends))
        if self._ledger is not None:
            self._ledger.ended(sender.node, message, parcel.nbytes)

    def lose(self, flight: Flight, now: int) -> None:
        """Record a message that has not arrived: lost when an end left, or else in flight at `now`."""
        number, message, parcel, sender, receiver, queued, flows = flight
        self._landed(sender, message, now)
        if self._ledger is not None:
            self._ledger.ended(None if sender.left else sender.node, message, parcel.nbytes)
        reason = "sender left" if sender.left else "receiver left" if receiver.left else "in flight"
        ended = max(queued, min([now, *(end.since for end in (sender, receiver) if end.left)]))
        ends = (queued, min(flows, ended), ended, reason, parcel.round)
        self._records.append((number, sender.node, receiver.node, *parcel.columns, *ends))

    def _landed(self, sender: Actor, message: Message, now: int) -> None:
        """A message is no longer under way."""
        if type(message) in sender.under_way:
            sender.under_way[type(message)] -= 1
        if message is sender.sending:
            sender.copies -= 1
            if not sender.copies and not sender.over:
                self._push(now, self._sent, sender)

    def reset(self, node: int, now: int) -> None:
        """A node has left: what is under way to or from it is lost, and the others may be faster."""
        self._lose_all(self._network.reset(now, node), now)
        self.expect()

    def close(self, announced: Iterable[Flight], now: int) -> None:
        """The run has ended: everything is lost that is under way, `announced` or not."""
        for flight in announced:
            self.lose(flight, now)
        if self._flights:
            self._lose_all(self._network.under_way(), now)

    def _lose_all(self, numbered: Iterable[tuple[int, int | None]], now: int) -> None:
        for number, flows in numbered:
            self.lose((*self._flights.pop(number), now if flows is None else flows), now)
