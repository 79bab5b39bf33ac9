"""The barrier of a round: who is still to deliver, and when it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from fedsim.script import Collector, Disconnected, Effect, Message, Recv, Timeout

M = TypeVar("M", bound=Message)


class OfRound(Protocol):
    """A message that says which round it belongs to."""

    @property
    def sender(self) -> int:
        """The device it comes from."""
        ...

    @property
    def round(self) -> int:
        """The number of the round."""
        ...


class Barrier:
    """A round that waits for `need` contributions of `chosen`, at most until a moment.

    What comes from a device that is too late, or belongs to an earlier round, is for the caller to drop; who leaves is
    no longer waited for.

    Args:
        number: the round's.
        chosen: the devices that were asked.
        need: contributions that complete the round.
        until: seconds on the run's clock at which it ends with those that came; None for no such end.
    """

    __slots__ = ("_over", "_until", "chosen", "delivered", "missing", "need", "number")

    def __init__(self, number: int, chosen: Sequence[int], *, need: int, until: float | None) -> None:
        self.number = number
        self.chosen = tuple(chosen)
        self.need = need
        self.missing = set(chosen)
        """The devices that have neither delivered nor left."""
        self.delivered: list[int] = []
        """Those that have delivered, in order."""
        self._until = until
        self._over = False

    @property
    def wanted(self) -> int:
        """How many contributions are still to come."""
        return self.need - len(self.delivered)

    @property
    def waiting(self) -> bool:
        """Whether the round goes on."""
        return bool(self.missing) and len(self.delivered) < self.need and not self._over

    def recv(self, *kinds: type[Message], source: int | None = None) -> Effect[Any]:
        """The next message of `kinds`, a device's leaving, or `Timeout` when the round's time is up."""
        return Recv((*kinds, Disconnected), source, None, self._until)

    def expects(self, message: OfRound) -> bool:
        """Whether a message belongs to this round, which still waits for its sender."""
        return message.round == self.number and message.sender in self.missing

    def deliver(self, message: OfRound) -> bool:
        """Note a contribution; False for one that this round does not expect."""
        if not self.expects(message):
            return False
        self.missing.remove(message.sender)
        self.delivered.append(message.sender)
        return True

    def leave(self, device: int) -> bool:
        """Note that a device has left; whether this round had waited for it."""
        expected = device in self.missing
        self.missing.discard(device)
        return expected

    def over(self) -> None:
        """End the round with those that came."""
        self._over = True

    async def gather(self, kind: type[M], into: Collector[M]) -> bool:
        """Take contributions of `kind`, which are `OfRound`, in until the round is complete; whether any came."""
        while self.waiting:
            message = await self.recv(kind)
            if isinstance(message, Timeout):
                self.over()
            elif isinstance(message, Disconnected):
                self.leave(message.device)
            elif self.deliver(message):
                into.add(message)
        return bool(self.delivered)
