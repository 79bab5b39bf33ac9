"""A handle on activations that a server has gathered: what is in the pool, and in which batches it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.learning.learners import Learner, Node, batch_size, meta_of
from fedsim.script import Payload, Work

Store = Literal["ram", "disk", "mmap"]
Rows = NDArray[np.int64]


class Pool:
    """Activations of many batches with their labels, and who sent them.

    In `ram` they count as held by the node until the pool is closed. `disk` and `mmap` keep them in a temporary file,
    read row by row or through a memory map; the time that reading takes is not modelled. A pass leaves out its last
    batch where that is not full, if the scenario says so (`drop_last`).
    """

    def __init__(self, node: Node, store: Store, *, drop_last: bool = False) -> None:
        self._node = node
        self._drop_last = drop_last
        self._number = node.learner()
        self._in_memory = store == "ram"
        self._held = 0
        self._first: list[int] = []  # rows at which batches begin
        self._source: list[int] = []  # who sent each batch
        self._rows = 0
        node.queue(self._number, "pool.open", store)

    def __len__(self) -> int:
        """Samples in the pool."""
        return self._rows

    def add(self, source: int, activations: Payload, labels: Payload) -> None:
        """Take a batch in."""
        holds = labels.nbytes + (meta_of(activations).memory_bytes if self._in_memory else 0)
        self._held += holds
        self._first.append(self._rows)
        self._source.append(source)
        self._rows += batch_size(activations)
        self._node.queue(self._number, "pool.add", activations, labels, holds=holds)

    def batches(self) -> Iterator[Rows]:
        """All rows in the batches in which they came."""
        for first, end in pairwise((*self._first, self._rows)):
            yield np.arange(first, end)

    def by_source(self) -> dict[int, Rows]:
        """The rows that each device has sent, by its number."""
        ends = [*self._first[1:], self._rows]
        found: dict[int, list[Rows]] = {}
        for source, first, end in zip(self._source, self._first, ends, strict=True):
            found.setdefault(source, []).append(np.arange(first, end))
        return {source: np.concatenate(parts) for source, parts in sorted(found.items())}

    def steps(self, samples: int, batch: int) -> int:
        """Batches of a pass over so many rows; at least one, if there are any."""
        full, left = divmod(samples, batch)
        return full + bool(left and not (full and self._drop_last))

    def shuffled(self, rng: np.random.Generator, batch: int, rows: Rows | None = None) -> Iterator[Rows]:
        """All rows, or those given, in batches of a random order; the last one holds what is left."""
        order = rng.permutation(self._rows if rows is None else rows)
        for number in range(self.steps(len(order), batch)):
            yield order[number * batch : (number + 1) * batch]

    def epoch(self, rng: np.random.Generator, batch: int, by: Literal["pooled", "per_device"]) -> Iterator[Rows]:
        """A pass over all rows: mixed, or the batches of one device after those of another, in a random order."""
        if by == "pooled":
            yield from self.shuffled(rng, batch)
            return
        own = list(self.by_source().values())
        for i in rng.permutation(len(own)).tolist():
            yield from self.shuffled(rng, batch, own[i])

    def drawn(self, rng: np.random.Generator, batch: int) -> Rows:
        """A batch of rows that are there now, each at most once."""
        return rng.choice(self._rows, size=min(batch, self._rows), replace=False)

    def step(self, learner: Learner, rows: Rows) -> Work[None]:
        """A step of a server block on these rows."""
        return learner.step_from(self._number, rows)

    def close(self) -> None:
        """Let go of everything."""
        self._node.queue(self._number, "pool.close", holds=-self._held)
