"""What a host holds: blocks, learners, payloads and the data of its nodes. Operations work on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol, get_args
from weakref import WeakKeyDictionary

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim import seeds
from fedsim.learning.blocks import HOST, Block, Instance, State, layout_of, state_on
from fedsim.learning.fitting import Fitting
from fedsim.learning.learners import Batch, WeightPart
from fedsim.learning.plan import SERVER_BLOCK, BlockPlan
from fedsim.learning.stacks import Stack
from fedsim.models import building
from fedsim.models.auxiliary import Head
from fedsim.models.units import UnitList
from fedsim.payload.coding import Arrivals, Value
from fedsim.payload.meta import TensorMeta
from fedsim.payload.supports import WHOLE
from fedsim.payload.tensors import FlatTensors, Layout
from fedsim.payload.windows import Windows
from fedsim.script import SERVER, Payload

TOGETHER: Final = 64
"""Samples of small batches that are fetched at once; larger batches come one by one."""
_ORDERS: Final = 1024  # nodes whose order of samples is kept; another is drawn again from its seed in microseconds


class Samples(Protocol):
    """The data of a run, as tensors on demand; indices are those of the whole data set."""

    def shard(self, node: int) -> NDArray[Any]:
        """Indices of a device's samples."""
        ...

    def train(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of training samples, in memory that is the caller's."""
        ...

    def labels(self, indices: Tensor) -> Tensor:
        """Labels of training samples."""
        ...

    def held_out(self, split: str, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels `first` up to, not including, `last` of a split."""
        ...

    def held_out_size(self, split: str) -> int:
        """Number of samples of a split."""
        ...


@dataclass(frozen=True, slots=True)
class Residue:
    """What a forward has left for its backward."""

    out: Tensor
    """With its autograd graph."""
    batch: Batch
    work: int
    """Of its learner; names the random numbers that it took."""


@dataclass(slots=True)
class Trainee:
    """A learner: its weights lie in `instance` once it has computed, else in `source`, which is shared.

    Neither is there while the learner is closed.
    """

    block: Block
    source: FlatTensors | None
    instance: Instance | None = None
    kept: State | None = None
    residues: dict[int, Residue] = field(default_factory=dict)
    works: int = 0  # done so far; names the random numbers of the next
    round: int = 0  # by which its learning rate is scheduled


@dataclass(frozen=True, slots=True)
class LocalLoss:
    """A device block's loss through its head; `trunk` is the block without it."""

    trunk: nn.Sequential
    head: Head


class Core:
    """The state of a host.

    Args:
        model: the network with its initial weights; it is left as it is.
        plans: the blocks of the run, by name.
        data: the samples of its nodes.
        seed: the run's seed; each node's order of batches comes from it.
        head: the auxiliary head, where a plan has one.
        variants: the networks of pruned variants, by the names of their plans.
        processor: what computes. Payloads, samples and all that nodes keep lie in host memory.
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
        self.data = data
        self.processor = processor
        self.seed = seed
        self.blocks: dict[str, Block] = {}
        self.local: dict[str, LocalLoss] = {}
        self._stacks: dict[str, Stack] = {}
        self.learners: dict[tuple[int, int], Trainee] = {}
        self.values: WeakKeyDictionary[Payload, Value] = WeakKeyDictionary()
        """What its maker has behind a handle; `flat` and `tensor` give what the reader has."""
        self.arrivals = Arrivals()
        self.reader = SERVER
        """The node whose command runs; the server's, where published models are looked at."""
        self.memory: dict[tuple[str, int, int], Any] = {}
        """What operations remember: by their name, the node and the learner."""
        self._orders: OrderedDict[int, tuple[int, Tensor]] = OrderedDict()
        self._layouts: dict[tuple[str, str], Layout] = {}
        self._layout_of: dict[TensorMeta, Layout] = {}
        self._fittings: dict[Layout, Fitting] = {}
        self._windows: dict[Layout, Windows] = {}
        self._moved: dict[Layout, tuple[int, Fitting]] = {}
        # Blocks re-point the modules' tensors: this host has modules of its own, with the same initial tensors.
        self.model = model = _private(model)
        units = next(plan.trunk for name, plan in plans.items() if name != SERVER_BLOCK)
        for name, plan in plans.items():
            module: nn.Module
            if plan.bundle is not None:  # its weights alone are of use
                module = nn.Module()
                for member in plan.bundle.members:
                    alone, _ = _block(member, _private(variants[member.name]), units, deepcopy(head))
                    module.add_module(member.prefix.rstrip("."), alone)
            else:
                whole = _private(variants[name]) if name in variants else model
                module, local = _block(plan, whole, units, head)
                stack = Stack.of(module, model.input) if name != SERVER_BLOCK else None
                if local is not None:
                    self.local[name] = local
                elif stack is not None and model.loss is UnitList.loss:
                    self._stacks[name] = stack
            self._lay_out(name, Block(plan, module, processor), variant=name in variants)

    def _lay_out(self, name: str, block: Block, *, variant: bool) -> None:
        """Keep a block, and how its weights and the parts of them lie in memory."""
        self.blocks[name], plan = block, block.plan
        for part in get_args(WeightPart):
            meta: TensorMeta = getattr(plan, part)
            layout = block.layout
            if meta is not plan.weights:  # one a meta, since weights from another host are known by that alone
                layout = self._layout_of.get(meta) or layout_of(plan, meta)
            self._layouts[name, part] = layout
            self._layout_of.setdefault(meta, layout)
            if variant:
                support = WHOLE if plan.prefix else plan.support
                self._fittings.setdefault(layout, Fitting(layout, support, plan.prefix))
                if plan.windows is not None:
                    self._windows.setdefault(layout, plan.windows)

    def layouts(self) -> list[Layout]:
        """All layouts, in an order that is the same wherever the same blocks are."""
        return list(dict.fromkeys((*(block.layout for block in self.blocks.values()), *self._layouts.values())))

    def fitting(self, layout: Layout, round: int = 0) -> Fitting:
        """How the weights of a variant lie in those of the whole block; a `KeyError` if it is none of a variant.

        Where windows move, in a round; that of the last one asked for is kept.
        """
        windows = self._windows.get(layout)
        if windows is None or not round:
            return self._fittings[layout]
        held = self._moved.get(layout)
        if held is None or held[0] != round:
            held = self._moved[layout] = (round, Fitting(layout, windows.support(round)))
        return held[1]

    # ---------------------------------------------------------------------------------------- payloads

    def layout(self, name: str, part: WeightPart) -> Layout:
        """How the weights of a block, or a part of them, lie in memory."""
        return self._layouts[name, part]

    def layout_of(self, meta: TensorMeta) -> Layout:
        """How the weights that such a payload has lie in memory; a `KeyError` if no block has such weights."""
        return self._layout_of[meta]

    def arranged(self, tensor: Tensor) -> Tensor:
        """A tensor that is no weights as it lies in memory on every host."""
        return next(iter(self.blocks.values())).layout.arranged(tensor.detach().to(HOST))

    def here(self, tensor: Tensor) -> Tensor:
        """A tensor for what computes; the very same on a CPU."""
        return tensor.to(self.processor)

    def flat(self, payload: Payload) -> FlatTensors:
        """The weights behind a handle, as they have come to the reader."""
        value = self.arrivals.seen(payload, self.values[payload], self.reader)
        assert isinstance(value, FlatTensors)
        return value

    def tensor(self, payload: Payload) -> Tensor:
        """The tensor behind a handle, as it has come to the reader."""
        value = self.arrivals.seen(payload, self.values[payload], self.reader)
        assert isinstance(value, Tensor)
        return value

    # ---------------------------------------------------------------------------------------- learners

    def put_away(self, trainee: Trainee) -> None:
        """Take a learner's weights out of use; its optimizer's state goes, unless it is to be kept."""
        assert not trainee.residues, f"residue {sorted(trainee.residues)} was never consumed by a backward"
        if trainee.instance is not None:
            if trainee.block.plan.training.keep_optimizer_state:
                trainee.kept = state_on(HOST, trainee.instance.optimizer.state)
            trainee.block.release(trainee.instance)
            trainee.instance = None

    def weights(self, node: int, learner: int) -> FlatTensors:
        """A learner's weights as they are now, in memory that nobody writes to."""
        trainee = self.learners.get((node, learner))
        if trainee is not None and trainee.instance is not None:
            return trainee.instance.lend()
        assert trainee is not None and trainee.source is not None, f"learner {learner} of node {node} is closed"
        return trainee.source

    def ready(self, node: int, learner: int) -> tuple[Trainee, Instance, nn.Module]:
        """A learner with its weights in place and its module bound to them."""
        trainee = self.learners[node, learner]
        block = trainee.block
        if trainee.instance is None:
            assert trainee.source is not None, f"learner {learner} of node {node} is closed"
            trainee.instance = block.acquire()
            trainee.instance.load(trainee.source)
            trainee.instance.pace(trainee.round)
            if trainee.kept is not None:
                trainee.instance.resume(trainee.kept)
            trainee.kept = trainee.source = None  # nothing but the instance counts from here on
        trainee.instance.own()
        return trainee, trainee.instance, block.bind(trainee.instance)

    def loss(self, trainee: Trainee, module: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, and what the block makes of it: activations before a head, else logits."""
        local = self.local.get(trainee.block.plan.name)
        if local is None:
            out: Tensor = module(x)
            return self.model.loss(out, y), out
        z: Tensor = local.trunk(x)
        return local.head.loss(z, y, local.trunk), z

    def differentiate(self, trainee: Trainee, module: nn.Module, x: Tensor, y: Tensor) -> None:
        """Add the gradients of a batch's mean loss to those of the parameters."""
        stack = self._stacks.get(trainee.block.plan.name)
        if stack is None or not stack.differentiate(x, y):
            self.loss(trainee, module, x, y)[0].backward()

    def trunk(self, trainee: Trainee, module: nn.Module) -> nn.Module:
        """The block without its head; it is bound with it."""
        local = self.local.get(trainee.block.plan.name)
        return module if local is None else local.trunk

    def noise(self, node: int, learner: int, trainee: Trainee) -> AbstractContextManager[None]:
        """Random numbers for a work of a model that draws some, such as by dropout: its own, whoever runs it."""
        trainee.works += 1
        return self.noise_again(node, learner, trainee, trainee.works)

    def noise_again(self, node: int, learner: int, trainee: Trainee, work: int) -> AbstractContextManager[None]:
        """The random numbers that a work has had."""
        if not trainee.block.plan.draws:
            return nullcontext()
        return building.seeded(seeds.derive(self.seed, node, f"noise of {learner}", work), self.processor)

    # -------------------------------------------------------------------------------------------- data

    def samples(self, node: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a batch."""
        x, y = self.data.train(self.indices(node, batch))
        return self.here(x), self.here(y)

    def batches(self, node: int, batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of batches in turn; those that follow one another in an order are fetched together."""
        at = 0
        while at < len(batches):
            first = last = batches[at]
            end = at + 1
            while end < len(batches) and _follows(first, last, batches[end]):
                last = batches[end]
                end += 1
            x, y = self.samples(node, Batch(first.epoch, first.start, _samples(first, last)))
            for batch in batches[at:end]:
                here = slice(batch.start - first.start, batch.start - first.start + batch.size)
                yield x[here], y[here]
            at = end

    def indices(self, node: int, batch: Batch) -> Tensor:
        """The samples of a batch, as indices of the whole training set."""
        held = self._orders.get(node)
        if held is None or held[0] != batch.epoch:
            shard = self.data.shard(node)
            drawn = seeds.generator(self.seed, node, "batches", batch.epoch).permutation(len(shard))
            held = self._orders[node] = (batch.epoch, torch.from_numpy(shard[drawn]))
            self._orders.move_to_end(node)
            if len(self._orders) > _ORDERS:
                self._orders.popitem(last=False)
        return held[1][batch.start : batch.start + batch.size]


def _samples(first: Batch, last: Batch) -> int:
    """Of batches that follow one another."""
    return last.start + last.size - first.start


def _follows(first: Batch, last: Batch, batch: Batch) -> bool:
    """Whether a batch can be fetched with those before."""
    goes_on = batch.epoch == last.epoch and batch.start == last.start + last.size
    return goes_on and _samples(first, batch) <= TOGETHER


Operation = Callable[..., Value | None]
"""A function of (core, node, learner, arguments of the command) that answers with what it makes, if anything."""


def _block(plan: BlockPlan, network: UnitList, units: int, head: Head | None) -> tuple[nn.Module, LocalLoss | None]:
    """The module of a block of a network that is cut behind so many units, and its loss where it has a head."""
    trunk = network.block(units, len(network)) if plan.name == SERVER_BLOCK else network.block(0, units)
    if not plan.has_head:
        return trunk, None
    assert head is not None, "a plan with a head, but no head"
    own: Head = _private(head)
    return nn.Sequential(OrderedDict((*trunk.named_children(), *own.body.named_children()))), LocalLoss(trunk, own)


def _private(module: Any) -> Any:
    """The same module with the same tensors, in slots of its own."""
    return deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
