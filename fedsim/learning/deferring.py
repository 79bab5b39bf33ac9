"""Works of devices done when somebody reads what they make: a round of a thousand devices needs the memory of a few.

A device's message is under way for a while in virtual time, and may be early: the members of a mean are added in the
order of their numbers. If its work were done when the clock says, the weights of all of them would wait in memory.
Works touch their own node only, and those of a node stay in order, so nobody can tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from torch import Tensor

from fedsim.learning.core import Core
from fedsim.learning.host import Host
from fedsim.learning.operations.averaging import join_sums, part_of_sums, without
from fedsim.learning.summing import Sums
from fedsim.learning.sums import runs
from fedsim.payload.coding import Value
from fedsim.script import SERVER, Command, Payload, Quality

MOST: Final = 256
"""Commands of a device that wait at most; what they refer to has to be kept."""


@dataclass(slots=True)
class _Members:
    """Members of a mean in their order; those that come before their turn wait, and their works with them."""

    turns: list[deque[int]]
    turn_of: dict[int, int]
    early: dict[int, Command]

    @classmethod
    def of(cls, expected: Sequence[int], whole: bool) -> _Members:
        """One order for all of them, or one for each run."""
        turns = [deque(members) for members in ([expected] if whole else runs(expected))]
        return cls(turns, {member: turn for turn, members in enumerate(turns) for member in members}, {})

    def came(self, member: int, command: Command) -> Iterator[Command]:
        """The commands whose turn it is now."""
        self.early[member] = command
        turn = self.turns[self.turn_of[member]]
        while turn and turn[0] in self.early:
            yield self.early.pop(turn.popleft())


class Deferring:
    """A host that does the works of devices as late as it can. The server's are done at once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting: dict[int, deque[Command]] = {}
        self._makers: WeakKeyDictionary[Payload, int] = WeakKeyDictionary()
        """Of what is to be made yet: by which node."""
        self._means: dict[tuple[int, int], _Members] = {}

    @property
    def core(self) -> Core:
        """What the host holds."""
        return self._host.core

    def run(self, command: Command) -> None:
        """Run one command, or keep it until it is needed."""
        if command.node != SERVER:
            self._keep(command)
            return
        mean = command.node, command.learner
        args: Any = command.args
        match command.method:
            case "mean.open":
                _, _, expected, _, *whole = args
                self._means[mean] = _Members.of(expected, all(whole))
                self._do(command)
            case "mean.add":
                for due in self._means[mean].came(args[0], command):
                    self._do(due)
            case "mean.result":
                self._add_rest(*mean)
                self._do(command)
            case _:
                self._do(command)

    def value(self, payload: Payload) -> Value:
        """The tensors behind a handle, as whoever made them has them."""
        self._demand((payload,))
        return self._host.value(payload)

    def sums(self, node: int, number: int, runs: Sequence[int] | None) -> list[Sums]:
        """What has come of some runs of a mean, which are complete; None: all that is left, and the mean is gone."""
        if runs is None:
            self._add_rest(node, number)
        return part_of_sums(self.core, node, number, runs)

    def join(self, node: int, number: int, sums: Sequence[Sums]) -> None:
        """Add a part of a mean that another host has summed up."""
        join_sums(self.core, node, number, sums)

    def settle(self, nodes: Iterable[int]) -> None:
        """Do all that these nodes were told."""
        for node in nodes:
            queue = self._waiting.pop(node, None)
            while queue:
                self._do(queue.popleft())

    def forget(self, node: int) -> None:
        """Drop a node that has left; what it made before is there for those who have got it."""
        self.settle((node,))
        self._host.forget(node)

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """The quality of a published model."""
        self._demand(model)
        return self._host.evaluate(model, split)

    def model_tensors(self, model: Sequence[Payload]) -> dict[str, Tensor]:
        """A published model's tensors, by name."""
        self._demand(model)
        return self._host.model_tensors(model)

    @property
    def state(self) -> tuple[Any, ...]:
        """What is not done yet, to go on from elsewhere."""
        return self._waiting, self._means

    @state.setter
    def state(self, given: tuple[Any, ...]) -> None:
        waiting, self._means = given
        for queue in waiting.values():
            for command in queue:
                self._keep(command)

    def _keep(self, command: Command) -> None:
        queue = self._waiting.setdefault(command.node, deque())
        queue.append(command)
        if command.output is not None:
            self._makers[command.output] = command.node
        if len(queue) > MOST:
            self.settle((command.node,))

    def _do(self, command: Command) -> None:
        self._demand(_named(command.args))
        self._host.run(command)

    def _demand(self, payloads: Iterable[Payload]) -> None:
        """See to it that values are there."""
        for payload in payloads:
            if payload not in self.core.values:
                self.settle((self._makers[payload],))

    def _add_rest(self, node: int, number: int) -> None:
        """Add the members that have come to a mean, without waiting for others any longer."""
        members = self._means.pop((node, number))
        absent = [member for turn in members.turns for member in turn if member not in members.early]
        without(self.core, node, number, absent)
        for member in sorted(members.early):
            self._do(members.early[member])


def _named(value: Any) -> Iterator[Payload]:
    """The payloads among arguments."""
    if isinstance(value, Payload):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _named(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _named(getattr(value, field.name))
