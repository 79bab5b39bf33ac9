"""What a network is made of: groups of devices with their links, access points, the server's link, rules of flow.

Plain descriptions; what they mean for a message is `routes`' and `sharing`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import UserError
from fedsim.hardware.links import LINE_EFFICIENCY, Link
from fedsim.hardware.traces.rates import RateTrace


@dataclass(frozen=True, slots=True, eq=False)
class DeviceGroup:
    """Devices with links of one kind; devices are numbered from 0 through the groups, in order."""

    count: int
    link: Link
    access: str | None = None
    """The access point that they share; None: there is nothing between their links and the server's."""
    rates: NDArray[np.float64] | None = None
    """(count, 2) bytes/s; goodput up and down of each device, in the place of the link's."""
    trace: RateTrace | None = None
    """Goodput over time, in the place of the link's."""
    offsets: NDArray[np.float64] | None = None
    """(count,) seconds; where in the trace each device begins; None: all at its start."""

    def __post_init__(self) -> None:
        assert self.count > 0, "a group of no devices"
        assert self.rates is None or (self.rates.shape == (self.count, 2) and bool((self.rates > 0).all()))
        if self.rates is not None and self.trace is not None:
            raise UserError(
                f"link {self.link.id} has a trace, so devices cannot draw rates of their own that stay; "
                "set population: off, or take a link without a trace"
            )
        assert self.offsets is None or self.offsets.shape == (self.count,)


@dataclass(frozen=True, slots=True)
class AccessPoint:
    """A capacity that groups of devices share, such as a radio cell; bytes per second towards and from the server."""

    up: float
    down: float
    half_duplex: bool = False
    """Both directions together share the greater of the two rates."""
    rate: Literal["goodput", "line"] = "line"
    """Whether the rates are above TCP or on the wire."""

    def __post_init__(self) -> None:
        if not (0 < self.up < float("inf") and 0 < self.down < float("inf")):
            raise UserError(
                f"an access point of {self.up:g} B/s up and {self.down:g} B/s down; both must be above 0 and finite"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """How messages flow."""

    efficiency: float = LINE_EFFICIENCY
    """What messages get of line rates."""
    latency: bool = True
    """Whether the links' latency delays the start of a flow; without it, round trips take no time either."""
    jitter: bool = True
    """Whether that delay varies, normally distributed, cut at 0 and at four standard deviations."""
    loss: Literal["delay", "mathis", "off"] = "delay"
    """With probability p a message is late by the greater of 200 ms and two round trips, and rates are multiplied by
    1 - p; or the rate is at most 1.22 segments a round trip and √p (Mathis, Semke, Mahdavi, Ott, CCR 27(3), 1997)."""
    window: float | None = 4 * 2.0**20
    """Bytes; a connection's rate is at most this over the round trip. None: no limit."""
    slow_start: bool = False
    """Whether a connection's first message, and one after a second of silence, has 13.01 times the latency (the
    factor of SimGrid's model LV08)."""
    discipline: Literal["fifo", "fair"] = "fifo"
    """Whether the messages of a connection flow one after the other, or share it."""
    rtt_bias: bool = False
    """Whether flows share in proportion to 1 / latency, instead of equally."""
    ack_traffic: bool = False
    """Whether a flow also takes 5 % of its rate on the way back."""
