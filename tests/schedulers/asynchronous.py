"""Servers of asynchronous systems by hand, and rules that all of these systems keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedsim.report import summarise
from fedsim.script import Compute, Message, Payload, Recv, Send
from fedsim.testing import Outcome, Steps, by_hand
from fedsim.trace import Transfer


@dataclass(frozen=True)
class Sent:
    """A model that the server has sent: to whom, and which."""

    to: tuple[int, ...]
    version: int
    round: int


class Hands:
    """A server's script, told who arrives. Whatever it computes is done at once."""

    def __init__(self, scheduler: Any, *, devices: int, rounds: int | None = None) -> None:
        self.steps: Steps = by_hand(scheduler, "server", devices=devices, rounds=rounds)
        self.sent: list[Sent] = []
        self.works: list[Any] = []
        self.born: dict[int, int] = {}
        """The version that each device trains."""
        self.life: dict[int, int] = {}
        """The life for which it was sent that."""
        self._settle()

    def _settle(self) -> None:
        """Go on until it waits for messages, or has returned."""
        while not isinstance(effect := self.steps.effect, Recv | None):
            if isinstance(effect, Send):
                model: Any = effect.message
                self.sent.append(Sent(effect.to, model.version, model.round))
                self.born |= dict.fromkeys(effect.to, model.version)
                self.life |= dict.fromkeys(effect.to, model.life)
                self.steps.answer(None)
            else:
                assert isinstance(effect, Compute)
                (work,) = effect.works
                self.works.append(work)
                self.steps.answer(work.result)

    def tell(self, message: Message) -> None:
        """Answer its wait."""
        assert isinstance(self.steps.effect, Recv), "it has returned"
        assert isinstance(message, self.steps.effect.kinds)
        self.steps.answer(message)
        self._settle()

    def made(self, device: int) -> Payload:
        """Weights that a device has made."""
        return Payload(device, len(self.sent) + 1, self.steps.port.published[0][0].meta)

    def put(self, *messages: Message) -> None:
        """Let messages wait, the first of which it takes now."""
        for message in messages:
            self.steps.port.mailbox.put(message)
        self.steps.take()
        self._settle()

    @property
    def over(self) -> bool:
        """Whether it has returned."""
        return self.steps.effect is None


def idle_of_devices(outcome: Outcome) -> dict[str, float]:
    """Shares of idle time by cause."""
    found: dict[str, float] = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)["devices"][
        "idle_by_cause"
    ]
    return found


def open_orders(outcome: Outcome, device: int, since: float) -> int:
    """The most orders that a device had at the same time, of those sent after a moment in seconds."""
    events = []
    for row in map(Transfer._make, outcome.simulation.trace.transfers):
        if device in (row.source, row.target) and row.queued >= since * 1e9:
            events.append((row.queued, 1) if row.role == "model" else (row.arrived, -1))
    most = now = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most


def at_once(outcome: Outcome) -> int:
    """The most devices that had an order at the same time: from when it was sent until what came of it arrived."""
    events = []
    for row in outcome.simulation.trace.transfers:
        if row[4] == "model":
            events.append((row[10], 1))
        elif row[4] == "contribution":
            events.append((row[12], -1))
    most = now = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most
