"""What the works of a run take on this host, and on the machines that they are meant for.

The run itself is simulated for a while with real training, and every work is timed: so whatever a system does, it is
what is measured, in the proportions in which it is done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from fedsim.costs import Cost
from fedsim.emulation.dilation import Timed
from fedsim.experiment.assembly import Assembly
from fedsim.script import SERVER, Command, Payload, Quality
from fedsim.simulation import Simulation
from fedsim.simulation.workers import NodeHost

ENOUGH: Final = 4
LONGEST: Final = 20.0


@dataclass(slots=True)
class _Kind:
    """A kind of work of a node."""

    host: list[float] = field(default_factory=list)
    target: float = 0.0
    count: int = 0


class _Stopwatch:
    """Workers that do the work at once, and time it."""

    def __init__(self, host: NodeHost, assembly: Assembly, enough: int, longest: float) -> None:
        self.kinds: dict[tuple[int, str], _Kind] = {}
        self.simulation: Simulation | None = None
        self._host = host
        self._price = assembly.fleet.clockwork(assembly.seed).price
        self._priced = 0
        self._enough, self._longest = enough, longest
        self._began = time.perf_counter()

    def price(self, node: int, cost: Cost, start: int) -> int:
        """What a part of a work takes on its machine; the work follows."""
        found = self._price(node, cost, start)
        self._priced += found
        return found

    def start(self, node: int, commands: Sequence[Command]) -> None:
        """Do a work, or several together."""
        name = " and ".join(sorted({_said(command) for command in commands}))
        kind = self.kinds.setdefault((node, name), _Kind())
        began = time.perf_counter()
        for command in commands:
            self._host.run(command)
        kind.host.append(time.perf_counter() - began)
        kind.target += self._priced / 1e9
        kind.count += 1
        self._priced = 0
        assert self.simulation is not None
        enough = all(kind.count >= self._enough for kind in self.kinds.values())
        whole = {node for node, _ in self.kinds} >= {SERVER}
        if (enough and whole) or time.perf_counter() - self._began > self._longest:
            self.simulation.stopping = True

    def finish(self, node: int) -> None:
        """It has been done."""

    def queue(self, command: Command) -> None:
        """Do it."""
        self._host.run(command)

    def forget(self, node: int) -> None:
        """Drop what a node holds."""
        self._host.forget(node)

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality | None:
        """Measure a model; that is no work of the run."""
        return self._host.evaluate(model, split)


def timed(
    assembly: Assembly, host: NodeHost, *, threads: int = 1, enough: int = ENOUGH, longest: float = LONGEST
) -> list[Timed]:
    """Time the works of a run.

    Args:
        assembly: the run.
        host: does the works; it is of no more use afterwards.
        threads: those that a work keeps busy.
        enough: times that each kind of work is done; the first, which warms up, does not count.
        longest: seconds of the wall clock after which what has been seen has to do.
    """
    watch = _Stopwatch(host, assembly, enough, longest)
    watch.simulation = assembly.simulation(watch, price=watch.price)
    watch.simulation.run()
    found = []
    for (node, name), kind in watch.kinds.items():
        profile = assembly.fleet.machine(node).profile.id
        usual = median(kind.host[1:] or kind.host)
        found.append(Timed(node, profile, name, usual, kind.target / kind.count, threads, kind.count))
    return found


def _said(command: Command) -> str:
    """A work for people."""
    return command.method.replace("_", " ")
