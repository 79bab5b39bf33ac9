"""The fleet: groups of devices with their machines and links, and the server's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.hardware.links import Link
from fedsim.hardware.machines import Machine
from fedsim.hardware.sources import Confidence, weakest
from fedsim.hardware.traces.attendance import Attendance
from fedsim.hardware.variation import Clockwork
from fedsim.script import SERVER
from fedsim.simulation import Ledger
from fedsim.trace import Node

_RADIOS: Final = ("radio.active", "radio.up", "radio.down")


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that are alike."""

    machine: Machine
    link: Link
    count: int
    access: str | None = None
    """The access point that they share, by its name in the scenario."""
    population: bool = False
    """Whether each device draws its rates from the link's population."""
    attendance: Attendance | None = None
    """When they are there, from a recording; None: always."""


@dataclass(frozen=True)
class Fleet:
    """Devices are numbered through the groups, in order."""

    groups: tuple[Group, ...]
    server: Machine
    server_link: Link

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(group.count for group in self.groups))

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self._ends[-1]

    def group_of(self, device: int) -> int:
        """Index of the group of a device."""
        return bisect_right(self._ends, device)

    def numbers(self, group: int) -> range:
        """The devices of a group."""
        return range(self._ends[group] - self.groups[group].count, self._ends[group])

    def machine(self, node: int) -> Machine:
        """The machine of a device or of the server."""
        return self.server if node == SERVER else self.groups[self.group_of(node)].machine

    def lanes(self) -> dict[int, int]:
        """Works a node runs at once, for the nodes that run more than one."""
        several = {n: g.machine.lanes for n, g in self._members() if g.machine.lanes > 1}
        return several | ({SERVER: self.server.lanes} if self.server.lanes > 1 else {})

    def _members(self) -> Iterator[tuple[int, Group]]:
        return enumerate(group for group in self.groups for _ in range(group.count))

    def clockwork(self, seed: int) -> Clockwork:
        """The time that works take on every node."""
        return Clockwork([(group.machine, group.count) for group in self.groups], self.server, seed)

    def ledger(self) -> Ledger:
        """Accounts of what nodes hold, from what their processes take and up to what they may use."""

        def budget(node: int) -> tuple[int, int]:
            machine = self.machine(node)
            return process_bytes(machine), round(machine.memory.usable)

        return Ledger(budget)

    def table(self, samples: Sequence[int] | NDArray[np.int64]) -> list[Node]:
        """The node table of a trace: the server, then the devices."""
        server = _row_of(self.server, self.server_link, -1)
        rows = [server(SERVER, "server", 0)]
        for index, group in enumerate(self.groups):
            row = _row_of(group.machine, group.link, index)
            rows += [row(number, f"device {number}", int(samples[number])) for number in self.numbers(index)]
        return rows


def process_bytes(machine: Machine) -> int:
    """What a node's process takes before any model, with what its operators need while they compute."""
    return round(machine.memory.runtime + machine.memory.workspace)


def _row_of(machine: Machine, link: Link, group: int) -> Callable[[int, str, int], Node]:
    """Makes the rows of a node table for nodes that are alike."""
    radio = link.radio
    field, confidence = _least_known(machine, link)

    def row(number: int, name: str, held: int) -> Node:
        return Node(
            number=number,
            name=name,
            profile=machine.id,
            group=group,
            lanes=machine.lanes,
            samples=held,
            idle_watts=machine.idle_watts,
            busy_watts=machine.busy_watts,
            memory=machine.memory.usable,
            power_confidence=confidence,
            power_field=field,
            ready_watts=machine.ready_watts,
            radio_watts=radio.active if radio is not None else 0.0,
            radio_up=radio.up if radio is not None else 0.0,
            radio_down=radio.down if radio is not None else 0.0,
        )

    return row


def _least_known(machine: Machine, link: Link) -> tuple[str, str]:
    """The figure of a node's energy that is known least, and how far it is to be trusted."""
    found = machine.power_origins
    if link.radio is not None and any((link.radio.active, link.radio.up, link.radio.down)):
        found += [(f"{name} of link {link.id}", weakest([name], link.sources)) for name in _RADIOS]
    field, confidence = max(found, key=lambda entry: list(Confidence).index(entry[1]))
    return field, confidence.value
