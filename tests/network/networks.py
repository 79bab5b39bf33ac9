"""Networks in round numbers, and a driver that steps them as the engine does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fedsim.hardware.links import Link
from fedsim.network.fluid import FluidNetwork
from fedsim.script import SERVER

S = 1_000_000_000
MS = 1_000_000
MB = 1_000_000


def link(up: float = 1, down: float = 1, *, latency: float = 0.0, half: bool = False, **more: Any) -> Link:
    """A link of so many MB/s, measured above TCP, and seconds of latency."""
    rates = {"up": f"{up!r} MB/s", "down": f"{down!r} MB/s", "rate": "goodput", "latency": f"{latency!r} s"}
    return Link.model_validate({**rates, "duplex": "half" if half else "full", **more})


WIDE = link(1e6, 1e6)
"""Never full."""


class Message(NamedTuple):
    """What is sent: moment (ns), device, whether towards the server, bytes."""

    now: int
    device: int
    up: bool = True
    nbytes: int = MB


def run(network: FluidNetwork, messages: Sequence[Message], *, late: bool = False) -> list[tuple[int, int]]:
    """(start, arrival) in ns of every message.

    `late`: at a moment at which both can happen, what is sent comes before the network's step.
    """
    found: dict[int, tuple[int, int]] = {}
    last = 0  # the latest moment that the network knows of
    queue = sorted(range(len(messages)), key=lambda number: messages[number].now)
    while True:
        due = network.next()
        assert due is None or due >= last, f"after {last} ns something is to happen at {due} ns"
        now = messages[queue[0]].now if queue else None
        if due is None and now is None:
            assert network.under_way() == []
            return [found[number] for number in range(len(messages))]
        if now is None or (due is not None and (due < now or (due == now and not late))):
            assert due is not None
            last = due
            for arrival, number, start in network.step(due):
                assert arrival == due
                found[number] = (start, arrival)
        else:
            number = queue.pop(0)
            last = messages[number].now
            times = send(network, messages[number], number)
            if times is not None:
                found[number] = times


def send(network: FluidNetwork, message: Message, number: int) -> tuple[int, int] | None:
    """Submit a message."""
    source, target = (message.device, SERVER) if message.up else (SERVER, message.device)
    return network.submit(message.now, source, target, message.nbytes, number)


def seconds(times: Sequence[tuple[int, int]]) -> list[float]:
    """Arrivals in seconds."""
    return [arrival / S for _, arrival in times]
