"""Batches of several devices as one: activations joined for a step, the gradient cut into shares again."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace

from fedsim.learning.learners import Learner, Node, batch_size, meta_of
from fedsim.script import Payload, Work


class Merge:
    """One batch of each of several devices, on its way through the server block.

    Batches stand by device number, whoever came first. They count as held until the step begins, which counts its
    inputs itself.
    """

    def __init__(self, node: Node, block: Learner) -> None:
        self._node = node
        self._block = block
        self._batches: dict[int, tuple[Payload, Payload]] = {}
        self._held = 0

    @property
    def sources(self) -> Set[int]:
        """The devices whose batches are in."""
        return self._batches.keys()

    def add(self, source: int, activations: Payload, labels: Payload) -> None:
        """Take a device's batch in; each has one at most."""
        assert source not in self._batches, f"two batches of device {source} in one step"
        self._batches[source] = activations, labels
        holds = meta_of(activations).memory_bytes + labels.nbytes
        self._held += holds
        self._node.queue(0, "hold", holds=holds)

    def step(self) -> Work[Payload]:
        """A step of the block on the mean loss of all samples; answers with the gradient at all activations."""
        activations, labels = zip(*(self._batches[k] for k in sorted(self._batches)), strict=True)
        z, y = self._joined(activations), self._joined(labels)
        self._node.queue(0, "hold", holds=-self._held)
        return self._block.train_step(z, y)

    def shares(self, gradient: Payload) -> Iterator[tuple[int, Payload]]:
        """Each device's rows of a gradient times Σb/b_k, which makes it the gradient of the device's own mean loss.

        With batch normalisation behind the cut, that is the loss as it is among the other devices' samples.
        """
        total, first = batch_size(gradient), 0
        for source in sorted(self._batches):
            size = batch_size(self._batches[source][0])
            share = self._node.payload(self._block.plan.gradients(size))
            args = (gradient, first, size, total / size)
            self._node.queue(self._block.number, "merge.share", *args, output=share)
            first += size
            yield source, share

    def _joined(self, payloads: tuple[Payload, ...]) -> Payload:
        """Rows of all, one after the other."""
        meta, rows = meta_of(payloads[0]), sum(map(batch_size, payloads))
        shape = replace(meta.shapes[0], shape=(rows, *meta.shapes[0].shape[1:]))
        joined = self._node.payload(replace(meta, shapes=(shape,)))
        self._node.queue(self._block.number, "merge.join", payloads, output=joined)
        return joined
