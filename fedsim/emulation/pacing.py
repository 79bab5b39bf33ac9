"""When works of a node end: at the moments that its profile says, however fast this host is.

A pacer keeps the node's *ideal* time. A work begins where the last one ideally ended, or when what the node waited for
was there, whichever is later, and ends its target later. A host that is done sooner waits for that; one that takes
longer has overrun, and the works that follow make up for it. Only lag beyond a budget is lost, and waiting never earns
credit. Knows no clock: moments are given to it, in the scenario's nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedsim.units import human_seconds

SHORT: Final = 5_000_000
"""Nanoseconds of the wall clock of a work that cannot be paced by itself: a host's own scheduling takes as long."""

BUDGET: Final = 50_000_000
"""Nanoseconds of the wall clock that a node may lag behind in any case; twice a work's target, where that is more."""

MOST_OVERRUNS: Final = 0.05
"""Of the works of a faithful run."""

MOST_LOST: Final = 0.01
"""Lag of any node that could not be made up for, of the length of a faithful run."""


@dataclass(slots=True)
class Fidelity:
    """How well the works of a node were paced; durations in nanoseconds of the scenario."""

    works: int = 0
    short: int = 0
    """Works beside these that are too short to be paced one by one: only what is lost of them counts."""
    overruns: int = 0
    """Works that this host was not done with at their deadline, short ones aside."""
    lag: int = 0
    """What could not be made up for."""
    worst: int = 0
    """How long after its deadline this host was done with a work at most."""

    @property
    def overrun_ratio(self) -> float:
        """Overruns a work."""
        return self.overruns / self.works if self.works else 0.0


class Pacer:
    """The ideal time of one node.

    Args:
        dilation: wall seconds a second of the scenario.
        start: moment from which on the node could work.
    """

    def __init__(self, dilation: float = 1.0, start: int = 0) -> None:
        self.fidelity = Fidelity()
        self._budget = round(BUDGET / dilation)
        self._short = round(SHORT / dilation)
        self._ideal = start

    def arrived(self, moment: int) -> None:
        """What the node waited for was there at a moment: a message, the end of a sleep, room in a queue."""
        self._ideal = max(self._ideal, moment)

    def begin(self, now: int) -> int:
        """The moment at which a work that is begun `now` ideally began: not later, whatever others' clocks say."""
        return min(self._ideal, now)

    def done(self, begin: int, deadline: int, now: int) -> None:
        """This host is done `now` with a work that ideally began at `begin` and ends at `deadline`.

        Of a work in stages, each is begun and done; a stage begins at the deadline of the one before.
        """
        fidelity, lag = self.fidelity, now - deadline
        short = deadline - begin < self._short
        fidelity.works += not short
        fidelity.short += short
        self._ideal = deadline
        if lag <= 0:
            return
        fidelity.overruns += not short
        fidelity.worst = max(fidelity.worst, lag)
        lost = lag - max(self._budget, 2 * (deadline - begin))
        if lost > 0:
            fidelity.lag += lost
            self._ideal = deadline + lost


def pace_row(*lives: Fidelity) -> tuple[int, int, int, int, int]:
    """How a node was paced in all of its lives: works, short ones, overruns, lag lost, the worst overrun."""
    works, short, overruns, lag = (
        sum(getattr(one, name) for one in lives) for name in ("works", "short", "overruns", "lag")
    )
    return works, short, overruns, lag, max((one.worst for one in lives), default=0)


def summarised(nodes: Mapping[int, Fidelity], seconds: float) -> dict[str, Any]:
    """`summary.fidelity` of a run of so many seconds, from what the pacers of its nodes say, by number.

    The worst node is the one that has lost most, and of equals the one with most overruns a work. A run is faithful if
    few works of all that are not short overran and no node lost more than a small part of it.
    """
    works = sum(one.works for one in nodes.values())
    overruns = sum(one.overruns for one in nodes.values())
    worst = max(nodes, key=lambda node: (nodes[node].lag, nodes[node].overrun_ratio, -node), default=None)
    most = 0 if worst is None else nodes[worst].lag
    ratio = overruns / works if works else 0.0
    return {
        "works": works,
        "short_works": sum(one.short for one in nodes.values()),
        "overruns": overruns,
        "overrun_ratio": ratio,
        "lag_s": sum(one.lag for one in nodes.values()) / 1e9,
        "worst_node": worst,
        "worst_node_lag_s": most / 1e9,
        "worst_overrun_s": max((one.worst for one in nodes.values()), default=0) / 1e9,
        "faithful": ratio <= MOST_OVERRUNS and most / 1e9 <= MOST_LOST * seconds,
    }


def unfaithful(fidelity: Mapping[str, Any]) -> str | None:
    """What a run with this `summary.fidelity` was not faithful in; None: it was."""
    if fidelity["faithful"]:
        return None
    late = f"{fidelity['overrun_ratio']:.1%} of its works overran"
    if not fidelity["worst_node_lag_s"]:
        return late
    lost = f"{human_seconds(fidelity['worst_node_lag_s'])} that could not be made up for"
    return f"{late}, and node {fidelity['worst_node']} lost {lost}"
