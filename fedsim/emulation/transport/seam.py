"""Between a node and its transport: what the node is told, and what a connection is to look like.

A peer's *life* begins when it joins and ends once: it leaves, breaks a rule, or is silent for too long. Within a life
streams may break and are resumed; no message is lost or comes twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fedsim.emulation.clock import Clock
from fedsim.emulation.links.shaping import Connection
from fedsim.emulation.links.sharing import Sharing
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.frames import Room


class Node(Protocol):
    """What a transport tells its node, from threads of its own; what is of one peer comes one after the other."""

    def connected(self, peer: int) -> None:
        """A life of a peer begins."""
        ...

    def begin(self, peer: int, header: bytes) -> Room:
        """The header of a message has come; answers with room for its body.

        Raises:
            WireError: the peer breaks the rules, and is cut off.
        """
        ...

    def received(self, peer: int, room: Any) -> int:
        """A body is complete; answers with the moment of the arrival (ns), which the sender is told.

        Raises:
            WireError: as `begin`.
        """
        ...

    def started(self, peer: int, number: int, moment: int) -> None:
        """A message that was given to `send` begins to flow; called where links are shaped."""
        ...

    def landed(self, peer: int, number: int, arrived: int) -> None:
        """A message that was given to `send` is there."""
        ...

    def disconnected(self, peer: int, reason: str) -> None:
        """The life of a peer is over; what it has not acknowledged is lost."""
        ...

    def told(self, peer: int, notice: pb.Up | pb.Down) -> None:
        """A notice that is not the transport's own business: not a heartbeat, acknowledgement, announcement, grant."""
        ...


class Refused(Exception):
    """Someone may not join.

    Args:
        code: name of a gRPC status code: `UNAUTHENTICATED`, `FAILED_PRECONDITION`, `RESOURCE_EXHAUSTED`.
        reason: for people.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Door(Protocol):
    """Who may join the server, and as what."""

    def device_of(self, token: str | None) -> int | None:
        """The device that a token belongs to; None where there are no tokens.

        Raises:
            Refused: it belongs to none.
        """
        ...

    def admit(self, request: pb.JoinRequest, owner: int | None) -> pb.JoinResponse:
        """A new life is asked for: answers with `node`, scenario and digests; the rest is filled in by the transport.

        Args:
            request: without a session.
            owner: the device that its token belongs to.

        Raises:
            Refused: it may not join.
        """
        ...


@dataclass(frozen=True, slots=True)
class Shaping:
    """How links are kept to, from the start of the run on."""

    clock: Clock
    dilation: float
    connection: Callable[[int], Connection[Any]]  # of whatever the transport takes for a frame
    """The sender's side of the connection with a peer."""
    sharing: Sharing | None = None
    """The server's: what connections may take of what they share."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Real seconds and bytes of a connection."""

    heartbeat: float = 5.0
    """Between two of them."""
    missed: int = 3
    """So many in a row end a life."""
    patience: float = 60.0
    """For which a device tries to reach a server that it has reached before."""
    first: float = 0.2
    """Before the second try; doubled from try to try, up to 10 s, and 20 % more or less."""
    inbox: int = 64 * 2**20
    """Bytes that may wait to be sent to a peer, beside the first message; whoever sends more waits."""
    frame: int = 2**20
    """Bytes of the body in a frame of a link that is not shaped."""


@dataclass(slots=True)
class Traffic:
    """What has been sent on all connections of an end, frames that were sent again included."""

    messages: int = 0
    frames: int = 0
    nbytes: int = 0
    """Of the frames, with their heads."""

    def __add__(self, other: Traffic) -> Traffic:
        """Both together."""
        return Traffic(self.messages + other.messages, self.frames + other.frames, self.nbytes + other.nbytes)
