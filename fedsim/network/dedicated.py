"""The first network model: every device has connections of its own to and from the server; messages queue on them.

**Nothing is shared here.** A message moves at the slower of its two ends' rates, however many other messages the
server is exchanging at that moment: ten devices at 100 Mbit/s into a server at 100 Mbit/s all get 100 Mbit/s. Times
are therefore too short wherever the server's own rate, or an access point, would be the bottleneck. What holds
already is each connection by itself: latency, order, and waiting behind its own earlier messages.

Knows links and integer nanoseconds; has no clock, the caller says what time it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from fedsim.errors import ScriptError
from fedsim.hardware.links import Link
from fedsim.hardware.rounding import whole_nanoseconds
from fedsim.script import SERVER

_FEW: Final = 4096  # connections below which clearing out the finished ones is not worth the while


@dataclass(frozen=True, slots=True)
class _Path:
    """What all connections of one group in one direction have in common."""

    latency: int  # ns, one way, both ends
    rate: float  # bytes per second


def _path(source: Link, target: Link) -> _Path:
    return _Path(whole_nanoseconds(source.one_way + target.one_way), min(source.goodput_up(), target.goodput_down()))


class _Busy:
    """For the connections of one direction: when the last message of each arrives, by device."""

    __slots__ = ("_limit", "ends")

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}
        self._limit = _FEW

    def forget(self, now: int) -> None:
        """Now and then drop connections that have fallen silent: they behave as if never used."""
        if len(self.ends) > self._limit:
            self.ends = {device: end for device, end in self.ends.items() if end > now}
            self._limit = max(_FEW, 2 * len(self.ends))


class Dedicated:
    """FIFO connections between a server and its devices. State is kept for busy connections only."""

    def __init__(self, device_links: Sequence[tuple[Link, int]], server_link: Link) -> None:
        """The nodes and their links.

        Args:
            device_links: (link, number of devices) of each group; devices are numbered from 0 in this order.
            server_link: the server's link; its `up` is what the server sends at.
        """
        self._uplinks = [_path(link, server_link) for link, _ in device_links]
        self._downlinks = [_path(server_link, link) for link, _ in device_links]
        self._bounds = list(accumulate(count for _, count in device_links))  # number of the first device after a group
        self._up, self._down = _Busy(), _Busy()

    def submit(self, now: int, source: int, target: int, nbytes: int, number: int = 0) -> tuple[int, int]:
        """Send `nbytes` from `source` to `target` at `now` (ns); calls come in the order of `now`.

        The message starts flowing at `now` + latency or when the one before it on its connection has arrived,
        whichever is later, so that messages sent back to back pay the latency once. It takes its bytes over the
        connection's rate, rounded up to whole nanoseconds.

        Returns:
            The moments (ns) at which the message starts flowing and at which its last byte has arrived.

        Raises:
            ScriptError: neither or both of the two nodes are the server.
        """
        if (source == SERVER) == (target == SERVER):
            raise ScriptError(
                f"node {source} sends to node {target}; a message goes from a device to the server or back"
            )
        assert nbytes > 0, f"a message of {nbytes} bytes from {source} to {target}; its envelope alone has some"
        if target == SERVER:
            device, paths, busy = source, self._uplinks, self._up
        else:
            device, paths, busy = target, self._downlinks, self._down
        path = paths[self._group(device)]
        started = max(now + path.latency, busy.ends.get(device, 0))
        arrived = started + max(1, whole_nanoseconds(nbytes / path.rate))
        busy.ends[device] = arrived
        busy.forget(now)
        return started, arrived

    def next(self) -> int | None:
        """Nothing is ever announced: `submit` knows."""
        return None

    def step(self, now: int) -> list[tuple[int, int, int]]:
        """Nothing to announce."""
        return []

    def reset(self, now: int, node: int) -> list[tuple[int, int | None]]:
        """Close the connections of a device that has left; after its return it waits behind nothing old."""
        self._up.ends.pop(node, None)
        self._down.ends.pop(node, None)
        return []

    def under_way(self) -> list[tuple[int, int | None]]:
        """Nothing without times."""
        return []

    def _group(self, device: int) -> int:
        assert 0 <= device < self._bounds[-1], f"device {device} is not in this network"
        return bisect_right(self._bounds, device)
