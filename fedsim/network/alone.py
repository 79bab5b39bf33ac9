"""Connections that share nothing with others: a message's times are known when it is sent.

Each (device, direction) is one connection. All that is kept is when the last message of each arrives, as long as it
matters.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

import numpy as np

from fedsim.hardware.rounding import whole_nanoseconds
from fedsim.network.flow import NEVER, ROUNDING, moment
from fedsim.network.routes import Route

_FEW: Final = 4096  # connections below which clearing out the finished ones is not worth the while


class Alone:
    """The connections of one direction."""

    def __init__(self, memory: int) -> None:
        """`memory`: nanoseconds for which a connection is remembered after its last message has arrived."""
        self.ends: dict[int, int] = {}
        """When (ns) the last message of each arrives, by device."""
        self._exact: dict[int, float] = {}  # the same in seconds before rounding, on routes with a trace
        self._memory = memory
        self._limit = _FEW
        self._courses: dict[Route, _Course] = {}

    def submit(self, now: int, lag: int, route: Route, device: int, nbytes: int) -> tuple[int, int]:
        """Start and arrival (ns) of a message that is sent `now` and could flow after `lag`.

        It flows then, or when the one before it on its connection has arrived, whichever is later: messages sent
        back to back pay the latency once. Its bytes take their time at the connection's rate, rounded up.
        """
        started = max(now + lag, self.ends.get(device, 0))
        if route.pace:
            arrived = started + max(1, whole_nanoseconds(nbytes / route.pace))
        elif route.trace is None:
            arrived = started + max(1, whole_nanoseconds(nbytes / min(route.rate(device, now), route.limit)))
        else:
            arrived = max(started + 1, self._by_trace((now + lag) / 1e9, route, device, nbytes))
        self.note(now, device, arrived)
        return started, arrived

    def note(self, now: int, device: int, end: int) -> None:
        """Remember when (ns) the last message of a connection arrives."""
        self.ends[device] = end
        if len(self.ends) > self._limit:
            self.ends = {device: end for device, end in self.ends.items() if end > now - self._memory}
            self._exact = {device: end for device, end in self._exact.items() if device in self.ends}
            self._limit = max(_FEW, 2 * len(self.ends))

    def forget(self, device: int) -> None:
        """Close a connection."""
        self.ends.pop(device, None)
        self._exact.pop(device, None)

    def _by_trace(self, ready: float, route: Route, device: int, nbytes: int) -> int:
        """The arrival of a message that could flow from `ready` (s) on.

        Rounding is not handed on from message to message: a nanosecond may be the one that a step of the trace ends
        before a message does.
        """
        course = self._courses.get(route)
        if course is None:
            course = self._courses[route] = _Course(route)
        start = max(ready, self._exact.get(device, 0.0))
        end = self._exact[device] = course.end(start, route.offset(device), nbytes)
        return moment(min(end, NEVER))


class _Course:
    """What a route with a trace has carried by when."""

    def __init__(self, route: Route) -> None:
        trace = route.trace
        assert trace is not None
        times = np.rint(trace.times * 1e9) / 1e9  # changes come at whole nanoseconds
        self._length = round(trace.length * 1e9) / 1e9
        rates = np.minimum((trace.up if route.up else trace.down) * route.kept, route.limit)
        carried = np.append(0.0, (rates * np.diff(times, append=self._length)).cumsum())
        self._times: list[float] = times.tolist()
        self._rates: list[float] = rates.tolist()
        self._total = float(carried[-1])  # bytes in one pass of the trace
        self._carried: list[float] = carried[:-1].tolist()  # bytes by the beginning of each step
        self._wrap = trace.wrap

    def end(self, start: float, offset: float, nbytes: int) -> float:
        """When (s) so many bytes have been carried from `start` (s) on."""
        begin = start + round(offset * 1e9) / 1e9
        if self._wrap:
            begin %= self._length
        step = bisect_right(self._times, begin) - 1
        goal = self._carried[step] + self._rates[step] * (begin - self._times[step]) + nbytes
        passes, rest = 0.0, goal * (1 - ROUNDING)  # what ends with a step must not seem to need the next one
        if self._wrap:
            passes, rest = divmod(rest, self._total)
            if not rest:
                passes, rest = passes - 1, self._total
        step = bisect_left(self._carried, rest) - 1  # the last that begins before; it carries something
        end = self._times[step] + (goal - passes * self._total - self._carried[step]) / self._rates[step]
        return start + passes * self._length + end - begin
