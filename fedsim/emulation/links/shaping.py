"""One direction of a device's link as its sender keeps it: the delays and rates that the simulation applies.

A message waits for its latency, then for the messages before it, then flows at the rate of the link, recorded or
constant, or at what the server has granted where others share the way. That is `fedsim.network`'s model, with its own
routes and draws, so that what is alone on its way arrives as in a simulation. Pure: the caller says what time it is
and takes out the frames that are due. Moments are nanoseconds of the scenario, bytes those that the simulation charges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from fedsim.emulation.links.line import BURST, Line
from fedsim.errors import UserError
from fedsim.network.fluid import SILENCE, FluidNetwork
from fedsim.network.topology import NetworkOptions
from fedsim.script import SERVER

T = TypeVar("T")

SMALL: Final = 1_500
"""Bytes of a message that asks for no grant: an Ethernet frame is sent faster than asked for."""


class Grant(NamedTuple):
    """What a connection that others share the way with may take from now on."""

    device: int
    up: bool
    number: int
    """The message that flows; the grant is for it and those that follow it without a pause."""
    rate: float
    """Bytes per second."""
    since: int
    """The moment from which on that is its rate."""


class Frame(NamedTuple, Generic[T]):
    """A frame whose last byte has flowed."""

    frame: T
    number: int
    """Its message."""
    nbytes: int
    started: int
    """When the first byte of the message flowed."""
    ended: int
    last: bool
    """Whether the message is complete."""


@dataclass(slots=True)
class _Message:
    number: int
    nbytes: int
    ready: int
    asks: bool
    """Whether it needs a grant."""
    started: int = -1
    put: int = 0
    """Bytes of its frames so far."""


class Connection(Generic[T]):
    """The sender's side of a connection between a device and the server.

    Args:
        network: as the simulation builds it; nothing is submitted to it.
        source, target: one of them is the server.
        dilation: real seconds for one of the scenario; what may be made up for is real time.
    """

    def __init__(self, network: FluidNetwork, source: int, target: int, *, dilation: float = 1.0) -> None:
        self._network = network
        self._source, self._target = source, target
        self._device = source if target == SERVER else target
        self._route = network.route(source, target)
        self._line: Line[tuple[T, _Message, int, bool]] = Line(burst=round(BURST / dilation))
        self._opened: _Message | None = None  # whose frames are being put
        self._flowing: _Message | None = None  # whose frame is the first in the line
        self._granted = (-1, 0.0)  # the number of the message, bytes per second
        self._keeps = False  # the rate of a grant for the message before, as nothing was between the two
        self._change: int | None = None  # when the link's own rate changes next
        self._used = False

    @property
    def shared(self) -> bool:
        """Whether others share the way, so that messages are announced and wait for grants."""
        return not self._route.alone

    @property
    def delay(self) -> int:
        """Nanoseconds of a message's latency at most, lost packets and slow starts aside."""
        return self._route.lag + round(4e9 * self._route.jitter)

    def own_rate(self, moment: int) -> float:
        """Bytes per second that the connection carries when it is alone."""
        return min(self._route.rate(self._device, moment), self._route.limit)

    @property
    def lost(self) -> int:
        """Nanoseconds by which frames are late since the sender was held up for too long."""
        return self._line.lost

    def __len__(self) -> int:
        """How many frames have not flowed yet."""
        return len(self._line)

    # -------------------------------------------------------------------------------------- messages

    def open(self, now: int, number: int, nbytes: int, queued: int, *, again: bool = False) -> int | None:
        """The frames of a message follow, which was sent at `queued`; numbers ascend.

        Answers with the moment from which on it could flow, where it has to be announced.

        Args:
            now: the present moment.
            number: of the message.
            nbytes: that are to be charged for it, of all frames that follow.
            queued: the moment of the send.
            again: the rest of a message that was interrupted; its latency is over.
        """
        opened = self._opened
        assert opened is None, f"message {number} comes into the middle of message {opened.number}"
        ready = now
        if not again:
            silent = not len(self._line) and (not self._used or queued - self._line.free >= SILENCE)
            ready = queued + self._network.lag(self._source, self._target, silent=silent)
        self._used = True
        asks = self.shared and nbytes > SMALL
        self._opened = _Message(number, nbytes, ready, asks)
        return ready if asks else None

    def put(self, now: int, frame: T, nbytes: int, *, last: bool) -> None:
        """A frame of the message, for which `nbytes` are charged."""
        message = self._opened
        assert message is not None, "a frame without a message"
        message.put += nbytes
        if last:
            assert message.put == message.nbytes, f"message {message.number}: {message.put} of {message.nbytes} bytes"
            self._opened = None
        self._line.put(now, (frame, message, nbytes, last), nbytes, message.ready)
        if len(self._line) == 1:
            self._turn()

    def grant(self, now: int, grant: Grant) -> None:
        """The server has allotted a rate."""
        number, _ = self._granted
        if grant.number < number:
            return
        self._granted = (grant.number, grant.rate)
        if self._flowing is not None and len(self._line):
            self._line.change(now, self._rate(max(now, self._line.started)), grant.since)

    def reset(self, now: int) -> list[T]:
        """The connection is gone: drop all frames. What comes next waits for nothing old."""
        self._opened = self._flowing = self._change = None
        self._granted, self._keeps = (-1, 0.0), False
        return [frame for frame, _, _, _ in self._line.reset(now)]

    # ----------------------------------------------------------------------------------- time passes

    def next(self) -> int | None:
        """The moment at which `advance` may have something to do; None: there is none."""
        due = self._line.due()
        if not len(self._line) or self._change is None:
            return due
        return self._change if due is None else min(due, self._change)

    def advance(self, now: int) -> list[Frame[T]]:
        """Take out the frames that are due by `now`."""
        found: list[Frame[T]] = []
        while (moment := self.next()) is not None and moment <= now:
            if self._change is not None and moment == self._change:
                self._line.change(moment, self._rate(moment))
                continue
            (frame, message, nbytes, last), _, ended = self._line.release(now)
            found.append(Frame(frame, message.number, nbytes, message.started, ended, last))
            if len(self._line):
                self._turn()
        return found

    def _turn(self) -> None:
        """Another frame is the first one in the line: if it is of another message, that one has a rate of its own."""
        message = self._line.head[1]
        if message is self._flowing:
            return
        before, self._flowing = self._flowing, message
        message.started = started = self._line.started
        follows = started == self._line.free and before is not None and before.asks
        self._keeps = follows and (self._keeps or (before is not None and before.number <= self._granted[0]))
        self._line.change(started, self._rate(started))

    def _rate(self, moment: int) -> float:
        """What the message that flows may take at a moment; the next change of the link's own rate is noted."""
        self._change = self._route.next_change(self._device, moment)
        own, message = self.own_rate(moment), self._flowing
        assert message is not None
        if not message.asks:
            return own
        number, rate = self._granted
        return min(own, rate) if number >= message.number or self._keeps else 0.0


def check_options(options: NetworkOptions) -> None:
    """Refuse what a sender of frames in order cannot do.

    Raises:
        UserError: the messages of one connection are to share it.
    """
    if options.discipline == "fair":
        raise UserError(
            "network.discipline: fair lets the messages of one connection share it, but an emulation sends them one "
            "after the other; set discipline: fifo, or mode: simulate"
        )
