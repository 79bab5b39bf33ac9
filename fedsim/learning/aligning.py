"""Auxiliary heads in the place of the server block: fitted on the server, so that their gradients come near to its own.

Nair et al., arXiv 2505.23182 (FSL-SAGE). Such a head is not trained by its loss, but by how far the gradient of its
loss at activations is from that of the server block's loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fedsim.costs import Cost, Phase
from fedsim.learning.learners import Learner, Node, batch_size, meta_of
from fedsim.learning.optimizers import AdamW
from fedsim.learning.plan import BlockPlan, optimizer_kernels
from fedsim.models.measure import forward_cost, retained_bytes
from fedsim.script import Part, Payload, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How a head is fitted: passes over what is stored, learning rate of Adam, samples of a step."""

    epochs: int
    lr: float
    batch: int

    @property
    def adam(self) -> AdamW:
        """The optimizer: without decay, AdamW is Adam."""
        return AdamW(lr=self.lr, weight_decay=0.0)


class Alignment:
    """The last activations of each device, and its head as it was fitted last; the initial one at first.

    Args:
        node: the server.
        plan_of: the device block whose head a device has, with its head.
        block: the server block.
        keep: samples stored a device.
    """

    def __init__(self, node: Node, plan_of: Callable[[int], BlockPlan], block: Learner, keep: int) -> None:
        self._node = node
        self._plan_of = plan_of
        self._block = block
        self._keep = keep
        self._number = node.learner()
        self._stored: dict[int, int] = {}
        self._heads: dict[int, Payload] = {}
        self._version: dict[int, int] = {}
        node.queue(self._number, "align.open", keep)

    def add(self, device: int, activations: Payload, labels: Payload) -> None:
        """Store a batch of a device; of more than it may have, the last ones stay."""
        fresh, before = batch_size(activations), self._stored.get(device, 0)
        after = self._stored[device] = min(self._keep, before + fresh)
        each = (meta_of(activations).memory_bytes + labels.nbytes) // fresh
        holds = (after - before) * each
        self._node.queue(self._number, "align.add", device, activations, labels, holds=holds)

    def fit(self, device: int, block: Payload, how: Fitting) -> Work[Payload]:
        """Fit a device's head to the server block as it is now; answers with the head.

        `block` is the device block whose embedding a language model's head scores by.
        """
        plan = self._plan_of(device)
        head = self._node.payload(plan.head)
        count = self._version[device] = self._version.get(device, 0) + 1
        holds = 0 if device in self._heads else meta_of(head).memory_bytes
        self._heads[device] = head
        args = (device, block, self._block.number, how, count, plan.name)
        command = self._node.command(self._number, "align.fit", *args, output=head, holds=holds)
        return Work(command, self._parts(plan, self._stored[device], how), head)

    def head(self, device: int) -> tuple[Payload, int] | None:
        """A device's head as it was fitted last, and how often that has been; None before the first time."""
        return (self._heads[device], self._version[device]) if device in self._heads else None

    def _parts(self, plan: BlockPlan, stored: int, how: Fitting) -> tuple[Part, ...]:
        """True gradients in batches as they are trained, then the fit of a head."""
        server = self._block.plan
        true = (replace(server.gradient_part(size), samples=0) for size in pieces(stored, server.training.batch))
        return (*true, *(fit_part(plan, size, how) for size in pieces(stored, how.batch)))


def pieces(rows: int, size: int) -> list[int]:
    """Sizes of the batches that so many rows are cut into; the last one holds what is left."""
    return [min(size, rows - start) for start in range(0, rows, size)]


def fit_part(plan: BlockPlan, batch: int, how: Fitting) -> Part:
    """As many steps of a fit on a batch: forward, the gradient at activations, a backward through both, and Adam.

    A product has two products in its backward, one for each factor, so that backward takes twice what it goes through.
    """
    ends, model = plan.units[plan.trunk :], plan.model
    once = [*forward_cost(ends, batch).operators, *plan.loss_cost(batch).operators]
    once += [op.at(batch) for unit in ends for op in unit.backward_frozen]
    twice = (
        replace(op, phase=Phase.BACKWARD, macs=2 * op.macs, bytes=2 * op.bytes, forward_macs=op.macs) for op in once
    )
    adam = optimizer_kernels(ends, how.adam.kernels, model.dtype)
    cost = Cost(tuple(replace(op, count=how.epochs) for op in (*once, *twice, *adam)), batch, model.name)
    activations = plan.activations(batch).memory_bytes
    kept = retained_bytes(ends, batch, to_input=True)
    states = plan.state_bytes + 3 * plan.head.memory_bytes  # the block and its head; gradients, Adam's two moments
    return Part("align", cost, memory=3 * activations + 2 * kept + states)
