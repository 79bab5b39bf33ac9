"""A node's end of its connections: its messages go out through a transport, what comes is noted and handed over.

What the server's and a device's side have in common: the exchange as the transport's `Node`, as far as messages go, and
which of them are under way to whom.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from fedsim.emulation.clock import Clock
from fedsim.emulation.exchange import Exchange, Receiver, Terms, Values
from fedsim.emulation.records.recording import Notes
from fedsim.runtime.envelopes import Parcel
from fedsim.script import Message
from fedsim.wire.codec import Encoded, Incoming
from fedsim.wire.refusals import WireError

LIVES: Final = 1 << 32
"""Messages that one life of a process may send: numbers of the next one begin behind them."""


FAULT: Final = "it leaves, as its scenario says"
SHORT: Final = "its memory does not suffice"
DONE: Final = "the run is over"
LEAVES: Final = (FAULT, SHORT, DONE)
"""Why a device leaves on its own; all other reasons are those of crashes."""


class Send(Protocol):
    """How a transport takes a message to a peer."""

    def __call__(
        self, peer: int, number: int, header: bytes, body: Sequence[memoryview], nbytes: int, queued: int, /
    ) -> bool:
        """False where no life of the peer is on."""
        ...


class Desk:
    """The messages of a node.

    Args:
        node: its number.
        nodes: how many there are.
        terms: of the run.
        values: the tensors of this node.
        notes: receives what is sent and what comes.
        clock: the scenario's time.
        send: the transport's.
        life: of this node's process: how many there were before.
    """

    def __init__(
        self,
        node: int,
        nodes: int,
        terms: Terms,
        values: Values,
        notes: Notes,
        clock: Clock,
        send: Send,
        *,
        life: int = 0,
    ) -> None:
        self.exchange = Exchange(node, nodes, terms, values, notes, clock.now, first=life * LIVES + 1)
        self.exchange.carrier = self
        self.exchange.receiver = self
        self._notes = notes
        self._clock = clock
        self._send = send
        self._lock = threading.Lock()
        self._receiver: Receiver | None = None
        self._gates: dict[int, threading.Lock] = {}  # of what comes from a peer
        self._flying: dict[int, set[int]] = {}  # messages under way, by peer

    # ------------------------------------------------------------------------------------- the driver's Post

    def number(self) -> int:
        """A number for the next message, which no other message of the run has."""
        return self.exchange.number()

    def send(self, number: int, target: int, message: Message, parcel: Parcel, queued: int) -> int:
        """Queue a message; blocks while too many bytes wait. Answers as `Exchange.send`."""
        return self.exchange.send(number, target, message, parcel, queued)

    # ------------------------------------------------------------------------------------- the exchange's Carrier

    def carry(self, target: int, number: int, encoded: Encoded, nbytes: int, queued: int) -> bool:
        """Take a message; False where the node is not there."""
        with self._lock:
            flying = self._flying.get(target)
            if flying is None:
                return False
            flying.add(number)
        taken = self._send(target, number, encoded.header + encoded.definitions, encoded.body, nbytes, queued)
        if not taken:
            with self._lock:
                flying.discard(number)
        return taken

    # ------------------------------------------------------------------------------------- the exchange's Receiver

    def employ(self, receiver: Receiver | None) -> None:
        """From now on messages are for this life of the script; for None they are dropped."""
        self._receiver = receiver

    def deliver(self, message: Message, number: int, arrived: int, nbytes: int = 0) -> None:
        """A message has come."""
        if self._receiver is not None:
            self._receiver.deliver(message, number, arrived, nbytes)

    def landed(self, number: int, moment: int) -> None:
        """A message of this node has arrived, or is lost."""
        if self._receiver is not None:
            self._receiver.landed(number, moment)

    # ------------------------------------------------------------------------------------- from the transport

    def open(self, peer: int) -> None:
        """A peer is ready for messages: nothing has been described to it yet."""
        self.exchange.connected(peer)
        with self._lock:
            self._flying[peer] = set()

    def shut(self, peer: int) -> bool:
        """A peer is gone, and with it what was under way to it; answers whether it had been there.

        Nothing of it is delivered afterwards.
        """
        with self._gates.setdefault(peer, threading.Lock()):
            self.exchange.disconnected(peer)
        with self._lock:
            lost = self._flying.pop(peer, None)
        self._lose(lost or ())
        return lost is not None

    def begin(self, peer: int, header: bytes) -> Incoming:
        """The header of a message has come.

        Raises:
            WireError: the peer breaks the rules.
        """
        if peer not in self._flying:
            raise WireError(f"a message of node {peer} before it was ready")
        return self.exchange.begin(peer, header)

    def received(self, peer: int, room: Incoming) -> int:
        """A body is complete; answers with the moment.

        Raises:
            WireError: as `begin`.
        """
        arrived = self._clock.now()
        with self._gates.setdefault(peer, threading.Lock()):
            self.exchange.finish(peer, room, arrived)
        return arrived

    def started(self, number: int, moment: int) -> None:
        """A message begins to flow."""
        self._notes.began(number, moment)

    def acknowledged(self, peer: int, number: int, arrived: int) -> None:
        """A message is there."""
        with self._lock:
            self._flying.get(peer, set()).discard(number)
        self.landed(number, arrived)

    def _lose(self, numbers: Iterable[int]) -> None:
        now = self._clock.now()
        for number in sorted(numbers):
            self.landed(number, now)
