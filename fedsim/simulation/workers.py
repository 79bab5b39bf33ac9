"""Who does the real work of a simulation: nobody (`TimingOnly`) or this process (`Inline`).

Works are handed over when they start on the virtual clock and waited for when they end there. Commands that take no
time go through the same queue, so a node's commands always run in the order in which its scripts gave them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from fedsim.script import Command, Payload, Quality


class NodeHost(Protocol):
    """Runs the commands of nodes; `learning.Host` does it with PyTorch."""

    def run(self, command: Command) -> None:
        """Run one command; its payload, if it makes one, is there afterwards."""
        ...

    def forget(self, node: int) -> None:
        """Drop what a node holds."""
        ...

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """Measure a model on a split of the data."""
        ...


class Workers(Protocol):
    """What the engine needs of whoever does the work."""

    def start(self, node: int, commands: Sequence[Command]) -> None:
        """Begin the commands of one work of `node`."""
        ...

    def finish(self, node: int) -> None:
        """Wait until everything that `node` was told has been done."""
        ...

    def queue(self, command: Command) -> None:
        """Run a command that takes no time, behind all that its node was told before."""
        ...

    def forget(self, node: int) -> None:
        """Drop what `node` was told and everything it holds: it has left."""
        ...

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality | None:
        """The quality of a published model, or None where nothing is learnt."""
        ...


class TimingOnly:
    """Does nothing: payloads are known by their metas, and models have no quality."""

    def start(self, node: int, commands: Sequence[Command]) -> None:
        """Nothing to begin."""

    def finish(self, node: int) -> None:
        """Nothing to wait for."""

    def queue(self, command: Command) -> None:
        """Nothing to run."""

    def forget(self, node: int) -> None:
        """Nothing to drop."""

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality | None:
        """Nothing to measure."""
        return None


class Inline:
    """Does the work in this process, at the moment its result is needed.

    Waiting until then lets the steps of one node run together, while its weights are in the cache.
    """

    def __init__(self, host: NodeHost) -> None:
        self._host = host
        self._queues: dict[int, deque[Command]] = {}

    def start(self, node: int, commands: Sequence[Command]) -> None:
        """Put the commands into the node's queue."""
        self._queues.setdefault(node, deque()).extend(commands)

    def finish(self, node: int) -> None:
        """Run the node's queue."""
        queue = self._queues.pop(node, None)
        while queue:
            self._host.run(queue.popleft())

    def queue(self, command: Command) -> None:
        """Run the command now, or behind the works that the node has begun."""
        waiting = self._queues.get(command.node)
        if waiting:
            waiting.append(command)
        else:
            self._host.run(command)

    def forget(self, node: int) -> None:
        """Drop the node's queue and what the host holds of it."""
        self._queues.pop(node, None)
        self._host.forget(node)

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality | None:
        """Measure at once."""
        return self._host.evaluate(model, split)
