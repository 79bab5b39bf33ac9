"""The network: messages between a server and its devices as fluid flows that share what they cross, max-min fair.

A message waits for its latency, then for the messages before it on its connection (device, direction), then flows at
whatever rate the allocator gives it, and has arrived when its last byte has. Where nothing is shared with others all
of that is known when it is sent; otherwise it is announced when it comes to pass. Nothing here depends on the
order in which messages of one moment are sent.

Keeps numbers for each group of devices, and objects for the connections that are busy; knows neither clocks nor
scripts: the caller says what time it is, in nanoseconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate
from typing import Any, Final

from fedsim.errors import ScriptError
from fedsim.hardware.links import Link
from fedsim.network.alone import Alone
from fedsim.network.delays import Delays
from fedsim.network.flow import FOREVER, NEVER, Allocator, Capacity, Flow, moment
from fedsim.network.general import General
from fedsim.network.routes import Route
from fedsim.network.sharing import ACKNOWLEDGING, Ends, share
from fedsim.network.single import Single
from fedsim.network.solved import Solved
from fedsim.network.topology import AccessPoint, DeviceGroup, NetworkOptions
from fedsim.script import SERVER

_SLOW: Final = 13.01 - 1
"""What slow start adds to the latency, in latencies: SimGrid's model LV08."""

SILENCE: Final = 1_000_000_000
"""Nanoseconds after which a connection starts slowly again."""

_START, _END, _CHANGE = range(3)


class _Terminal:
    """What the two connections of one device share: its half-duplex link, or a link that carries acknowledgements."""

    __slots__ = ("allocator", "connections", "ends")

    def __init__(self, ends: Ends, allocator: Allocator | None) -> None:
        self.ends = ends
        self.allocator = allocator  # where nothing is shared with other devices
        self.connections = 0


class _Connection:
    """A device and a direction, while messages are under way."""

    __slots__ = ("allocator", "capacity", "change", "crosses", "device", "flows", "ready", "route", "terminal")

    def __init__(self, device: int, route: Route) -> None:
        self.device = device
        self.route = route
        self.flows: OrderedDict[int, Flow] = OrderedDict()  # by number, in order; those that wait are among them
        self.ready = 0.0  # when the latency of the last message is over
        self.capacity: Capacity | None = None  # of the connection, where its messages share it
        self.terminal: _Terminal | None = None
        self.crosses: tuple[tuple[Capacity, float], ...] = ()
        self.change: int | None = None  # when (ns) its rate changes next, if that is among the events
        self.allocator: Allocator


class FluidNetwork:
    """Connections between a server and its devices."""

    def __init__(
        self,
        groups: Sequence[DeviceGroup],
        server: Link,
        access: Mapping[str, AccessPoint] | None = None,
        options: NetworkOptions | None = None,
        seed: int = 0,
    ) -> None:
        """The nodes and their links.

        Args:
            groups: the devices, numbered from 0 through the groups.
            server: its link; `up` is what it sends at.
            access: the access points that groups name.
            options: how messages flow.
            seed: of jitter and loss.

        Raises:
            UserError: no such access point, or options that do not fit the links.
        """
        options = options or NetworkOptions()
        self._fair = options.discipline == "fair"
        self._acks = options.ack_traffic
        self._weighted = options.rtt_bias
        self._slow_start = options.slow_start
        counts = [group.count for group in groups]
        self._bounds = list(accumulate(counts))  # the number of the first device after each group
        firsts = [bound - count for bound, count in zip(self._bounds, counts, strict=True)]
        self._routes = tuple(  # up, down; by group
            [Route(group, first, up, server, options) for group, first in zip(groups, firsts, strict=True)]
            for up in (True, False)
        )
        share(list(zip(*self._routes, strict=True)), counts, access or {}, server, options)
        memory = SILENCE if self._slow_start else 0
        self._alone = (Alone(memory), Alone(memory))  # up, down
        self._delays = tuple(
            Delays(seed, self._bounds[-1], way == 0)
            if any(route.jitter or route.loss for route in self._routes[way])
            else None
            for way in (0, 1)
        )
        self._connections: tuple[dict[int, _Connection], ...] = ({}, {})  # up, down; by device
        self._terminals: dict[int, _Terminal] = {}
        self._time = 0.0
        self._seen = 0  # the last moment (ns) that the caller has named: nothing is said to happen before it
        self._serial = 0
        self._events: list[tuple[float, int, int, Any]] = []
        self._void = 0  # events that are overtaken
        self._arrived: list[tuple[int, int, int]] = []

    # ------------------------------------------------------------------------------ what the engine calls

    def submit(
        self, now: int, source: int, target: int, nbytes: int, number: int, *, lag: int | None = None
    ) -> tuple[int, int] | None:
        """Send `nbytes` from `source` to `target` at `now` (ns); calls come in the order of `now`.

        `lag` is the message's delay (ns), where the caller has drawn it.

        Returns:
            The moments (ns) at which the message starts flowing and at which its last byte has arrived; None where
            that depends on other messages: then `step` will say it of `number`, the caller's name for the message.

        Raises:
            ScriptError: neither or both of the two nodes are the server.
        """
        if (source == SERVER) == (target == SERVER):
            raise ScriptError(
                f"node {source} sends to node {target}; a message goes from a device to the server or back"
            )
        assert nbytes > 0, f"a message of {nbytes} bytes from {source} to {target}; its envelope alone has some"
        way, device = (0, source) if target == SERVER else (1, target)
        assert 0 <= device < self._bounds[-1], f"device {device} is not in this network"
        route = self._routes[way][bisect_right(self._bounds, device)]
        if lag is None:
            lag = route.lag if route.steady else self._lag(way, route, device, self._is_silent(now, way, device))
        if route.alone:
            return self._alone[way].submit(now, lag, route, device, nbytes)
        connection = self._connections[way].get(device) or self._open(way, device)
        flow = Flow(float(nbytes), FOREVER, connection.crosses, route.weight, number)
        flow.connection = connection
        flow.ready = connection.ready = max(connection.ready, (now + lag) / 1e9)
        if self._fair or not connection.flows:
            self._push(flow.ready, _START, flow)
        connection.flows[number] = flow
        self._seen = now
        return None

    def route(self, source: int, target: int) -> Route:
        """The route of a connection."""
        way, device = (0, source) if target == SERVER else (1, target)
        return self._route(way, device)

    def lag(self, source: int, target: int, *, silent: bool) -> int:
        """Draw the delay (ns) of a connection's next message; `silent`: nothing has flowed for `SILENCE`, or ever.

        For callers that let messages flow themselves.
        """
        way, device = (0, source) if target == SERVER else (1, target)
        return self._lag(way, self._route(way, device), device, silent)

    def _lag(self, way: int, route: Route, device: int, silent: bool) -> int:
        """Nanoseconds from the send of a message to the moment at which it could flow."""
        lag = route.lag
        if self._slow_start and silent:
            lag += round(_SLOW * lag)
        delays = self._delays[way]
        return lag if delays is None else lag + delays.draw(route, device)

    def next(self) -> int | None:
        """The earliest moment at which `step` may have something to announce."""
        if self._arrived:
            return min(self._arrived)[0]
        events = self._events
        while events and self._is_void(events[0]):
            heappop(events)
            self._void -= 1
        return max(self._seen, moment(events[0][0])) if events else None

    def step(self, now: int) -> list[tuple[int, int, int]]:
        """Let time pass; answers with (arrival, number, start) of what has arrived by `now`, by arrival and number."""
        self._play(now)
        arrived, self._arrived = sorted(self._arrived), []
        return arrived

    def finish(self, now: int, source: int, target: int, number: int) -> None:
        """A message that had no times has ended now, whatever is left of it: its caller has seen it arrive.

        For callers that let messages flow themselves, at `rates`. One that is not under way changes nothing.
        """
        self._play(now)
        way, device = (0, source) if target == SERVER else (1, target)
        connection = self._connections[way].get(device)
        flow = None if connection is None else connection.flows.get(number)
        if connection is None or flow is None:
            return
        first = next(iter(connection.flows)) == number
        if flow.home is not None:
            connection.allocator.stop(self._time, flow)
        elif self._fair or first:
            self._void += 1  # its start
        flow.connection = None
        self._follow(connection, number, first)
        self._settle(connection.allocator)

    def reset(self, now: int, node: int) -> list[tuple[int, int | None]]:
        """Close the connections of a device that has left; after its return it waits behind nothing old.

        Returns:
            Those of its messages that have no times yet, by number; with the start, if they flow.
        """
        self._play(now)
        dropped: list[tuple[int, int | None]] = []
        for way in (0, 1):
            self._alone[way].forget(node)
            connection = self._connections[way].get(node)
            if connection is None:
                continue
            flows = list(connection.flows.values())
            dropped += [(flow.number, flow.started) for flow in flows]
            flowing = [flow for flow in flows if flow.home is not None]
            for flow in flows:
                flow.connection = None
            for flow in flowing:
                connection.allocator.stop(self._time, flow)
            pending = flows if self._fair else flows[:1]  # those whose start is among the events, unless they flow
            self._void += sum(flow.started is None for flow in pending)
            connection.flows.clear()
            self._close(way, connection)
            if flowing:
                self._settle(connection.allocator)
        return sorted(dropped)

    def under_way(self) -> list[tuple[int, int | None]]:
        """The messages that have no times yet, by number; with the start (ns), if they flow."""
        flows = [flow for busy in self._connections for one in busy.values() for flow in one.flows.values()]
        arrived: list[tuple[int, int | None]] = [(number, started) for _, number, started in self._arrived]
        return sorted(arrived + [(flow.number, flow.started) for flow in flows])

    def rates(self) -> dict[int, float]:
        """Bytes per second of the messages that flow now and have no times yet, by number."""
        return {
            number: connection.allocator.rate(flow)
            for busy in self._connections
            for connection in busy.values()
            for number, flow in connection.flows.items()
            if flow.home is not None
        }

    # --------------------------------------------------------------------------------------- time passes

    def _play(self, now: int) -> None:
        """Everything that happens by `now`: what happens at one moment is solved for once."""
        events = self._events
        while events and moment(events[0][0]) <= now:
            time = self._time = max(events[0][0], self._time)
            touched: dict[Allocator, None] = {}
            while events and events[0][0] <= time:
                event = heappop(events)
                what = event[3]
                if self._is_void(event):
                    self._void -= 1
                elif event[2] == _START:
                    self._begin(what)
                    touched[what.connection.allocator] = None
                elif event[2] == _END:
                    what.ticket = 0
                    touched[what] = None
                    for flow in what.finished(time):
                        self._finish(flow)
                else:
                    at, what.change = what.change, None
                    touched[what.allocator] = None
                    for flow in what.allocator.finished(time):  # at the rates that were
                        self._finish(flow)
                    if what.flows and what.change is None:
                        self._vary(what, at)
            for allocator in touched:
                self._settle(allocator)
        self._time = max(self._time, now / 1e9)
        self._seen = now

    def _begin(self, flow: Flow) -> None:
        connection: _Connection = flow.connection
        route, now = connection.route, self._time
        if route.trace is not None and connection.change is None:
            self._vary(connection, _floor(now))
        if connection.capacity is None:
            flow.cap = min(route.rate(connection.device, _floor(now)), route.limit)
        flow.started = max(self._seen, moment(now))
        connection.allocator.start(now, flow)

    def _finish(self, flow: Flow) -> None:
        connection: _Connection = flow.connection
        assert flow.started is not None
        self._arrived.append((max(self._seen, moment(self._time)), flow.number, flow.started))
        self._follow(connection, flow.number, True)

    def _follow(self, connection: _Connection, number: int, first: bool) -> None:
        """A message is through, the `first` of its connection or not: on with the next."""
        del connection.flows[number]
        if not connection.flows:
            self._close(0 if connection.route.up else 1, connection)
        elif first and not self._fair:
            following = next(iter(connection.flows.values()))
            if following.ready <= self._time:
                self._begin(following)
            else:
                self._push(following.ready, _START, following)

    def _vary(self, connection: _Connection, at: int) -> None:
        """Give a connection, and what its flows have on the way, the rates that its trace says for a moment (ns)."""
        route, allocator, device, now = connection.route, connection.allocator, connection.device, self._time
        rate = min(route.rate(device, at), route.limit)
        if connection.capacity is not None:
            allocator.resize(now, connection.capacity, rate)
        else:
            for flow in connection.flows.values():
                if flow.home is not None:
                    allocator.change(now, flow, rate)
        if connection.terminal is not None:
            for capacity, new in self._terminal_rates(device, connection.terminal, at):
                allocator.resize(now, capacity, new)
        connection.change = route.next_change(device, at)
        if connection.change is not None:
            self._push(connection.change / 1e9, _CHANGE, connection)

    def _settle(self, allocator: Allocator) -> None:
        due = allocator.settle(self._time)
        self._void += allocator.ticket != 0
        allocator.ticket = self._push(due, _END, allocator) if due < NEVER else 0
        if self._void > 64 + len(self._events) // 2:
            self._events[:] = [event for event in self._events if not self._is_void(event)]
            heapify(self._events)
            self._void = 0

    def _push(self, time: float, kind: int, what: Any) -> int:
        self._serial += 1
        heappush(self._events, (time, self._serial, kind, what))
        return self._serial

    @staticmethod
    def _is_void(event: tuple[float, int, int, Any]) -> bool:
        _, serial, kind, what = event
        if kind == _END:
            return bool(what.ticket != serial)
        return what.connection is None if kind == _START else not what.flows

    # -------------------------------------------------------------------------------------- connections

    def _open(self, way: int, device: int) -> _Connection:
        route = self._route(way, device)
        connection = self._connections[way][device] = _Connection(device, route)
        allocator = route.allocator
        now = _floor(self._time)
        if self._fair:
            connection.capacity = Capacity(min(route.rate(device, now), route.limit))
            connection.crosses = ((connection.capacity, 1.0),)
        if route.half_duplex or self._acks:
            terminal = connection.terminal = self._terminal(device, allocator is None)
            back = terminal.ends.on(not route.up) if self._acks else []
            connection.crosses += (*((one, 1.0) for one in terminal.ends.on(route.up)),)
            connection.crosses += (*((one, ACKNOWLEDGING) for one in back),)
            allocator = allocator or terminal.allocator
        connection.crosses += route.crosses
        if allocator is None:
            assert connection.capacity is not None
            allocator = Single(connection.capacity)
        connection.allocator = allocator
        return connection

    def _route(self, way: int, device: int) -> Route:
        return self._routes[way][bisect_right(self._bounds, device)]

    def _terminal(self, device: int, on_its_own: bool) -> _Terminal:
        terminal = self._terminals.get(device)
        if terminal is None:
            up, down = (Capacity(self._route(way, device).rate(device, _floor(self._time))) for way in (0, 1))
            both = Capacity(max(up.rate, down.rate)) if self._route(0, device).half_duplex else None
            ends = Ends(up, down, both) if self._acks else Ends(None, None, both)  # a flow's own cap is in the flow
            allocator: Allocator | None = None
            if on_its_own:
                lone = None if self._acks or self._fair else both
                allocator = Solved(General(), weighted=self._weighted) if lone is None else Single(lone)
            terminal = self._terminals[device] = _Terminal(ends, allocator)
        terminal.connections += 1
        return terminal

    def _terminal_rates(self, device: int, terminal: _Terminal, now: int) -> list[tuple[Capacity, float]]:
        up, down = (self._route(way, device).rate(device, now) for way in (0, 1))
        rates = (up, down, max(up, down))
        return [(one, rate) for one, rate in zip(terminal.ends, rates, strict=True) if one is not None]

    def _close(self, way: int, connection: _Connection) -> None:
        device = connection.device
        del self._connections[way][device]
        self._void += connection.change is not None
        if self._slow_start:
            end = max(self._seen, moment(self._time))
            self._alone[way].note(end, device, end)
        terminal = connection.terminal
        if terminal is not None:
            terminal.connections -= 1
            if not terminal.connections:
                del self._terminals[device]

    def _is_silent(self, now: int, way: int, device: int) -> bool:
        """Whether a connection has had nothing to carry for a while, or ever."""
        if device in self._connections[way]:
            return False
        return now - self._alone[way].ends.get(device, -SILENCE) >= SILENCE


def _floor(seconds: float) -> int:
    """Nanoseconds of a moment, rounded down but for the noise of floating point."""
    return int(seconds * 1e9 + 1e-3)
