"""How much slower than real time a run has to go, so that this host can carry it: pure functions of what was measured.

A host may be kept busy by its nodes for four fifths, a node by its own works as much, and the network by links up to
two fifths of what loopback carries: what is left is for everything that is not counted. Each demand becomes a `Need`:
the least dilation that satisfies it, and why. Knows nothing of how anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from fedsim.errors import UserError
from fedsim.units import human_count, human_seconds

BUSY: Final = 0.8
"""Share of a host's cores, or of a node's time, that works may take."""

LOOPBACK: Final = 0.4
"""Share of the loopback's throughput that links may take together."""

SHORT: Final = 0.005
"""Seconds of a work that, taking too long, is made up for by the works after it."""

STEPS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""The dilations that `auto` chooses from."""

_NAMED: Final = 3  # profiles that a reason names
_ROUNDING: Final = 1e-9  # relative; of the dilation that an error names


@dataclass(frozen=True, slots=True)
class Timed:
    """A kind of work of a node, timed on its host."""

    node: int
    profile: str
    work: str
    """What it is, for people: `forward, 32 samples`."""
    host: float
    """Seconds that it takes on this host."""
    target: float
    """Seconds that it takes on the node's machine."""
    threads: int = 1
    """Cores that it keeps busy on this host."""
    count: float = 1.0
    """How often it is done, beside the other works of the node."""


@dataclass(frozen=True, slots=True)
class Need:
    """The least dilation at which something fits, and the reason, as a sentence without an end."""

    dilation: float
    reason: str


def loads(works: Iterable[Timed]) -> dict[int, float]:
    """The cores of their host that nodes keep busy in real time, each by its number, when they always compute."""
    return {node: timed[0].threads * _ratio(timed) for node, timed in _by_node(works).items()}


def host_need(works: Iterable[Timed], cores: float, *, what: str = "cores") -> Need:
    """What the nodes of one host need, all computing at once.

    Args:
        works: of every node on it.
        cores: how many it has; or how many works a GPU does at once.
        what: what these are called.
    """
    works = list(works)
    named_by = {timed.node: timed.profile for timed in works}
    load, nodes, profiles = 0.0, dict[str, int](), dict[str, float]()
    for node, share in loads(works).items():
        load += share
        profile = named_by[node]
        profiles[profile] = profiles.get(profile, 0.0) + share
        nodes[profile] = nodes.get(profile, 0) + 1
    most = sorted(profiles, key=lambda profile: -profiles[profile])[:_NAMED]
    named = ", ".join(f"{profile} {profiles[profile]:.3g} ({_nodes(nodes[profile])})" for profile in most)
    reason = (
        f"in real time the nodes would keep {load:.3g} {what} of this host busy, and at most {BUSY * cores:.3g} "
        f"({BUSY:.0%} of {cores:g}) may be; most of it: {named or 'nothing'}"
    )
    return Need(load / (BUSY * cores), reason)


def pace_need(works: Iterable[Timed]) -> Need:
    """What the node needs whose works are the slowest here, compared with its machine.

    No works of a node may take more than four fifths of its time, nor any long one longer than on its machine: that
    could not be paced, however many cores the host has.
    """
    worst = Need(0.0, "no node computes")
    for timed in _by_node(works).values():
        longest = max(timed, key=lambda one: one.host / one.target if one.host > SHORT else 0.0)
        mean, single = _ratio(timed) / BUSY, longest.host / longest.target if longest.host > SHORT else 0.0
        one = longest if single > mean else max(timed, key=lambda one: one.host * one.count)
        if max(mean, single) > worst.dilation:
            reason = (
                f"{one.work} takes {human_seconds(one.host)} on this host and {human_seconds(one.target)} on "
                f"{one.profile}, and a host cannot be slower than what it stands for"
            )
            worst = Need(max(mean, single), reason)
    return worst


def network_need(rates: Iterable[float], loopback: float) -> Need:
    """What links need that are used at once, where loopback carries `loopback`; all in bytes per second."""
    total = sum(rates)
    most = human_count(LOOPBACK * loopback, "B/s")
    reason = (
        f"the links carry {human_count(total, 'B/s')} together, and at most {most} "
        f"({LOOPBACK:.0%} of what this host passes on to itself) can be kept to"
    )
    return Need(total / (LOOPBACK * loopback), reason)


def chosen(asked: float | Literal["auto"], needs: Sequence[Need]) -> float:
    """The dilation of a run: the one asked for, or the smallest step that satisfies all needs.

    Raises:
        UserError: it does not suffice; with the reasons, and the smallest that would.
    """
    least = max((need.dilation for need in needs), default=0.0) * (1 - _ROUNDING)
    if asked == "auto":
        for step in STEPS:
            if step >= least:
                return float(step)
        raise UserError(
            f"this host cannot carry the run even at emulation.dilation: {STEPS[-1]:,}, where auto ends: "
            f"{_reasons(needs, STEPS[-1])}; take fewer devices, slower profiles, a smaller model, more hosts, "
            f"dilation: {_up(least)}, or mode: simulate"
        )
    if asked >= least:
        return float(asked)
    raise UserError(
        f"this host cannot carry the run at emulation.dilation: {asked:g}: {_reasons(needs, asked)}; "
        f"the smallest dilation that would do is {_up(least)}: set it, or dilation: auto, take fewer devices or slower "
        "profiles, or set mode: simulate"
    )


def projected(seconds: float, dilation: float, limit: float) -> float:
    """The wall seconds of a run of so many of the scenario, or more.

    Raises:
        UserError: they exceed the limit.
    """
    wall = seconds * dilation
    if wall > limit:
        raise UserError(
            f"the run is expected to last {human_seconds(seconds)} or more, which at a dilation of {dilation:g} is "
            f"{human_seconds(wall)} on the wall clock, above emulation.limit ({human_seconds(limit)}); "
            f"set the limit to {math.ceil(wall / 60)} min or more, end the run earlier (until), or set mode: simulate"
        )
    return wall


def _by_node(works: Iterable[Timed]) -> Mapping[int, list[Timed]]:
    found: dict[int, list[Timed]] = {}
    for timed in works:
        assert timed.target > 0, f"{timed.work} of node {timed.node} takes no time"
        found.setdefault(timed.node, []).append(timed)
    return found


def _ratio(timed: Sequence[Timed]) -> float:
    """Host seconds a second of a node that always computes."""
    return sum(one.host * one.count for one in timed) / sum(one.target * one.count for one in timed)


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _reasons(needs: Sequence[Need], asked: float) -> str:
    """Why a dilation does not suffice, the worst first."""
    unmet = sorted((need for need in needs if need.dilation > asked), key=lambda need: -need.dilation)
    return "; ".join(need.reason for need in unmet)


def _up(least: float) -> str:
    """A dilation rounded up to two digits."""
    digits = 10.0 ** (math.floor(math.log10(least)) - 1)
    return f"{math.ceil(least / digits) * digits:g}"
