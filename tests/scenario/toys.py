"""A small world for scenarios to name: schedulers, models, partitions, optimizers, and classes to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedsim.errors import UserError
from fedsim.quantities import Duration
from fedsim.scenario import Registry, Scenario, load

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True)
class FedAvg:
    """A scheduler with an option of every usual type."""

    local_steps: int = 5
    deadline: Duration | None = None
    mix: float = 0.5
    fast: bool = False
    how: Literal["mean", "median"] = "mean"
    weights: tuple[float, ...] = ()
    count: int = field(default=0, init=False)


@dataclass(frozen=True)
class FedOptima:
    """A scheduler with other options."""

    local_steps: int = 5
    activation_cap: int = 16


@dataclass(frozen=True)
class Vgg:
    """Options of a model."""

    width: float = 1.0


@dataclass(frozen=True)
class Iid:
    """No options."""


@dataclass(frozen=True)
class Dirichlet:
    """An option without a default."""

    alpha: float


@dataclass(frozen=True)
class Sgd:
    """Options of an optimizer."""

    lr: float = 0.05
    momentum: float = 0.0


@dataclass(frozen=True)
class Head:
    """Options of an auxiliary head."""

    kind: Literal["scaled_layer", "linear"] = "scaled_layer"
    ratio: float = 0.1


@dataclass(frozen=True)
class Share:
    """What a pruned model may come to."""

    params: float | str | None = None


@dataclass(frozen=True)
class Crop:
    """Options of a pruning method."""

    budget: Share = Share()
    rounding: int = 8


@dataclass(frozen=True)
class Window:
    """A nested option."""

    start: int = 0


@dataclass(frozen=True)
class Mine:
    """A scheduler of a user's own, which checks its options itself."""

    window: Window = Window()
    limit: float = float("inf")
    names: Mapping[str, int] = field(default_factory=dict)
    size: int | str = 1

    def __post_init__(self) -> None:
        if self.window.start < 0:
            raise ValueError(f"window.start is {self.window.start}; give 0 or more")
        if self.window.start == 99:
            raise RuntimeError("no 99")
        if self.window.start == 98:
            raise UserError("window.start is 98; give less")


@dataclass(frozen=True)
class Unwritable:
    """A scheduler with an annotation that cannot be found while the program runs."""

    amount: Decimal | None = None


@dataclass(frozen=True)
class Opaque:
    """A scheduler with an option of a type that pydantic does not know."""

    thing: Thing | None = None


class Thing:
    """No dataclass."""


def network(classes: int, *, depth: int = 3) -> tuple[int, int]:
    """Stand in for a function that makes a model."""
    return classes, depth


number = 3
call: Callable[[], None] = print

REGISTRY = Registry(
    schedulers={"fedavg": FedAvg, "fedoptima": FedOptima},
    models={"vgg5": Vgg, "vgg11": Vgg},
    partitions={"iid": Iid, "dirichlet": Dirichlet},
    optimizers={"sgd": Sgd},
    data=frozenset({"digits", "cifar10"}),
    auxiliary=Head,
    pruners={"crop": Crop},
)

FULL = """\
name: eight-boards
seed: 7
model: {name: vgg11, cut: 2}
data:
  name: cifar10
  path: ../data
  partition: {kind: dirichlet, alpha: 0.3}
fleet:
  - {profile: pi-4, count: 4, link: wifi}
  - profile: ./my-board.yaml
    link: {up: 10 Mbit/s, down: 26 Mbit/s, latency: 25 ms}
server: {profile: big, link: {up: 1 Gbit/s, down: 1 Gbit/s}}
scheduler: {name: fedavg, local_steps: 8, deadline: 3 min}
training: {batch: 16, optimizer: {name: sgd, lr: 5e-2, momentum: 0.9}}
faults: [{device: 3, leave: 120 s, return: 300 s}]
until: {accuracy: 90 %, rounds: 200, time: 6 h}
evaluate: {every: 30 s, samples: all}
mode: simulate
learning: on
"""

SHORT: dict[str, Any] = {
    "name": "short",
    "model": "vgg5",
    "data": "digits",
    "fleet": [{"profile": "pi-4", "count": 4}],
    "server": {"profile": "big"},
    "scheduler": "fedavg",
    "until": {"rounds": 3},
}


def populate(folder: Path) -> None:
    """Write the files of a catalogue, and a board beside the scenario."""
    for name in ("devices/profiles/pi-4", "server/profiles/big", "devices/links/wifi", "my-board"):
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("id: toy\n")


def read(folder: Path, text: str, **more: Any) -> Scenario:
    """The scenario of a text, as the file x.yaml of a folder."""
    path = folder / "x.yaml"
    path.write_text(text)
    return load(path, registry=REGISTRY, **more)
