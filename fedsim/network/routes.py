"""Routes: what all connections of a group of devices in one direction have in common, of their own links' making.

Latency, rates, limits and disturbances; what is shared with other devices is `sharing`'s business.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError
from fedsim.hardware.links import Link
from fedsim.hardware.rounding import whole_nanoseconds
from fedsim.network.flow import FOREVER, Allocator, Capacity
from fedsim.network.topology import DeviceGroup, NetworkOptions

SEGMENT: Final = 1448.0
"""Payload bytes of a TCP segment on Ethernet: 66 of a frame's 1514 bytes are headers."""

_MATHIS: Final = 1.22  # √(3/2): equation 3 of the paper that `NetworkOptions.loss` names
_RETRANSMISSION: Final = 0.2  # s; Linux's least retransmission timeout (TCP_RTO_MIN)


class Route:
    """A group's way to the server, or back."""

    __slots__ = (
        "access",
        "allocator",
        "alone",
        "crosses",
        "first",
        "half_duplex",
        "jitter",
        "kept",
        "lag",
        "limit",
        "loss",
        "offsets",
        "pace",
        "penalty",
        "rates",
        "steady",
        "trace",
        "up",
        "weight",
    )

    def __init__(self, group: DeviceGroup, first: int, up: bool, server: Link, options: NetworkOptions) -> None:
        """The route of a group whose first device has the number `first`.

        Raises:
            UserError: flows are to be weighed by latency, but there is none.
        """
        link = group.link
        one_way = link.one_way + server.one_way if options.latency else 0.0
        loss = 0.0 if options.loss == "off" else 1 - (1 - link.loss) * (1 - server.loss)
        delayed = options.loss == "delay"
        self.up = up
        self.first = first
        self.access = group.access
        self.half_duplex = link.duplex == "half"
        self.lag = whole_nanoseconds(one_way)  # ns
        self.jitter = math.hypot(link.jitter, server.jitter) if options.jitter else 0.0  # s
        self.loss = loss if delayed else 0.0
        self.penalty = max(_RETRANSMISSION, 4 * one_way)  # s
        self.kept = 1 - link.loss if delayed else 1.0
        self.limit = FOREVER if options.window is None or not one_way else options.window / (2 * one_way)  # bytes/s
        if options.loss == "mathis" and loss and one_way:
            self.limit = min(self.limit, _MATHIS * SEGMENT / (2 * one_way * math.sqrt(loss)))
        if options.rtt_bias and not one_way:
            raise UserError(
                f"rtt_bias weighs flows by 1 / latency, but link {link.id} and the server's together have none; "
                "give one of them a latency, or set rtt_bias: off"
            )
        self.weight = 1 / one_way if options.rtt_bias else 1.0
        goodput = link.goodput_up(options.efficiency) if up else link.goodput_down(options.efficiency)
        own: NDArray[np.float64] | float = goodput if group.rates is None else group.rates[:, 0 if up else 1]
        self.rates = own * self.kept  # bytes/s, of all or of each
        self.trace, self.offsets = group.trace, group.offsets
        self.steady = not (options.slow_start or self.jitter or self.loss)  # whether all messages have one delay
        self.crosses: tuple[tuple[Capacity, float], ...] = ()  # these are set by whoever knows what is shared
        self.allocator: Allocator | None = None
        self.alone = True
        self.pace = 0.0  # bytes/s, of a route alone; 0 where they depend on the device or the moment

    def rate(self, device: int, now: int) -> float:
        """Bytes per second of the device's own link at `now` (ns)."""
        if self.trace is not None:
            return self.trace.at(now, self.offset(device))[0 if self.up else 1] * self.kept
        if isinstance(self.rates, float):
            return self.rates
        return float(self.rates[device - self.first])

    def next_change(self, device: int, now: int) -> int | None:
        """The first moment after `now` (ns) at which that rate changes."""
        return None if self.trace is None else self.trace.next_change(now, self.offset(device))

    def offset(self, device: int) -> float:
        """Seconds into the trace at which a device begins."""
        return 0.0 if self.offsets is None else float(self.offsets[device - self.first])

    def most(self, count: int) -> float:
        """Bytes per second of all `count` connections together at most."""
        if self.trace is not None:
            return count * min(self.limit, float((self.trace.up if self.up else self.trace.down).max()) * self.kept)
        if isinstance(self.rates, float):
            return count * min(self.limit, self.rates)
        return float(np.minimum(self.rates, self.limit).sum())
