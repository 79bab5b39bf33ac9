"""What several schedulers share: checks of options, how a device takes its orders, who is greeted when it comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import count
from typing import TypeVar, cast

from fedsim.learning.context import Device, Server
from fedsim.learning.crew import Crew
from fedsim.script import Connected, Disconnected, Message, Recv, send

M = TypeVar("M", bound=Message)


def check_local(local_steps: int | None, local_epochs: int) -> None:
    """Refuse a round in which nothing would be trained.

    Raises:
        ValueError: a count below one.
    """
    if local_steps is not None and local_steps < 1:
        raise ValueError(f"local_steps {local_steps} must be 1 or more")
    if local_epochs < 1:
        raise ValueError(f"local_epochs {local_epochs} must be 1 or more")


def check_concurrency(concurrency: int | None) -> None:
    """Refuse a crew of nobody.

    Raises:
        ValueError: a count below one.
    """
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"concurrency {concurrency} must be 1 or more, or left out for all devices")


async def newest(me: Device, *kinds: type[M], after: M | None = None) -> M:
    """The next order of the server; of several that wait, since rounds went on without this device, the last one.

    `after` is an order that has been taken already; it counts, unless another one waits.
    """
    order: M = await Recv(kinds, None, None, None) if after is None else after
    while (later := me.inbox.poll(*kinds)) is not None:
        order = cast(M, later)
    return order


async def heed(crew: Crew, notice: Disconnected | Connected, order: Callable[[int], Message]) -> None:
    """A device has left, or is back: whoever is to begin because of that gets an order."""
    if (k := crew.heed(notice)) is not None:
        await send(k, order(k))


async def attend(me: Server, crew: Crew, order: Callable[[int], Message]) -> None:
    """Heed all notices that wait."""
    while (notice := me.inbox.poll(Disconnected, Connected)) is not None:
        assert isinstance(notice, Disconnected | Connected)
        await heed(crew, notice, order)


def counted(limit: int | None, first: int = 0) -> Iterable[int]:
    """0, or `first`, and so on up to, not including, `limit`; without one, for ever."""
    return count(first) if limit is None else range(first, limit)


class Patience:
    """Ends a phase when a loss has not become lower for so many times in a row; never, where no number is given."""

    def __init__(self, times: int | None) -> None:
        self._times = times
        self._lowest = math.inf
        self._since = 0

    def now(self, loss: float) -> bool:
        """Take the next loss in; whether to end. A loss that is not a number is no lower one."""
        if loss < self._lowest:
            self._lowest, self._since = loss, 0
            return False
        self._since += 1
        return self._times is not None and self._since >= self._times
