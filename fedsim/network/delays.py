"""What delays a message beside its link's latency: jitter, and lost packets.

A number depends on the seed, the device, the direction and how many messages this connection has had before, so no
message can change the luck of another connection's.
"""

from __future__ import annotations

from array import array
from statistics import NormalDist
from typing import Final

from fedsim.hardware.rounding import whole_nanoseconds
from fedsim.network.routes import Route
from fedsim.seeds import derive

_NORMAL: Final = NormalDist()
_MOST: Final = 4.0  # standard deviations


class Delays:
    """The delays of one direction."""

    def __init__(self, seed: int, devices: int, up: bool) -> None:
        """Of as many devices."""
        self._seed = seed
        self._purpose = f"network {'up' if up else 'down'}"
        self._messages = array("I", bytes(devices * array("I").itemsize))

    def draw(self, route: Route, device: int) -> int:
        """Nanoseconds for the next message of a device's connection."""
        number = self._messages[device]
        self._messages[device] = number + 1
        seconds = 0.0
        if route.jitter:
            deviation = _NORMAL.inv_cdf(self._uniform(device, "jitter", number))
            seconds += min(max(deviation, 0.0), _MOST) * route.jitter
        if route.loss and self._uniform(device, "loss", number) < route.loss:
            seconds += route.penalty
        return whole_nanoseconds(seconds)

    def _uniform(self, device: int, what: str, number: int) -> float:
        """A number between 0 and 1, neither of them."""
        return ((derive(self._seed, device, f"{self._purpose} {what}", number) >> 11) + 0.5) * 2.0**-52
