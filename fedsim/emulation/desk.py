"""A node's end of its connections: its messages go out through a transport, what comes is noted and handed over.

What the server's and a device's side have in common: which messages are under way to whom, and what a transport tells
its `Node` about them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, Protocol

from fedsim.emulation.clock import Clock
from fedsim.emulation.exchange import Exchange, Receiver, Terms, Values
from fedsim.emulation.records.recording import Notes
from fedsim.script import Message
from fedsim.wire.codec import Encoded, Incoming
from fedsim.wire.frames import Room
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
    """The messages of a node; its driver posts them to the `exchange`.

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

    def shut(self, peer: int) -> None:
        """A peer is gone, and with it what was under way to it; nothing of it is delivered afterwards."""
        with self._gates.setdefault(peer, threading.Lock()):
            self.exchange.disconnected(peer)
        with self._lock:
            lost = self._flying.pop(peer, set())
        now = self._clock.now()
        for number in sorted(lost):
            self.landed(number, now)

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


class Reception:
    """What a transport tells its node about messages, for the node's desk; none may come before there is one."""

    _desk: Desk | None = None

    def begin(self, peer: int, header: bytes) -> Room:
        """The header of a message has come.

        Raises:
            WireError: the peer breaks the rules.
        """
        if self._desk is None:
            raise WireError("a message before the start")
        return self._desk.begin(peer, header)

    def received(self, peer: int, room: Incoming) -> int:
        """A message is complete.

        Raises:
            WireError: as `begin`.
        """
        assert self._desk is not None
        return self._desk.received(peer, room)

    def started(self, peer: int, number: int, moment: int) -> None:
        """A message to a peer begins to flow."""
        assert self._desk is not None
        self._desk.started(number, moment)

    def landed(self, peer: int, number: int, arrived: int) -> None:
        """A message to a peer is there."""
        assert self._desk is not None
        self._desk.acknowledged(peer, number, arrived)
