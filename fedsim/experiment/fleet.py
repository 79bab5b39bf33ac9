"""The fleet: groups of devices with their profiles and links, and the server's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fedsim.costs import Cost
from fedsim.hardware.links import Link
from fedsim.hardware.machines import machine
from fedsim.hardware.pricing import nanoseconds
from fedsim.hardware.profiles import Profile
from fedsim.hardware.sources import weakest
from fedsim.script import SERVER
from fedsim.trace import Node


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that are alike."""

    profile: Profile
    link: Link
    count: int


@dataclass(frozen=True)
class Fleet:
    """Devices are numbered through the groups, in order."""

    groups: tuple[Group, ...]
    server: Profile
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

    def profile(self, node: int) -> Profile:
        """The profile of a device or of the server."""
        return self.server if node == SERVER else self.groups[self.group_of(node)].profile

    def lanes(self) -> dict[int, int]:
        """Works a node runs at once, for the nodes that run more than one."""
        several = {n: g.profile.lanes for n, g in self._members() if g.profile.lanes > 1}
        return several | ({SERVER: self.server.lanes} if self.server.lanes > 1 else {})

    def _members(self) -> Iterator[tuple[int, Group]]:
        return enumerate(group for group in self.groups for _ in range(group.count))

    def price(self) -> Callable[[int, Cost, int], int]:
        """Nanoseconds that a cost takes on a node; remembered by cost object, which works of one kind share."""
        kinds: list[dict[Cost, int]] = [{} for _ in (*self.groups, self.server)]
        machines = [machine(profile) for profile in (*(group.profile for group in self.groups), self.server)]
        kind_of = [n for n, group in enumerate(self.groups) for _ in range(group.count)] + [-1]  # the server's is [-1]

        def price(node: int, cost: Cost, _start: int) -> int:
            kind = kind_of[node]
            known = kinds[kind]
            if cost not in known:
                known[cost] = nanoseconds(machines[kind], cost)
            return known[cost]

        return price

    def table(self, samples: Sequence[int] | NDArray[np.int64]) -> list[Node]:
        """The node table of a trace: the server, then the devices."""

        def row(number: int, name: str, profile: Profile, group: int, held: int) -> Node:
            return Node(
                number=number,
                name=name,
                profile=profile.id,
                group=group,
                lanes=profile.lanes,
                samples=held,
                idle_watts=profile.power.idle,
                busy_watts=profile.power.busy,
                memory=profile.memory.usable,
                power_confidence=confidence[group],
            )

        powers = ("power.idle", "power.busy")
        profiles = [*(group.profile for group in self.groups), self.server]
        confidence = [weakest(powers, profile.sources) for profile in profiles]  # the server's is the last, [-1]
        rows = [row(SERVER, "server", self.server, -1, 0)]
        for number, group in self._members():
            rows.append(row(number, f"device {number}", group.profile, self.group_of(number), int(samples[number])))
        return rows
