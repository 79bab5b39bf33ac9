"""What several schedulers share: checks of options, and the way a device takes its orders."""

from __future__ import annotations

from typing import TypeVar, cast

from fedsim.learning.context import Device
from fedsim.script import Message, Recv

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


async def newest(me: Device, *kinds: type[M]) -> M:
    """The next order of the server; of several that wait, since rounds went on without this device, the last one."""
    order: M = await Recv(kinds, None, None, None)
    while (later := me.inbox.poll(*kinds)) is not None:
        order = cast(M, later)
    return order
