"""The only code that runs works: commands of many nodes in, tensors in memory.

A host holds the learners and payloads of its nodes. It is told `run(command)` in each node's own order and knows
nothing of time. The same host sits behind the inline worker, a Ray worker and an emulated process. What the commands
do stands in `operations`, what they work on in `core`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fedsim.learning.blocks import HOST, Block, Instance
from fedsim.learning.bundles import Bundle, bare
from fedsim.learning.core import Core, Samples
from fedsim.learning.learners import meta_of
from fedsim.learning.measuring import quality
from fedsim.learning.operations import OPERATIONS
from fedsim.learning.operations.holding import overwritten
from fedsim.learning.plan import BlockPlan
from fedsim.models.auxiliary import PREFIX, Head
from fedsim.models.units import UnitList
from fedsim.payload.coding import Value
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import FlatTensors, Layout
from fedsim.script import SERVER, Command, Payload, Purpose, Quality

__all__ = ["Host", "Samples"]


class Host:
    """Runs commands with PyTorch.

    Args:
        model: the network with its initial weights; it is left as it is.
        plans: the blocks of the run, by name.
        data: the samples of its nodes.
        seed: the run's seed; each node's order of batches comes from it.
        head: the auxiliary head with its initial weights, where a plan has one; it is left as it is.
        variants: the networks of pruned variants, by the names of their plans; they are left as they are.
        processor: what computes; see `fedsim.learning.processors`.
    """

    def __init__(
        self,
        model: UnitList,
        plans: Mapping[str, BlockPlan],
        data: Samples,
        seed: int,
        head: Head | None = None,
        variants: Mapping[str, UnitList] = MappingProxyType({}),
        processor: torch.device = HOST,
    ) -> None:
        self.core = Core(model, plans, data, seed, head, variants, processor)

    def run(self, command: Command) -> None:
        """Run one command; its payload, if it makes one, is there afterwards."""
        self.core.reader = command.node
        try:
            made = OPERATIONS[command.method](self.core, command.node, command.learner, *command.args)
        finally:
            self.core.reader = SERVER
        if command.output is not None:
            announced = meta_of(command.output).memory_bytes
            assert made is not None and made.nbytes == announced, (
                f"{command.method} made {'nothing' if made is None else f'{made.nbytes} bytes'}, "
                f"but {announced} bytes were announced"
            )
            self.core.values[command.output] = made

    def value(self, payload: Payload) -> Value:
        """The tensors behind a handle, as whoever made them has them."""
        return self.core.values[payload]

    def outgoing(self, payload: Payload, reader: int) -> Value:
        """The tensors behind a handle as they are to be encoded for a node of another host, once a payload."""
        return self.core.arrivals.due(payload, self.core.values[payload], reader)

    def incoming(self, values: Mapping[Payload, Value]) -> None:
        """Take in what another host has encoded."""
        for payload, value in values.items():
            self.core.values[payload] = value
            self.core.arrivals.put(payload, value)

    def layout_of(self, meta: TensorMeta) -> Layout:
        """How weights from another host are to lie in memory here; a `KeyError` if no block has such weights."""
        return self.core.layout_of(meta)

    def held(self, purpose: Purpose) -> int:
        """How many payloads of a purpose are alive."""
        return sum(payload.meta.purpose is purpose for payload in list(self.core.values))

    def forget(self, node: int) -> None:
        """Drop the learners of a node that has left; kept optimizer states go with them.

        What operations remember of a device, such as its control variate, is there when it comes back.
        """
        learners = self.core.learners
        for key in [key for key in learners if key[0] == node]:
            del learners[key]  # with its instance: graphs may be alive, so that is not reused
        self.core.arrivals.forget(node)

    # -------------------------------------------------------------------------------- published models

    def model_tensors(self, model: Sequence[Payload]) -> dict[str, Tensor]:
        """A copy of a published model's parameters and buffers by name, in the default memory layout.

        Auxiliary heads are no part of a model. Those of a bundle have names with their members' prefixes.
        """
        return {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for payload in model
            for name, tensor in self.core.flat(payload).named().items()
            if not bare(name).startswith(PREFIX)
        }

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """Accuracy and mean loss of a model on a held-out split. Changes nothing.

        A model is all of its blocks in order. A device block alone, with its head, is measured by that. Of a bundle,
        every member is measured, in front of the same blocks.
        """
        values = [self.core.flat(payload) for payload in model]
        bundle, members = self._members(values[0])
        if bundle is None:
            return self._quality(values, split)
        return bundle.quality([self._quality([member, *values[1:]], split) for member in members])

    def _members(self, value: FlatTensors) -> tuple[Bundle | None, list[FlatTensors]]:
        """The bundle that these are weights of, and each member's; None and nothing, of other weights."""
        core = self.core
        for name, block in core.blocks.items():
            bundle = block.plan.bundle
            for part in ("weights", "block") if bundle is not None else ():
                if bundle is not None and value.layout is core.layout(name, part):
                    layouts = [core.layout(member.name, part) for member in bundle.members]
                    return bundle, [core.fitting(layout).fitted(value) for layout in layouts]
        return None, []

    def _quality(self, values: Sequence[FlatTensors], split: str) -> Quality:
        """That of the blocks of one model, in order."""
        used = [self._temporary(value) for value in values]
        modules = [block.bind(instance).eval() for block, instance in used]
        forward = self._chain([block for block, _ in used], modules)
        outputs = math.prod(next(iter(self.core.blocks.values())).plan.model.units[-1].output)
        try:
            return quality(forward, self.core.model.loss, self.core.data, split, outputs)
        finally:
            for (block, instance), module in zip(used, modules, strict=True):
                module.train()
                block.release(instance)

    def _chain(self, blocks: Sequence[Block], modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
        """From inputs to logits through blocks that are bound; heads only where nothing else follows."""
        local = self.core.local
        steps: list[Callable[[Tensor], Tensor]] = []
        for block, module in zip(blocks, modules, strict=True):
            own = local.get(block.plan.name)
            steps.append(module if own is None else own.trunk)
            if own is not None and block is blocks[-1]:
                steps.append(partial(own.head.logits, block=own.trunk))

        def forward(x: Tensor) -> Tensor:
            x = self.core.here(x)
            for step in steps:
                x = step(x)
            return x

        return forward

    def _temporary(self, value: FlatTensors) -> tuple[Block, Instance]:
        """An instance with these weights; of a device block without its head, the head is any."""
        for name, block in self.core.blocks.items():
            if value.layout in (block.layout, self.core.layout(name, "block")):
                return block, block.showing(
                    value if value.layout is block.layout else overwritten(block.initial, value)
                )
        raise AssertionError("weights of no block")
