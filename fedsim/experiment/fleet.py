"""The fleet: groups of devices with their profiles and links, and the server's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from fedsim.costs import Cost
from fedsim.hardware.links import Link
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

    def _members(self) -> Sequence[tuple[int, Group]]:
        return [(n, self.groups[self.group_of(n)]) for n in range(self.devices)]

    def price(self) -> Callable[[int, Cost], int]:
        """Nanoseconds that a cost takes on a node. Prices are looked up by cost object, which works share."""
        profiles = [self.profile(n) for n in range(self.devices)] + [self.server]  # the last is the server's, [-1]
        known: dict[tuple[int, int], tuple[int, Profile, Cost]] = {}

        def price(node: int, cost: Cost) -> int:
            profile = profiles[node]
            key = (id(profile), id(cost))
            found = known.get(key)
            if found is None:
                found = known[key] = (nanoseconds(profile, cost), profile, cost)
            return found[0]

        return price

    def table(self, samples: Sequence[int]) -> list[Node]:
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
                power_confidence=weakest(("power.idle", "power.busy"), profile.sources),
            )

        rows = [row(SERVER, "server", self.server, -1, 0)]
        for number, group in self._members():
            rows.append(row(number, f"device {number}", group.profile, self.group_of(number), int(samples[number])))
        return rows
