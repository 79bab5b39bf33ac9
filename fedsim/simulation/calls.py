"""Calls to the processes of a pool: orders that come together, and what a call answers with for others.

A call that is to answer takes in nothing any more, so no two calls wait for one another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fedsim.runtime.encoding import Drop, Encoder, Key, Order, Run

GRAIN: Final = 0.02
"""Seconds of work that a call should hold: a call itself takes about a millisecond."""
AHEAD: Final = 0.2
"""Of the work that is under way: what a call may hold."""
MOST: Final = 256
"""Orders that a call holds at most."""


class Lane(Protocol):
    """A way to a process that holds a share of the nodes; `learning.shares.keeper.Keeper` is at its end."""

    def call(self, method: str, *args: Any, answers: int = 1, nbytes: int = 0) -> Sequence[Any]:
        """Call it behind all calls before; a token for each answer, which may be an argument of calls of any lane.

        Args:
            answers: how many there are: what it returns, or the items of that, if there are several.
            nbytes: how much the answers hold, about.
        """
        ...

    def answer(self, token: Any) -> Any:
        """Wait for an answer.

        Raises:
            RunError: the process is gone.
        """
        ...


@dataclass(slots=True, eq=False)
class Due:
    """Something that a call will answer with."""

    way: Way
    nbytes: int
    token: Any = None
    """None: the call is not made yet."""


@dataclass(slots=True, eq=False)
class Way:
    """A lane with what is on its way to it."""

    lane: Lane
    encoder: Encoder = field(default_factory=Encoder)
    orders: list[Order] = field(default_factory=list)
    parts: list[Due] = field(default_factory=list)
    dues: list[Due] = field(default_factory=list)
    """What the next call answers with."""
    urgent: bool = False
    """Whether works are not to come between these and whoever waits for them."""
    dropped: list[Key] = field(default_factory=list)
    running: deque[tuple[Any, int]] = field(default_factory=deque)
    under_way: int = 0
    """Orders of running calls."""
    pace: float = GRAIN
    """Seconds that an order takes, about."""

    def take(self, due: Due, order: Callable[[int], Order]) -> None:
        """Order something with the answer of another call, given the number of the part that it is.

        Works that do not need it are not to wait for it. Nor is what this call answers with, so two calls can never
        wait for one another.
        """
        if self.dues or any(type(order) is Run for order in self.orders):
            self.hand_over()
        self.orders.append(order(len(self.parts)))
        self.parts.append(due)

    @property
    def full(self) -> bool:
        """Whether enough has come together for a call.

        Where much is under way already, calls may hold more, as long as nobody else waits for what they give.
        """
        enough = GRAIN if self.dues else max(GRAIN, AHEAD * self.under_way * self.pace)
        return len(self.orders) * self.pace >= enough or len(self.orders) >= MOST

    def give(self, order: Order, nbytes: int, *, urgent: bool) -> Due:
        """Let the next call answer with something."""
        self.orders.append(order)
        self.urgent |= urgent
        due = Due(self, nbytes)
        self.dues.append(due)
        return due

    def let_go(self, least: int) -> None:
        """Let values go that nobody can name any more, if there are so many."""
        if len(self.dropped) >= least:
            self.orders.append(Drop(tuple(self.dropped)))
            self.dropped = []

    def hand_over(self) -> None:
        """Make a call of what has come together, behind those whose answers it needs."""
        self.let_go(1)
        if not self.orders:
            return
        for due in self.parts:
            if due.token is None:
                due.way.hand_over()
        parts = [due.token for due in self.parts]
        answers, nbytes = 1 + len(self.dues), sum(due.nbytes for due in self.dues)
        made = self.lane.call("run", self.encoder.fresh(), self.orders, *parts, answers=answers, nbytes=nbytes)
        for due, token in zip(self.dues, made[1:], strict=True):
            due.token = token
        self.running.append((made[0], len(self.orders)))
        self.under_way += len(self.orders)
        self.orders, self.parts, self.dues, self.urgent = [], [], [], False

    def settle(self, most: int) -> None:
        """Wait until no more than so many calls are under way."""
        while len(self.running) > most:
            token, count = self.running.popleft()
            self.under_way -= count
            seconds = self.lane.answer(token) / count
            self.pace += 0.2 * (max(seconds, 1e-6) - self.pace)
