"""The only code that runs works: commands of many nodes in, tensors in memory.

A host holds the learners and payloads of its nodes. It is told `run(command)` in each node's own order and knows
nothing of time. The same host sits behind the inline worker, a Ray worker and an emulated process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim import seeds
from fedsim.learning.blocks import Block, Instance, State
from fedsim.learning.learners import Batch
from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK, BlockPlan
from fedsim.learning.summing import RunningMean
from fedsim.models import building
from fedsim.models.units import UnitList
from fedsim.payload.memory import trim
from fedsim.payload.tensors import FlatTensors
from fedsim.script import SERVER, Command, Payload, Purpose, Quality

_ORDERS: Final = 1024  # nodes whose order of samples is kept; another is drawn again from its seed in microseconds
_EVALUATION_BATCH: Final = 256


class Samples(Protocol):
    """The data of a run, as tensors on demand; indices are those of the whole data set."""

    def shard(self, node: int) -> NDArray[np.int64]:
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


@dataclass(slots=True)
class _State:
    """A learner: its weights lie in `instance` once it has computed, else in `source`, which is shared.

    Neither is there while the learner is closed.
    """

    block: Block
    source: FlatTensors | None
    instance: Instance | None = None
    kept: State | None = None
    residues: dict[int, Tensor] = field(default_factory=dict)
    works: int = 0  # done so far; names the random numbers of the next


class Host:
    """Runs commands with PyTorch on the CPU.

    Args:
        model: the network with its initial weights; it is left as it is.
        plans: the blocks of the run, by name.
        data: the samples of its nodes.
        seed: the run's seed; each node's order of batches comes from it.
    """

    def __init__(self, model: UnitList, plans: Mapping[str, BlockPlan], data: Samples, seed: int) -> None:
        self._data = data
        self._seed = seed
        # Blocks re-point the modules' tensors: this host has modules of its own, with the same initial tensors.
        model = deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
        self._loss = model.loss
        units = len(plans[MODEL].units) if MODEL in plans else len(plans[DEVICE].units)
        bounds = {MODEL: (0, units), DEVICE: (0, units), SERVER_BLOCK: (units, None)}
        self._blocks = {
            name: Block(plan, model.block(bounds[name][0], bounds[name][1] or len(model)))
            for name, plan in plans.items()
        }
        self._learners: dict[tuple[int, int], _State] = {}
        self._means: dict[tuple[int, int], RunningMean] = {}
        self._values: WeakKeyDictionary[Payload, FlatTensors | Tensor] = WeakKeyDictionary()
        self._orders: OrderedDict[int, tuple[int, Tensor]] = OrderedDict()
        self._methods: dict[str, Callable[..., FlatTensors | Tensor | None]] = {
            "open": self._open,
            "load": self._load,
            "weights": self._weights,
            "copy": self._copy,
            "close": self._close,
            "train": self._train,
            "forward": self._forward,
            "labels": self._labels,
            "backward": self._backward,
            "train_step": self._train_step,
            "mean.open": self._open_mean,
            "mean.add": self._add_to_mean,
            "mean.result": self._mean_result,
        }

    # ------------------------------------------------------------------------------------- the protocol

    def run(self, command: Command) -> None:
        """Run one command; its payload, if it makes one, is there afterwards."""
        made = self._methods[command.method](command.node, command.learner, *command.args)
        if command.output is not None:
            assert made is not None and made.nbytes == command.output.nbytes, (
                f"{command.method} made {'nothing' if made is None else f'{made.nbytes} bytes'}, "
                f"but {command.output.nbytes} bytes were announced"
            )
            self._values[command.output] = made

    def value(self, payload: Payload) -> FlatTensors | Tensor:
        """The tensors behind a handle."""
        return self._values[payload]

    def held(self, purpose: Purpose) -> int:
        """How many payloads of a purpose are alive."""
        return sum(payload.meta.purpose is purpose for payload in list(self._values))

    def forget(self, node: int) -> None:
        """Drop the learners of a node that has left; kept optimizer states go with them."""
        for key in [key for key in self._learners if key[0] == node]:
            del self._learners[key]  # with its instance: graphs may be alive, so that is not reused

    def model_tensors(self, model: Sequence[Payload]) -> dict[str, Tensor]:
        """A copy of a published model's parameters and buffers by name, in the default memory layout."""
        tensors: dict[str, Tensor] = {}
        for payload in model:
            value = self._values[payload]
            assert isinstance(value, FlatTensors)
            copied = {n: v.clone(memory_format=torch.contiguous_format) for n, v in value.named().items()}
            tensors |= copied
        return tensors

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """Accuracy and mean loss of a published model on a held-out split. Changes nothing."""
        instances = [self._temporary(payload) for payload in model]
        modules = [block.bind(instance).eval() for block, instance in instances]
        size = self._data.held_out_size(split)
        right = predictions = 0
        loss = 0.0
        try:
            with torch.inference_mode():
                for first in range(0, size, _EVALUATION_BATCH):
                    x, y = self._data.held_out(split, first, min(first + _EVALUATION_BATCH, size))
                    for module in modules:
                        x = module(x)
                    right += int((x.argmax(-1) == y).sum())
                    loss += float(self._loss(x, y, "sum"))
                    predictions += y.numel()
        finally:
            for (block, instance), module in zip(instances, modules, strict=True):
                module.train()
                block.release(instance)
        del x, y
        trim()  # activations of whole evaluation batches are by far the largest temporaries of a run
        return Quality(right / predictions, loss / predictions, size)

    def _temporary(self, payload: Payload) -> tuple[Block, Instance]:
        value = self._values[payload]
        assert isinstance(value, FlatTensors)
        block = next(b for b in self._blocks.values() if b.layout is value.layout)
        instance = block.acquire()
        instance.load(value)
        return block, instance

    # ----------------------------------------------------------------------------------------- learners

    def _open(self, node: int, learner: int, name: str) -> None:
        block = self._blocks[name]
        assert (node, learner) not in self._learners, f"learner {learner} of node {node} is open already"
        self._learners[node, learner] = _State(block, block.initial)

    def _load(self, node: int, learner: int, weights: Payload) -> None:
        state = self._learners[node, learner]
        value = self._values[weights]
        assert isinstance(value, FlatTensors)
        assert value.layout is state.block.layout, "weights of another block"
        self._put_away(state)
        state.source = value

    def _put_away(self, state: _State) -> None:
        assert not state.residues, f"residue {sorted(state.residues)} was never consumed by a backward"
        if state.instance is not None:
            if state.block.plan.training.keep_optimizer_state:
                state.kept = state.instance.optimizer.state
            state.block.release(state.instance)
            state.instance = None

    def _close(self, node: int, learner: int) -> None:
        state = self._learners[node, learner]
        self._put_away(state)
        state.source = None
        if node == SERVER:  # the server opens learners as it goes; a device has one for life
            del self._learners[node, learner]

    def _weights(self, node: int, learner: int) -> FlatTensors:
        state = self._learners.get((node, learner))
        if state is not None and state.instance is not None:
            return state.instance.flats.clone()
        assert state is not None and state.source is not None, f"learner {learner} of node {node} is closed"
        return state.source

    def _copy(self, node: int, learner: int, other: int) -> None:
        self._learners[node, learner].source = self._weights(node, other)

    def _ready(self, node: int, learner: int) -> tuple[_State, Instance, nn.Module]:
        """The learner with its weights in place and its module bound to them."""
        state = self._learners[node, learner]
        block = state.block
        if state.instance is None:
            assert state.source is not None, f"learner {learner} of node {node} is closed"
            state.instance = block.acquire()
            state.instance.load(state.source)
            if state.kept is not None:
                state.instance.optimizer.state = state.kept
            state.kept = state.source = None  # nothing but the instance counts from here on
        return state, state.instance, block.bind(state.instance)

    def _noise(self, node: int, learner: int, state: _State) -> AbstractContextManager[None]:
        """Random numbers for a work of a model that draws some, such as by dropout: its own, whoever runs it."""
        state.works += 1
        if not state.block.plan.draws:
            return nullcontext()
        return building.seeded(seeds.derive(self._seed, node, f"noise of {learner}", state.works))

    # -------------------------------------------------------------------------------------------- works

    def _train(self, node: int, learner: int, batches: Sequence[Batch]) -> None:
        state, instance, module = self._ready(node, learner)
        with self._noise(node, learner, state):
            for batch in batches:
                x, y = self._data.train(self._indices(node, batch))
                self._loss(module(x), y).backward()
                instance.step()

    def _forward(self, node: int, learner: int, batch: Batch, tag: int) -> Tensor:
        state, instance, module = self._ready(node, learner)
        assert tag not in state.residues, f"residue {tag} was never consumed by a backward"
        x, _ = self._data.train(self._indices(node, batch))
        with self._noise(node, learner, state):
            z: Tensor = module(x)
        state.residues[tag] = z
        instance.graphs += 1
        return state.block.layout.arranged(z.detach())

    def _labels(self, node: int, _learner: int, batch: Batch) -> Tensor:
        return self._data.labels(self._indices(node, batch))

    def _backward(self, node: int, learner: int, gradient: Payload, tag: int) -> None:
        state = self._learners[node, learner]
        instance = state.instance
        assert instance is not None and tag in state.residues, f"backward {tag} without its forward"
        g = self._values[gradient]
        assert isinstance(g, Tensor)
        torch.autograd.backward(state.residues.pop(tag), g)
        instance.graphs -= 1
        instance.step()

    def _train_step(self, node: int, learner: int, activations: Payload, labels: Payload) -> Tensor:
        state, instance, module = self._ready(node, learner)
        z, y = self._values[activations], self._values[labels]
        assert isinstance(z, Tensor) and isinstance(y, Tensor)
        z = z.detach().requires_grad_()
        with self._noise(node, learner, state):
            self._loss(module(z), y).backward()
        instance.step()
        assert z.grad is not None
        return state.block.layout.arranged(z.grad)

    # ------------------------------------------------------------------------------------------- sums

    def _open_mean(self, node: int, number: int, name: str, expected: Sequence[int]) -> None:
        self._means[node, number] = RunningMean(self._blocks[name].layout, expected)

    def _add_to_mean(self, node: int, number: int, member: int, weights: Payload, weight: int) -> None:
        value = self._values[weights]
        assert isinstance(value, FlatTensors)
        self._means[node, number].add(member, value, weight)

    def _mean_result(self, node: int, number: int) -> FlatTensors:
        return self._means.pop((node, number)).result()

    # ------------------------------------------------------------------------------------------- data

    def _indices(self, node: int, batch: Batch) -> Tensor:
        held = self._orders.get(node)
        if held is None or held[0] != batch.epoch:
            shard = self._data.shard(node)
            drawn = seeds.generator(self._seed, node, "batches", batch.epoch).permutation(len(shard))
            held = self._orders[node] = (batch.epoch, torch.from_numpy(shard[drawn]))
            self._orders.move_to_end(node)
            if len(self._orders) > _ORDERS:
                self._orders.popitem(last=False)
        return held[1][batch.start : batch.start + batch.size]
