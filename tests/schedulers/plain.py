"""Local training with one model and dictionaries, as anyone would write it, for whole runs to be held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fedsim.simulation import Ending, Simulation
from fedsim.trace import Transfer
from tests.learning.test_oracles import batches, optimizer_of
from tests.learning.toys import Federation

State = dict[str, Tensor]
Bend = Callable[[str, Tensor, Tensor], Tensor]
"""Of a parameter's name, its gradient and its value: the gradient that the step is to go along."""


class Plain:
    """A federation's devices. Each goes on with its own passes over its data."""

    def __init__(self, what: Federation) -> None:
        self.what = what
        self.shards = what.shards()
        self.model = what.network()
        self.start = state_of(self.model)
        self.parameters = {name for name, _ in self.model.named_parameters()}
        self._epochs = dict.fromkeys(range(len(self.shards)), 0)
        data = what.data()
        self._x = torch.tensor(data.train.inputs, dtype=getattr(torch, what.dtype))
        self._y = torch.tensor(data.train.labels)

    def samples(self, device: int) -> int:
        """n_k."""
        return len(self.shards[device])

    def steps(self, device: int) -> int:
        """H: the batches of a pass."""
        return -(-self.samples(device) // self.what.batch)

    def train(self, device: int, weights: Mapping[str, Tensor], bend: Bend | None = None, round: int = 0) -> State:
        """The weights after the device's next pass over its data, at the learning rate of a round."""
        self.model.load_state_dict(dict(weights))
        optimizer = optimizer_of(self.what.optimizer, self.model)
        for group in optimizer.param_groups:
            group["lr"] = self.what.optimizer.rate(round)
        for batch in batches(self.samples(device), self.what.batch, device, self._epochs[device]):
            rows = torch.from_numpy(self.shards[device][batch])
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self._x[rows]), self._y[rows]).backward()
            if bend is not None:
                with torch.no_grad():
                    for name, weight in self.model.named_parameters():
                        assert weight.grad is not None
                        weight.grad.copy_(bend(name, weight.grad, weight))
            optimizer.step()
        self._epochs[device] += 1
        return state_of(self.model)


def state_of(model: nn.Module) -> State:
    """A copy of all tensors of a model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def mean(members: Sequence[tuple[Mapping[str, Tensor], float]]) -> State:
    """Σ weight·member / Σ weight; of whole numbers the largest."""
    total = sum(weight for _, weight in members)
    made = {}
    for name, first in members[0][0].items():
        each = torch.stack([member[name] for member, _ in members])
        if first.is_floating_point():
            weights = torch.tensor([weight / total for _, weight in members], dtype=first.dtype)
            made[name] = torch.tensordot(weights, each, 1)
        else:
            made[name] = each.amax(0)
    return made


def finished(simulation: Simulation) -> Simulation:
    """A run that has ended by its own rule."""
    assert simulation.run() is Ending.SERVER
    return simulation


def contributions(simulation: Simulation) -> list[Transfer]:
    """What devices sent and the server got, in order of arrival."""
    rows = (Transfer(*row) for row in simulation.trace.transfers)
    return sorted((t for t in rows if t.role == "contribution" and t.outcome == "delivered"), key=lambda t: t.arrived)


def stalenesses(arrivals: Iterable[int], *, every: int = 1) -> list[int]:
    """τ of each arrival, where a device that has arrived goes on at once, and every so many make a version."""
    downloaded: dict[int, int] = {}
    found = []
    for number, device in enumerate(arrivals):
        found.append(number // every - downloaded.get(device, 0))
        downloaded[device] = (number + 1) // every
    return found
