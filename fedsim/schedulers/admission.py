"""Who may send activations to a server that has room for so many batches: three policies, without a script.

A policy is told what happens and says which messages are due. It bounds what the server holds, has on its way to it, or
has promised to take: at no moment more than the cap, whatever the devices do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from fedsim.errors import UserError
from fedsim.learning.context import Device
from fedsim.mailbox import Ranking
from fedsim.script import Message, Role


@dataclass(frozen=True, slots=True)
class Credit(Message):
    """Server to device: you may send so many more batches."""

    role: ClassVar[Role] = Role.CREDIT
    batches: int


@dataclass(frozen=True, slots=True)
class Notice(Message):
    """Server to all devices: there is room, or there is none, until the next notice."""

    role: ClassVar[Role] = Role.CREDIT
    open: bool


class Permission:
    """A device's side: the credits that it has, or whether the last notice said that there is room."""

    def __init__(self, outstanding: int) -> None:
        self._outstanding = outstanding
        self._credits = 0
        self._open = False

    def take(self, message: Message) -> None:
        """Take note of a permission."""
        if isinstance(message, Credit):
            self._credits += message.batches
        elif isinstance(message, Notice):
            self._open = message.open

    def used(self, me: Device, under_way: int) -> bool:
        """Whether a batch may be sent, now that all permissions that wait are in; a credit is used up by it.

        Where only notices are given, a device does not send while `outstanding` batches of its own are `under_way`.
        """
        while (message := me.inbox.poll(Credit, Notice)) is not None:
            self.take(message)
        if self._open:
            return under_way < self._outstanding
        if not self._credits:
            return False
        self._credits -= 1
        return True


Due = Iterator[tuple[int, Message]]


class Admission(Protocol):
    """What the server's script needs of a policy. A batch arrives, is trained, and then leaves its place free."""

    def join(self, device: int) -> None:
        """A device is there, with nothing on its way."""
        ...

    def leave(self, device: int) -> None:
        """A device has left: what it has not delivered will not come."""
        ...

    def arrive(self, device: int) -> bool:
        """A batch of `device` has come; whether it is taken."""
        ...

    def free(self, device: int) -> None:
        """The place of a batch of `device` is free again."""
        ...

    def due(self) -> Due:
        """The messages that are to be sent now."""
        ...


class Grant:
    """A credit at a time to the device that has contributed least, counting what it has been promised.

    Args:
        cap: ω, batches that are granted, in flight, queued or in training at most.
        outstanding: credits of one device that have not come back as a batch, at most.
    """

    def __init__(self, cap: int, outstanding: int) -> None:
        self._cap = cap
        self._outstanding = outstanding
        self.slots = 0
        """Granted, in flight, queued or in training."""
        self.granted: Counter[int] = Counter()
        """Consumed batches and slots of each device together."""
        self.unsent: Counter[int] = Counter()
        """Credits of each device that have not come back."""
        self._open: Ranking[int] = Ranking(lambda k: (self.granted[k], k))

    def join(self, device: int) -> None:
        """A device is there."""
        self._open.add(device)

    def leave(self, device: int) -> None:
        """A device has left."""
        self._open.discard(device)
        lost = self.unsent.pop(device, 0)
        self.granted[device] -= lost
        self.slots -= lost

    def arrive(self, device: int) -> bool:
        """A batch has come; whether it is taken."""
        self.unsent[device] -= 1
        self._open.add(device)
        return True

    def free(self, device: int) -> None:
        """A batch's place is free again."""
        del device
        self.slots -= 1

    def due(self) -> Due:
        """The permissions to send now."""
        while self.slots < self._cap and (k := self._open.lowest()) is not None:
            self.slots += 1
            self.granted[k] += 1
            self.unsent[k] += 1
            if self.unsent[k] >= self._outstanding:
                self._open.discard(k)
            yield k, Credit(1)


class Slots:
    """The same number of places for every device: whoever has one free may send.

    Args:
        cap: ω, places of all devices together.
        devices: K.
        outstanding: credits of one device that have not come back as a batch, at most.
    """

    def __init__(self, cap: int, devices: int, outstanding: int) -> None:
        self._quota = cap // devices
        self._outstanding = outstanding
        self._held: Counter[int] = Counter()  # batches of each device that the server has
        self._unsent: Counter[int] = Counter()
        self._open: dict[int, None] = {}  # devices that may be owed something, in order

    def join(self, device: int) -> None:
        """A device is there, with nothing on its way."""
        self._unsent[device] = 0
        self._open[device] = None

    def leave(self, device: int) -> None:
        """A device has left: what it has not delivered will not come."""
        self._unsent.pop(device, None)
        self._open.pop(device, None)

    def arrive(self, device: int) -> bool:
        """A batch of `device` has come; whether it is taken."""
        self._held[device] += 1
        self._unsent[device] -= 1
        self._open[device] = None
        return True

    def free(self, device: int) -> None:
        """The place of a batch of `device` is free again."""
        self._held[device] -= 1
        if device in self._unsent:
            self._open[device] = None

    def due(self) -> Due:
        """The messages that are to be sent now."""
        found, self._open = self._open, {}
        for k in found:
            room = min(self._outstanding, self._quota - self._held[k]) - self._unsent[k]
            if room > 0:
                self._unsent[k] += room
                yield k, Credit(room)


class FirstCome:
    """Whoever comes first: all may send while there is room, and what comes when there is none is refused.

    Args:
        cap: ω, batches that are queued or in training at most.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._held = 0
        self._told: dict[int, bool] = {}

    def join(self, device: int) -> None:
        """A device is there."""
        self._told[device] = False

    def leave(self, device: int) -> None:
        """A device has left."""
        self._told.pop(device, None)

    def arrive(self, device: int) -> bool:
        """A batch has come; whether it is taken."""
        del device
        if self._held >= self._cap:
            return False
        self._held += 1
        return True

    def free(self, device: int) -> None:
        """A batch's place is free again."""
        del device
        self._held -= 1

    def due(self) -> Due:
        """The permissions to send now."""
        room = self._held < self._cap
        for k in [k for k, told in self._told.items() if told != room]:
            self._told[k] = room
            yield k, Notice(room)


Policy = Literal["grant", "slot", "fcfs"]


def admission(policy: Policy, cap: int, devices: int, outstanding: int) -> Admission:
    """The policy with this name.

    Raises:
        UserError: a quota a device that would be none at all.
    """
    match policy:
        case "grant":
            return Grant(cap, outstanding)
        case "slot":
            if cap < devices:
                raise UserError(f"activation_cap {cap} gives {devices} devices no slot each; give at least {devices}")
            return Slots(cap, devices, outstanding)
        case "fcfs":
            return FirstCome(cap)
