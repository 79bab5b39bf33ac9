"""Scenarios in a mapping, and a user's own scheduler, model and data set, all importable by `module:Name`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from fedsim import testing
from fedsim.data import DataSet, from_arrays
from fedsim.experiment.assembly import Assembly, Smaller
from fedsim.models.counting import measure
from fedsim.models.units import UnitList
from fedsim.payload.windows import Channels, Windows
from fedsim.schedulers.fedavg import FedAvg
from fedsim.testing import toy

TOY: Mapping[str, Any] = {
    "name": "toy",
    "seed": 3,
    "model": {"name": "mlp", "hidden": [8, 8], "cut": 1},
    "data": {"name": "digits", "samples": 200},
    "fleet": [
        {"profile": "pi-tier-1", "count": 2, "link": "wifi5"},
        {"profile": "jetson-tier-4", "count": 1, "link": "lte"},
    ],
    "server": {"profile": "cpu-60g", "link": "ethernet-1g"},
    "scheduler": "fedavg",
    "training": {"batch": 16, "optimizer": {"name": "sgd", "lr": 0.1}},
    "until": {"rounds": 2},
}
SPLIT = {"name": "splitfed"}


def rolled(scheduler: Any) -> Assembly:
    """The toy run of a scheduler that does not cut, in which a variant's three of five units move by two each round."""
    made = toy(scheduler, rounds=4)
    network = testing._network()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    units = np.arange(5)[:, None]
    places = {("hidden1.1.weight", 0): units, ("hidden1.1.bias", 0): units, ("hidden2.0.weight", 1): units}
    windows = Windows([Channels(5, 3, places)], shapes, step=2)
    support = windows.support(0)
    model = measure(testing._smaller(support))
    return replace(made, variants=(Smaller(model=model, support=support, groups=frozenset({0}), windows=windows),))


@dataclass(frozen=True, kw_only=True)
class Own(FedAvg):
    """A scheduler of the user's own, with a field that is no option."""

    pace: float = 0.5
    seen: int = field(default=0, init=False)


def data(path: str | None = None) -> DataSet:
    """A data set of the user's own: 60 vectors of three classes."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 60)
    inputs = (rng.normal(size=(60, 5)) + 3 * np.eye(3, 5)[labels]).astype(np.float32)
    return from_arrays(inputs, labels, inputs[:20], labels[:20], name="own")


def owned() -> DataSet:
    """The same, each ten samples in a row from one person."""
    found = data()
    split = found.train
    return from_arrays(
        split.inputs, split.labels, split.inputs[:20], split.labels[:20], np.arange(60) // 10, name="owned"
    )


def model(*, width: int = 4, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """A model of the user's own."""
    del norm
    size = int(np.prod(input))
    units = [
        ("first", nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU())),
        ("last", nn.Linear(width, classes)),
    ]
    return UnitList("own", units, input=input, classes=classes)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The same as a dataclass of its options."""

    width: int = 4

    def __call__(self, *, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
        return model(width=self.width, input=input, classes=classes, norm=norm)


def odd_model(*, input: tuple[int, ...], classes: int, norm: str) -> Any:
    """No unit list."""
    del input, norm
    return nn.Linear(1, classes)


def stubborn_model(input: tuple[int, ...]) -> Any:
    """Does not take what it is given."""
