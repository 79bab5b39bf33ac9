"""A buffer of activations, with statistics by label from which more can be drawn (GAS).

Yang, Liu, arXiv 2409.01251. Each label's activations are taken for a Gaussian, whose mean and covariance run along with
what comes; a weight a batch lets recent ones count for more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.learning.learners import Learner, Node, batch_size, meta_of
from fedsim.payload.meta import ITEM_BYTES
from fedsim.script import Part, Payload, Work

Covariance = Literal["auto", "full", "diagonal"]

FULL: Final = 1024
"""Values of a sample's activations up to which `auto` keeps whole covariances: 4 MiB a label in float32."""


class Buffer:
    """Batches of activations that wait to be one batch for the server block.

    Args:
        node: the server.
        covariance: whole matrices, or variances alone; `auto` goes by the size of the activations.
        wanted: labels that samples exist of; all of them have to have been seen before any are drawn.
    """

    def __init__(self, node: Node, covariance: Covariance, wanted: Sequence[int]) -> None:
        self._node = node
        self._number = node.learner()
        self._covariance = covariance
        self._wanted = tuple(wanted)
        self._known: set[int] = set()  # labels that have statistics
        self._batches: list[tuple[int, Payload, Payload]] = []
        self._tally: Counter[int] = Counter()
        self._draws = self._rows = self._held = 0
        node.queue(self._number, "buffer.open")

    def __len__(self) -> int:
        """How many batches are in."""
        return len(self._batches)

    @property
    def sources(self) -> tuple[int, ...]:
        """The device of each batch."""
        return tuple(source for source, _, _ in self._batches)

    def add(
        self, source: int, activations: Payload, labels: Payload, tally: Sequence[int] = (), weight: int = 1
    ) -> None:
        """Take a batch in.

        Args:
            source: the device that it is from.
            activations: z.
            labels: y.
            tally: how many samples of each label there are; needed for `replenished` only.
            weight: of each sample in the statistics.
        """
        holds = meta_of(activations).memory_bytes + labels.nbytes
        self._held += holds
        self._rows += batch_size(activations)
        self._tally.update({label: count for label, count in enumerate(tally) if count})
        self._batches.append((source, activations, labels))
        self._node.queue(self._number, "buffer.add", activations, labels, weight, holds=holds)

    def joined(self) -> Payload:
        """All activations, one batch after the other."""
        z = self._activations(self._rows)
        self._node.queue(self._number, "buffer.join", output=z)
        return z

    def replenished(self, each: int) -> Work[Payload]:
        """As `joined`, and samples drawn behind them until there are at least `each` of every label.

        Statistics take in what is in the buffer first. Nothing is drawn as long as some label has none.
        """
        size = math.prod(meta_of(self._batches[0][1]).shapes[0].shape[1:])
        whole = self._covariance == "full" or (self._covariance == "auto" and size <= FULL)
        fresh = self._tally.keys() - self._known
        self._known |= fresh
        complete = self._known.issuperset(self._wanted)
        missing = {k: each - self._tally[k] for k in self._wanted if complete and self._tally[k] < each}
        rows, self._rows = self._rows, self._rows + sum(missing.values())
        self._draws += 1
        z = self._activations(self._rows)
        item = ITEM_BYTES[meta_of(z).shapes[0].dtype]
        holds = len(fresh) * item * (size + (size**2 if whole else size))
        args = (whole, missing, self._draws)
        command = self._node.command(self._number, "buffer.replenish", *args, output=z, holds=holds)
        return Work(command, (self._part(rows, missing, size, item, whole=whole),), z)

    def step(self, block: Learner, activations: Payload) -> Work[None]:
        """A step of a block on what `joined` or `replenished` gave; the buffer is empty then.

        Drawn samples cost what others do, but do not count as samples that were trained.
        """
        real = sum(batch_size(z) for _, z, _ in self._batches)
        work = block.step(activations, self.labels())
        return replace(work, parts=tuple(replace(part, samples=real) for part in work.parts))

    def labels(self) -> Payload:
        """The labels of what was asked for last; the buffer is empty then."""
        y = self._stacked(self._batches[0][2], self._rows)
        self._node.queue(self._number, "buffer.labels", output=y, holds=-self._held)
        self._batches.clear()
        self._tally.clear()
        self._rows = self._held = 0
        return y

    def _activations(self, rows: int) -> Payload:
        return self._stacked(self._batches[0][1], rows)

    def _stacked(self, like: Payload, rows: int) -> Payload:
        meta = meta_of(like)
        shape = replace(meta.shapes[0], shape=(rows, *meta.shapes[0].shape[1:]))
        return self._node.payload(replace(meta, shapes=(shape,)))

    def _part(self, rows: int, missing: Mapping[int, int], size: int, item: int, *, whole: bool) -> Part:
        """Means, and squares or products, of what came; for matrices a factorisation a label; a product a draw."""
        drawn, width = sum(missing.values()), size if whole else 1
        macs = rows * size * (1 + width) + drawn * size * width + (len(missing) * size**3 // 3 if whole else 0)
        states = 2 * len(self._tally) + len(missing)  # old and new ones, and those that are drawn from
        moved = item * size * (rows + drawn + states * (1 + width))
        kind = OpClass.LINEAR if whole else OpClass.ELEMENTWISE
        return Part("generate", Cost((Operator(kind, Phase.AGGREGATE, macs, moved),)), memory=drawn * size * item)
