"""Connections that share nothing with others: a message's times are known when it is sent.

Each (device, direction) is one connection. All that is kept is when the last message of each arrives, as long as it
matters.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

import numpy as np

from fedsim.hardware.rounding import whole_nanoseconds
from fedsim.network.routes import Route

_FEW: Final = 4096  # connections below which clearing out the finished ones is not worth the while


class Alone:
    """The connections of one direction."""

    def __init__(self, memory: int) -> None:
        """`memory`: nanoseconds for which a connection is remembered after its last message has arrived."""
        self.ends: dict[int, int] = {}
        """When (ns) the last message of each arrives, by device."""
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
            course = self._courses.get(route)
            if course is None:
                course = self._courses[route] = _Course(route)
            arrived = course.end(started, route.offset(device), nbytes)
        self.ends[device] = arrived
        if len(self.ends) > self._limit:
            self._forget(now)
        return started, arrived

    def note(self, now: int, device: int) -> None:
        """Remember that a connection which is not alone has fallen silent."""
        self.ends[device] = now
        if len(self.ends) > self._limit:
            self._forget(now)

    def _forget(self, now: int) -> None:
        """Drop connections that have been silent for long: they behave as if never used."""
        self.ends = {device: end for device, end in self.ends.items() if end > now - self._memory}
        self._limit = max(_FEW, 2 * len(self.ends))


class _Course:
    """What a route with a trace has carried by when."""

    def __init__(self, route: Route) -> None:
        trace = route.trace
        assert trace is not None
        rates = np.minimum((trace.up if route.up else trace.down) * route.kept, route.limit)
        carried = np.append(0.0, (rates * np.diff(trace.times, append=trace.length)).cumsum())
        self._times: list[float] = trace.times.tolist()
        self._rates: list[float] = rates.tolist()
        self._total = float(carried[-1])  # bytes in one pass of the trace
        self._carried: list[float] = carried[:-1].tolist()  # bytes by the beginning of each step
        self._length = whole_nanoseconds(trace.length)
        self._wrap = trace.wrap

    def end(self, start: int, offset: float, nbytes: int) -> int:
        """When (ns) so many bytes have been carried from `start` (ns) on."""
        position = start + round(offset * 1e9)
        if self._wrap:
            position %= self._length
        begin = position / 1e9
        step = bisect_right(self._times, begin) - 1
        goal = self._carried[step] + self._rates[step] * (begin - self._times[step]) + nbytes
        passes = 0.0
        if self._wrap and goal > self._total:
            passes = (goal - self._total) // self._total + 1
            goal -= passes * self._total
        step = max(0, bisect_left(self._carried, goal) - 1)
        while not self._rates[step]:  # goal is 0 but for rounding, and nothing flows at first
            step += 1
        end = self._times[step] + max(0.0, goal - self._carried[step]) / self._rates[step]
        return start + max(1, whole_nanoseconds(passes * self._length / 1e9 + end - begin))
