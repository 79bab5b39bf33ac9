"""Split training with two plain modules and two optimizers, as anyone would write it, along what a trace says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.learning.optimizers import Optimizer
from fedsim.simulation import Simulation
from fedsim.testing import _network, _shards, toy, toy_data
from fedsim.trace import Mark
from tests.learning.test_oracles import batches, optimizer_of
from tests.learning.toys import Federation
from tests.schedulers.plain import State, contributions, mean, state_of


class Half:
    """A block of somebody's, and its optimizer."""

    def __init__(self, block: nn.Module, options: Optimizer) -> None:
        self.block = deepcopy(block)
        self.optimizer = optimizer_of(options, self.block)

    def step(self) -> None:
        """Go along the gradients, and drop them."""
        self.optimizer.step()
        self.optimizer.zero_grad()


@dataclass
class Split:
    """A model that is cut, and the devices' data."""

    first: nn.Module
    second: nn.Module
    shards: Sequence[Any]
    inputs: Tensor
    labels: Tensor
    batch: int
    options: Optimizer

    @classmethod
    def of(cls, what: Federation) -> Split:
        """A federation's."""
        network, data = what.network(), what.data()
        x = torch.tensor(data.train.inputs, dtype=getattr(torch, what.dtype))
        blocks = network.block(0, what.cut), network.block(what.cut, len(network))
        return cls(*blocks, list(what.shards()), x, torch.tensor(data.train.labels), what.batch, what.optimizer)

    @classmethod
    def of_toy(cls, scheduler: Any, devices: int = 4) -> Split:
        """The toy run's."""
        network, data, training = _network(), toy_data().train, toy(scheduler).training
        blocks = network.block(0, 1), network.block(1, len(network))
        x, y = torch.tensor(data.inputs), torch.tensor(data.labels)
        return cls(*blocks, list(_shards(devices)), x, y, training.batch, training.optimizer)

    def device(self, weights: Mapping[str, Tensor]) -> Half:
        """A device block with these weights and a fresh optimizer."""
        half = Half(self.first, self.options)
        half.block.load_state_dict(dict(weights))
        return half

    def server(self) -> Half:
        """A server block with the initial weights."""
        return Half(self.second, self.options)

    def samples(self, device: int) -> int:
        """n_k."""
        return len(self.shards[device])

    def passes(self, device: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """A device's passes over its data, each in an order of its own."""
        epoch = 0
        while True:
            yield iter(self._one_pass(device, epoch))
            epoch += 1

    def _one_pass(self, device: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
        shard = self.shards[device]
        rows = [torch.from_numpy(shard[batch]) for batch in batches(len(shard), self.batch, device, epoch)]
        return [(self.inputs[each], self.labels[each]) for each in rows]


def train(device: Half, server: Half, batch: tuple[Tensor, Tensor], parts: int = 1) -> None:
    """One step of both halves on a batch, or on as much of it as equal parts hold, on the mean loss over these."""
    x, y = batch
    size = len(x) // parts
    for start in range(0, size * parts, size):
        z = device.block(x[start : start + size])
        received = z.detach().requires_grad_()
        loss = nn.functional.cross_entropy(server.block(received), y[start : start + size]) / parts
        loss.backward()
        z.backward(received.grad)
    server.step()
    device.step()


def marks(simulation: Simulation, *names: str) -> list[Mark]:
    """The marks with these names, in order."""
    return [mark for mark in map(Mark._make, simulation.trace.marks) if mark.name in names]


def rounds_with_one_server_block(split: Split, simulation: Simulation) -> State:
    """The model after a run: batches in the order in which they were consumed, device blocks averaged at round ends."""
    d, server = state_of(split.first), split.server()
    passes = [split.passes(k) for k in range(len(split.shards))]
    arrived = contributions(simulation)
    opened = 0
    devices: dict[int, Half] = {}
    data: dict[int, Iterator[tuple[Tensor, Tensor]]] = {}
    for mark in marks(simulation, "round.open", "consumed", "round.close"):
        if mark.name == "round.open":
            opened, chosen = mark.time, json.loads(mark.detail)["nodes"]
            devices = {k: split.device(d) for k in chosen}
            data = {k: next(passes[k]) for k in chosen}
        elif mark.name == "consumed":
            k = int(mark.value)
            train(devices[k], server, next(data[k]))
        else:
            came = sorted(t.source for t in arrived if opened < t.arrived <= mark.time)
            assert all(next(data[k], None) is None for k in came), "they have trained all of their batches"
            if came:
                d = mean([(state_of(devices[k].block), split.samples(k)) for k in came])
    return {**d, **state_of(server.block)}
