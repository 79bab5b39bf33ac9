"""A share of the nodes of a simulation, in a process of its own: orders in, and values for other shares out.

Calls are carried out one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from torch import Tensor

from fedsim.learning.deferring import Deferring
from fedsim.learning.host import Host
from fedsim.learning.learners import meta_of
from fedsim.learning.shares import packing, snapshots
from fedsim.runtime.encoding import Decoder, Drop, Forget, Give, GiveSums, Join, Leave, Order, Run, Settle, Take
from fedsim.script import Meta, Quality


class Keeper:
    """A host behind orders.

    Args:
        host: whoever does the work.
    """

    def __init__(self, host: Host) -> None:
        self._host = Deferring(host)
        self._decoder = Decoder()

    def run(self, metas: list[Meta], orders: Sequence[Order], *parts: Any) -> float | list[Any]:
        """Carry out orders, with what other shares have sent; the seconds that it took, then the values to give."""
        began = perf_counter()
        given: list[Any] = []
        core = self._host.core
        self._decoder.learn(metas)
        for order in orders:
            match order:
                case Run(command):
                    self._host.run(self._decoder.command(command))
                case Take(payload, part):
                    (wanted,) = self._decoder.payloads(payload)
                    core.values[wanted] = packing.unpacked(core, meta_of(wanted), parts[part])
                case Give(payload):
                    (wanted,) = self._decoder.payloads(payload)
                    given.append(packing.packed(self._host.value(wanted)))
                case GiveSums(node, number, runs):
                    given.append(packing.packed_sums(self._host.sums(node, number, runs)))
                case Leave(nodes):
                    self._host.settle(nodes)
                    given.append(packing.left(core, nodes))
                case Join(node, number, part):
                    self._host.join(node, number, packing.unpacked_sums(parts[part]))
                case Settle(part):
                    packing.settle(core, parts[part])
                case Drop(keys):
                    for key in keys:
                        self._decoder.drop(key)
                case Forget(node):
                    self._host.forget(node)
        seconds = perf_counter() - began
        return [seconds, *given] if given else seconds

    def snapshot(self) -> bytes | None:
        """All that this share holds; None where that cannot be had now."""
        return snapshots.snapshot(self._host.core, (self._decoder, self._host.state))

    def restore(self, data: bytes) -> None:
        """Go on, as a fresh share, from what another one held."""
        self._decoder, self._host.state = snapshots.restore(self._host.core, data)

    def evaluate(self, model: bytes, split: str) -> Quality:
        """The quality of a published model."""
        return self._host.evaluate(self._decoder.payloads(model), split)

    def model_tensors(self, model: bytes) -> dict[str, Tensor]:
        """A published model's tensors, by name."""
        return self._host.model_tensors(self._decoder.payloads(model))
