"""What connections may take of what they share: the simulation's own network, told of messages, tells their rates.

Messages are announced before they flow and end when they have arrived; in between, this hands out grants: one when a
message begins to flow, and another when its rate has changed enough, but not too often. How bytes flow, and whether
they keep to it, is the senders' business. Where nothing can be full there is nothing to announce. Pure: the caller
says what time it is. Moments are nanoseconds of the scenario.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedsim.emulation.links.shaping import Grant
from fedsim.network.fluid import FluidNetwork
from fedsim.script import SERVER

INTERVAL: Final = 5_000_000
"""Real nanoseconds between two grants of one connection at least."""

CHANGE: Final = 0.01
"""Relative change of a rate that is worth a grant."""

_OPEN_ENDED: Final = 1 << 62  # bytes: the network never sees a message end; whoever receives it does


@dataclass(slots=True)
class _Flow:
    """The message of a connection that flows, with the last grant for that connection."""

    number: int
    rate: float
    since: int
    """As of when that is its rate."""
    granted: Grant | None = None
    at: int = 0
    """When that was given."""


class Sharing:
    """The grants of all connections.

    Args:
        network: as the simulation builds it; nobody else submits to it.
        dilation: real seconds for one of the scenario; the interval is real time.
    """

    def __init__(self, network: FluidNetwork, *, dilation: float = 1.0) -> None:
        self._network = network
        self._interval = round(INTERVAL / dilation)
        self._now = 0
        self._serial = 0
        self._serials: dict[tuple[int, int, int], int] = {}  # of messages that are announced
        self._messages: dict[int, tuple[int, int, int, int]] = {}  # source, target, number and ready, by serial
        self._flows: dict[tuple[int, bool], _Flow] = {}  # by device, and whether it sends

    def announce(self, now: int, source: int, target: int, number: int, ready: int) -> None:
        """A message could flow from `ready` on. One that is announced already changes nothing.

        Numbers ascend on a connection.
        """
        now = self._passed(now)
        message = (source, target, number)
        if message in self._serials:
            return
        assert not self._network.route(source, target).alone, f"{source} to {target} shares its way with nobody"
        self._serial = serial = self._serial + 1
        self._serials[message], self._messages[serial] = serial, (*message, ready)
        self._network.submit(now, source, target, _OPEN_ENDED, serial, lag=max(0, ready - now))

    def finish(self, now: int, source: int, target: int, number: int) -> None:
        """A message has arrived, or is not going to. One that is not announced changes nothing."""
        now = self._passed(now)
        serial = self._serials.pop((source, target, number), None)
        if serial is None:
            return
        self._network.finish(now, source, target, serial)
        del self._messages[serial]
        self._look(now)

    def leave(self, now: int, device: int) -> None:
        """A device has left, and with it all messages to and from it."""
        now = self._passed(now)
        self._network.reset(now, device)
        for message in [one for one in self._serials if device in one[:2]]:
            del self._messages[self._serials.pop(message)]
        self._look(now)

    def grants(self, now: int) -> list[Grant]:
        """What is to be granted now."""
        now = self._passed(now)
        given: list[Grant] = []
        for (device, up), flow in self._flows.items():
            if self._due(flow) <= now and self._differs(flow):
                flow.granted = Grant(device, up, flow.number, flow.rate, flow.since)
                flow.at = now
                given.append(flow.granted)
        return given

    def current(self, device: int) -> list[Grant]:
        """The last grants of the messages to and from a device that flow, for one that has lost its connection."""
        flows = (self._flows.get((device, up)) for up in (True, False))
        return [flow.granted for flow in flows if flow is not None and flow.granted is not None]

    def next(self) -> int | None:
        """The moment at which there may be something to grant."""
        moments = [self._due(flow) for flow in self._flows.values() if self._differs(flow)]
        event = self._network.next()
        if event is not None:
            moments.append(event)
        return max(self._now, min(moments)) if moments else None

    # --------------------------------------------------------------------------------------- time passes

    def _passed(self, now: int) -> int:
        """Let the network come to `now`, moment by moment, so that it is known when which rate changed."""
        now = self._now = max(now, self._now)
        while (moment := self._network.next()) is not None and moment <= now:
            self._network.step(moment)
            self._look(moment)
        self._network.step(now)
        return now

    def _look(self, moment: int) -> None:
        """Note the rates that have changed at a moment."""
        rates = self._network.rates()
        flowing: dict[tuple[int, bool], _Flow] = {}
        for serial, rate in rates.items():
            source, target, number, ready = self._messages[serial]
            way = (source, True) if target == SERVER else (target, False)
            flow = self._flows.get(way)
            if flow is None:
                flow = _Flow(number, rate, min(moment, ready))  # what took the announcement its time is made up for
            elif flow.number != number or flow.rate != rate:
                flow = _Flow(number, rate, moment if flow.rate != rate else flow.since, flow.granted, flow.at)
            flowing[way] = flow
        self._flows = flowing

    def _due(self, flow: _Flow) -> int:
        """When a flow may get a grant: the first one of a connection at once."""
        return 0 if flow.granted is None else flow.at + self._interval

    @staticmethod
    def _differs(flow: _Flow) -> bool:
        """Whether the last grant is for another message, or for another rate."""
        granted = flow.granted
        if granted is None or granted.number != flow.number:
            return True
        return abs(flow.rate - granted.rate) > CHANGE * granted.rate
