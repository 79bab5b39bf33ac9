"""A fleet of shaped connections and the server's sharing on a clock moved by hand: the whole loop, without threads.

Frames arrive when their last byte has flowed; announcements and grants take `delay` between a device and the server,
and so does the news of an arrival, which the server learns from the frames themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush

from fedsim.emulation.links.line import frame_size
from fedsim.emulation.links.shaping import Connection, Grant
from fedsim.emulation.links.sharing import Sharing
from fedsim.network.fluid import FluidNetwork
from fedsim.script import SERVER
from tests.network.networks import Message


class Fleet:
    """Plays messages; afterwards it knows when they began to flow, when they arrived, and what was granted.

    Args:
        make: a network as the simulation builds it, fresh at every call.
        delay: nanoseconds between a device and the server, for what is not shaped.
        dilation: wall seconds a second of the scenario.
    """

    def __init__(self, make: Callable[[], FluidNetwork], *, delay: int = 0, dilation: float = 1.0) -> None:
        self.granted: list[tuple[int, Grant]] = []
        self.carried: list[tuple[int, int, bool, int]] = []  # moment, device, up, bytes
        self.now = 0
        self._delay = delay
        self._dilation = dilation
        self._make = make
        self._sharing = Sharing(make(), dilation=dilation)
        self._connections: dict[tuple[int, bool], Connection[int]] = {}
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._found: dict[int, tuple[int, int]] = {}

    def play(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """(start, arrival) in nanoseconds of every message."""
        order = sorted(range(len(messages)), key=lambda index: messages[index].now)
        for number, index in enumerate(order):  # numbers ascend
            self.at(messages[index].now, partial(self._send, number, messages[index]))
        self.run()
        return [self._found[order.index(index)] for index in range(len(messages))]

    def at(self, moment: int, action: Callable[[], None]) -> None:
        """Let something happen."""
        self._count += 1
        heappush(self._events, (moment, self._count, action))

    def run(self) -> None:
        """Let everything happen."""
        while self._events:
            self.now, _, action = heappop(self._events)
            action()

    def leave(self, device: int) -> None:
        """A device leaves now."""
        for up in (True, False):
            self._connection(device, up).reset(self.now)
        self._sharing.leave(self.now, device)
        self._share()

    def _connection(self, device: int, up: bool) -> Connection[int]:
        key = (device, up)
        if key not in self._connections:
            self._connections[key] = Connection(self._make(), *_ends(device, up), dilation=self._dilation)
        return self._connections[key]

    def _send(self, number: int, message: Message) -> None:
        _, device, up, nbytes = message
        connection = self._connection(device, up)
        ready = connection.open(self.now, number, nbytes, self.now)
        if ready is not None:
            self.at(self.now + self._delay * up, partial(self._announced, *_ends(device, up), number, ready))
        size = frame_size(connection.own_rate(self.now), self._dilation)
        for offset in range(0, nbytes, size):
            last = offset + size >= nbytes
            connection.put(self.now, offset, min(size, nbytes - offset), last=last)
        self._advance(device, up)

    def _announced(self, source: int, target: int, number: int, ready: int) -> None:
        self._sharing.announce(self.now, source, target, number, ready)
        self._share()

    def _share(self) -> None:
        for grant in self._sharing.grants(self.now):
            self.granted.append((self.now, grant))
            self.at(self.now + self._delay * grant.up, partial(self._grant, grant))
        moment = self._sharing.next()
        if moment is not None:
            self.at(max(moment, self.now), self._share_if_due)

    def _share_if_due(self) -> None:
        moment = self._sharing.next()
        if moment is not None and moment <= self.now:
            self._share()

    def _grant(self, grant: Grant) -> None:
        self._connection(grant.device, grant.up).grant(self.now, grant)
        self._advance(grant.device, grant.up)

    def _advance(self, device: int, up: bool) -> None:
        connection = self._connection(device, up)
        for frame in connection.advance(self.now):
            self.carried.append((self.now, device, up, frame.nbytes))
            if frame.last:
                self._found[frame.number] = (frame.started, self.now)
                self.at(self.now, partial(self._ended, device, up, frame.number))
        moment = connection.next()
        if moment is not None:
            self.at(max(moment, self.now), partial(self._advance_if_due, device, up))

    def _advance_if_due(self, device: int, up: bool) -> None:
        moment = self._connection(device, up).next()
        if moment is not None and moment <= self.now:
            self._advance(device, up)

    def _ended(self, device: int, up: bool, number: int) -> None:
        if self._connection(device, up).shared:
            self._sharing.finish(self.now, *_ends(device, up), number)
            self._share()


def _ends(device: int, up: bool) -> tuple[int, int]:
    return (device, SERVER) if up else (SERVER, device)
