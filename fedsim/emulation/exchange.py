"""A node's messages on their way: taken apart for a carrier, put together from what it brings, noted at both ends.

The driver's `Post`. A carrier moves headers and bodies and says when they have arrived; what they mean is only known
here. One peer is one connection, with structures of its own that have been described; one that is back has a new one.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fedsim.emulation.records.recording import Notes
from fedsim.payload.coding import Value
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import Layout
from fedsim.runtime.envelopes import Form, Parcel
from fedsim.script import SERVER, Message, Payload
from fedsim.wire.codec import Cargo, Decoder, Encoded, Encoder, Incoming, load
from fedsim.wire.refusals import Bounds, WireError
from fedsim.wire.registry import Registry


class Values(Protocol):
    """Where the tensors of this node's payloads are."""

    def outgoing(self, payload: Payload, reader: int) -> Value:
        """What is to be encoded for a node."""
        ...

    def incoming(self, values: Mapping[Payload, Value]) -> None:
        """Take in what has come."""
        ...

    def layout_of(self, meta: TensorMeta) -> Layout:
        """How weights are to lie in memory."""
        ...


class Carrier(Protocol):
    """Moves a message to a node, in the order in which it is given."""

    def carry(self, target: int, number: int, encoded: Encoded, nbytes: int, queued: int) -> bool:
        """Take a message; False where the node is not there.

        Args:
            target: the node.
            number: of the message in the run.
            encoded: header, definitions and body.
            nbytes: what it weighs in a simulation, by which links are shaped.
            queued: moment of the send (ns).
        """
        ...


class Receiver(Protocol):
    """The driver's side of what comes."""

    def deliver(self, message: Message, number: int, arrived: int, nbytes: int = 0) -> None:
        """A message has come."""
        ...

    def landed(self, number: int, moment: int) -> None:
        """A message of this node has arrived, or is lost."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What both ends of every connection of a run agree on."""

    messages: Sequence[type[Message]]
    bounds: Bounds
    channels_last: bool
    checksum: bool


class Exchange:
    """One node's messages.

    Args:
        node: its number.
        nodes: how many there are; the numbers that this one gives to messages are no other node's.
        terms: of the run.
        values: the tensors of this node.
        notes: receives what is sent and what comes.
        now: the present moment (ns).
        first: of the messages that it numbers; where a process goes on for one that has died, behind those of that.
    """

    def __init__(
        self,
        node: int,
        nodes: int,
        terms: Terms,
        values: Values,
        notes: Notes,
        now: Callable[[], int],
        *,
        first: int = 1,
    ) -> None:
        self.registry = Registry(terms.messages)
        self.carrier: Carrier | None = None
        self.receiver: Receiver | None = None
        self._node = node
        self._nodes = nodes
        self._terms = terms
        self._values = values
        self._notes = notes
        self._now = now
        self._count = itertools.count(first)
        self._payloads = itertools.count(1)
        self._lock = threading.Lock()
        self._encoders: dict[int, Encoder] = {}
        self._connections: Counter[int] = Counter()
        self._decoders: dict[int, Decoder] = {}
        self._forms: dict[type[Message], Form] = {}
        self._loaded: tuple[Message, Cargo] | None = None

    # ------------------------------------------------------------------------------------- out (the script's thread)

    def number(self) -> int:
        """A number for the next message, which no other message of the run has."""
        return next(self._count) * self._nodes + self._node - SERVER

    def send(self, number: int, target: int, message: Message, parcel: Parcel, queued: int) -> int:
        """Give a message to the carrier; one to a node that is not there is lost at once.

        Answers with the ordinal of the connection with that node for which the message was encoded; 0: there is none.
        """
        assert self.carrier is not None
        assert self.receiver is not None
        self._notes.sent(number, self._node, target, parcel, queued)
        with self._lock:
            encoder = self._encoders.get(target)
            encoded = None if encoder is None else encoder.address(self._cargo(message, target), number)
            connection = self._connections[target] if encoded is not None else 0
        if encoded is None or not self.carrier.carry(target, number, encoded, parcel.nbytes, queued):
            self.receiver.landed(number, self._now())
        return connection

    def _cargo(self, message: Message, target: int) -> Cargo:
        """A message taken apart, once for all its receivers: what is owed to one of them is in messages to it alone."""
        if self._loaded is None or self._loaded[0] is not message:
            value_of = partial(self._values.outgoing, reader=target)
            self._loaded = message, load(self.registry, message, value_of, checksum=self._terms.checksum)
        return self._loaded[1]

    # ------------------------------------------------------------------------------------- in (the carrier's threads)

    def connected(self, peer: int) -> None:
        """A connection with a node begins: nothing has been described on it."""
        with self._lock:
            self._connections[peer] += 1
            self._encoders[peer] = Encoder(self.registry, checksum=self._terms.checksum)
            self._decoders[peer] = Decoder(
                self.registry,
                peer,
                self._values.layout_of,
                self._payloads,
                self._terms.bounds,
                channels_last=self._terms.channels_last,
                checksum=self._terms.checksum,
            )

    def disconnected(self, peer: int) -> None:
        """A connection is over for good."""
        with self._lock:
            self._encoders.pop(peer, None)
            self._decoders.pop(peer, None)

    def begin(self, peer: int, header: bytes) -> Incoming:
        """Look at the header of a message whose body is to come; its `buffer` takes the body.

        Raises:
            WireError: the peer breaks the rules.
        """
        return self._decoder(peer).begin(header)

    def finish(self, peer: int, incoming: Incoming, arrived: int) -> None:
        """The body is there: note the message, and hand it over.

        Raises:
            WireError: the peer breaks the rules.
        """
        assert self.receiver is not None
        message, values = self._decoder(peer).finish(incoming)
        self._values.incoming(values)
        form = self._forms.get(type(message))
        if form is None:
            form = self._forms[type(message)] = Form(type(message))
        parcel = form.empty or form.weighed(message)
        self._notes.came(incoming.number, peer, self._node, parcel, arrived)
        self.receiver.deliver(message, incoming.number, arrived, parcel.nbytes)

    def _decoder(self, peer: int) -> Decoder:
        decoder = self._decoders.get(peer)
        if decoder is None:
            raise WireError(f"a message of node {peer}, which is not there")
        return decoder
