"""What connections share: which capacities can ever be full, what hangs together by them, and who solves that.

A capacity that could carry all that may ever cross it, is left out: it changes no rate. What then remains falls into
components that do not know each other; each gets the cheapest allocator that its shape allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from fedsim.errors import UserError, unknown
from fedsim.hardware.links import Link
from fedsim.network.flow import Allocator, Capacity
from fedsim.network.general import General
from fedsim.network.routes import Route
from fedsim.network.single import Single
from fedsim.network.solved import Solved
from fedsim.network.topology import AccessPoint, NetworkOptions
from fedsim.network.tree import Tree

ACKNOWLEDGING: Final = 0.05
"""The share of its rate that a flow takes on the way back; SimGrid's cross-traffic."""

_ENOUGH: Final = 1 + 1e-12  # a demand above a capacity by rounding only


class Ends(NamedTuple):
    """The capacities of a link, an access point or the server: towards the server, from it, both directions together.

    None where there is no such limit beside the others.
    """

    up: Capacity | None
    down: Capacity | None
    both: Capacity | None

    def on(self, up: bool) -> list[Capacity]:
        """Those on the way up or down."""
        return [one for one in (self.up if up else self.down, self.both) if one is not None]


def _ends(up: float, down: float, half_duplex: bool) -> Ends:
    if not half_duplex:
        return Ends(Capacity(up), Capacity(down), None)
    return Ends(Capacity(up) if up < down else None, Capacity(down) if down < up else None, Capacity(max(up, down)))


def share(
    routes: Sequence[tuple[Route, Route]],
    counts: Sequence[int],
    access: Mapping[str, AccessPoint],
    server: Link,
    options: NetworkOptions,
) -> None:
    """Set on every route (up, down) what it shares: nothing where it has no allocator, but for what a device has alone.

    Raises:
        UserError: a group names an access point that there is not.
    """
    kept = 1 - server.loss if options.loss == "delay" else 1.0
    ends = {name: _access_ends(point, options) for name, point in access.items()}
    top = _ends(
        server.goodput_down(options.efficiency) * kept,
        server.goodput_up(options.efficiency) * kept,
        server.duplex == "half",
    )
    for pair in routes:
        for route in pair:
            if route.access is not None and route.access not in ends:
                raise UserError(unknown("access point", route.access, ends))
            way = ([] if route.access is None else ends[route.access].on(route.up)) + top.on(route.up)
            route.limit = min([route.limit, *(capacity.rate for capacity in way)])
            route.crosses = tuple((capacity, 1.0) for capacity in way)
    if options.ack_traffic:
        for up, down in routes:
            there, back = (tuple((one, ACKNOWLEDGING) for one, _ in route.crosses) for route in (up, down))
            up.crosses, down.crosses = up.crosses + back, down.crosses + there
    full = _full(routes, counts, ends, top, options.ack_traffic)
    for pair in routes:
        for route in pair:
            route.crosses = tuple(crossing for crossing in route.crosses if crossing[0] in full)
    _solve(routes, options)
    for pair in routes:
        for route in pair:
            own = route.half_duplex or options.discipline == "fair" or options.ack_traffic
            route.alone = route.allocator is None and not own
            if route.alone and route.trace is None and isinstance(route.rates, float):
                route.pace = min(route.rates, route.limit)


def _access_ends(point: AccessPoint, options: NetworkOptions) -> Ends:
    factor = options.efficiency if point.rate == "line" else 1.0
    return _ends(point.up * factor, point.down * factor, point.half_duplex)


def _full(
    routes: Sequence[tuple[Route, Route]], counts: Sequence[int], ends: Mapping[str, Ends], top: Ends, acks: bool
) -> set[Capacity]:
    """The capacities that can be full: more could want to cross them than they carry."""
    most: dict[tuple[str | None, bool], float] = {}  # by access point and direction
    for pair, count in zip(routes, counts, strict=True):
        for route in pair:
            there = (route.access, route.up)
            most[there] = most.get(there, 0.0) + route.most(count)
    wanted: dict[Capacity, float] = {}
    for (name, up), amount in most.items():
        passing = amount
        for end in (top,) if name is None else (ends[name], top):
            for capacity in end.on(up):
                wanted[capacity] = wanted.get(capacity, 0.0) + passing
            for capacity in end.on(not up) if acks else ():
                wanted[capacity] = wanted.get(capacity, 0.0) + ACKNOWLEDGING * passing
            passing = min([passing, *(capacity.rate for capacity in end.on(up))])
    return {capacity for capacity, amount in wanted.items() if amount > capacity.rate * _ENOUGH}


def _solve(routes: Sequence[tuple[Route, Route]], options: NetworkOptions) -> None:
    """Give the routes of each component their allocator."""
    parents: dict[Capacity, Capacity] = {}

    def root(capacity: Capacity) -> Capacity:
        while parents.setdefault(capacity, capacity) is not capacity:
            parents[capacity] = capacity = parents[parents[capacity]]
        return capacity

    bundles: list[list[Route]] = []  # routes that do not do without each other
    for up, down in routes:
        coupled = up.half_duplex or options.ack_traffic
        bundles += [[up, down]] if coupled else [[up], [down]]
    members: dict[Capacity, list[Route]] = {}
    for bundle in bundles:
        crossed = [capacity for route in bundle for capacity, _ in route.crosses]
        for capacity in crossed:
            parents[root(capacity)] = root(crossed[0])
    for bundle in bundles:
        for route in bundle if any(route.crosses for route in bundle) else ():
            of = next(capacity for one in bundle for capacity, _ in one.crosses)
            members.setdefault(root(of), []).append(route)
    for component in members.values():
        allocator = _allocator(component, options)
        for route in component:
            route.allocator = allocator


def _allocator(component: Sequence[Route], options: NetworkOptions) -> Allocator:
    """The cheapest allocator for these routes."""
    ways = [[capacity for capacity, _ in route.crosses] for route in component]
    crossed = list(dict.fromkeys(capacity for way in ways for capacity in way))
    plain = options.discipline == "fifo" and not options.ack_traffic
    if plain and not any(route.half_duplex for route in component):
        if len(crossed) == 1:
            return Single(crossed[0])
        top = ways[0][-1]
        if all(way[-1] is top and len(way) <= 2 for way in ways):
            return Solved(Tree(top, [one for one in crossed if one is not top]), weighted=options.rtt_bias)
    return Solved(General(), weighted=options.rtt_bias)
