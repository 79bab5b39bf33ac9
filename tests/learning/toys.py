"""Small federations, and hosts without any runtime."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.data import DataSet, Shards, from_arrays
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.blocks import HOST
from fedsim.learning.host import Host
from fedsim.learning.learners import Learner, Node
from fedsim.learning.optimizers import Optimizer, Sgd, Training
from fedsim.learning.plan import plans
from fedsim.learning.samples import TensorSamples
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import Mlp, Plain
from fedsim.models.units import UnitList
from fedsim.payload.codecs import Codecs
from fedsim.payload.tensors import FlatTensors
from fedsim.script import Command, Message, Payload
from fedsim.simulation import Fault, Inline, Simulation
from fedsim.simulation.engine import Limits

SEED = 11


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Devices with shards of given sizes, a model, and how it is trained."""

    sizes: tuple[int, ...] = (24, 7, 40, 13)
    model: str | Callable[..., UnitList] = "vgg5"
    options: Any = field(default_factory=Plain)
    norm: str = "bn"
    shape: tuple[int, ...] = (3, 8, 8)
    dtype: str = "float64"
    batch: int = 8
    optimizer: Optimizer = field(default_factory=lambda: Sgd(lr=0.05))
    keep: bool = False
    channels_last: bool = False
    cut: int = 2
    codecs: Codecs = field(default_factory=Codecs)

    def data(self) -> DataSet:
        """Generated samples of four classes that can be learnt."""
        rng = np.random.default_rng(1)
        count = sum(self.sizes)
        y = rng.integers(0, 4, count)
        means = rng.normal(size=(4, *self.shape))
        x = (rng.normal(size=(count, *self.shape)) + means[y]).astype(np.float32)
        return from_arrays(x, y, x[:16], y[:16], name="toy", classes=4)

    def shards(self) -> Shards:
        """The samples of each device, mixed."""
        holder = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return Shards.of(np.random.default_rng(2).permutation(holder), len(self.sizes))

    def network(self, seed: int = SEED) -> UnitList:
        """The model with its initial weights."""
        kind = "image" if len(self.shape) == 3 else "vector"
        return build(
            self.model,
            self.options,
            input=self.shape,
            classes=4,
            kind=kind,
            norm=self.norm,
            dtype=self.dtype,
            device="cpu",
            seed=seed,
        )

    def training(self) -> Training:
        """How blocks are trained."""
        return Training(
            batch=self.batch,
            optimizer=self.optimizer,
            keep_optimizer_state=self.keep,
            channels_last=self.channels_last,
            codecs=self.codecs,
        )

    def samples(self) -> TensorSamples:
        """The data as tensors."""
        return TensorSamples(self.data(), self.shards(), dtype=self.dtype, channels_last=self.channels_last)

    def simulation(
        self, scheduler: Any, *, rounds: int, participants: int | None = None, faults: Sequence[Fault] = ()
    ) -> tuple[Host, Simulation]:
        """A host, and a run on the virtual clock that is yet to begin."""
        profile, link = load_profile("pi-tier-1"), load_link("wifi5")
        devices = len(self.sizes)
        assembly = Assembly(
            scheduler=scheduler,
            model=measure(self.network()),
            cut=self.cut,
            training=self.training(),
            fleet=Fleet(
                (Group(machine(profile), link, devices),), machine(load_profile("cpu-60g")), load_link("ethernet-1g")
            ),
            samples=self.shards().sizes(),
            participants=participants or devices,
            rounds=rounds,
            limits=Limits(every=1e9),
            seed=SEED,
            faults=faults,
        )
        blocks = assembly.blocks()
        host = Host(self.network(), blocks, self.samples(), SEED)
        return host, assembly.simulation(Inline(host), blocks=blocks)

    def run(self, scheduler: Any, *, rounds: int, participants: int | None = None) -> dict[str, Tensor]:
        """Simulate on the virtual clock; the weights of the last published model."""
        host, simulation = self.simulation(scheduler, rounds=rounds, participants=participants)
        simulation.run()
        assert simulation.published is not None
        return host.model_tensors(simulation.published.model)

    def bench(self, *, split: bool = False, processor: torch.device = HOST) -> Bench:
        """A host of this federation, to be told commands by hand."""
        return Bench(self, split=split, processor=processor)


MLP = Federation(model="mlp", options=Mlp(hidden=[6, 5]), shape=(7,), dtype="float32", cut=1)
"""The smallest: no buffers."""


class DirectPort:
    """A port that runs commands at once."""

    def __init__(self, node: int, host: Host) -> None:
        self.node = node
        self.now = 0.0
        self.absent: Collection[int] = ()
        self._host = host

    def poll(self, *kinds: type[Message]) -> Message | None:
        """Nothing ever waits."""
        return None

    def arrived(self, kind: type[Message]) -> list[Message]:
        """Nothing ever comes."""
        return []

    def outgoing(self, kind: type[Message]) -> int:
        """Whatever is sent has been delivered."""
        return 0

    def drop(self, message: Message) -> None:
        """There is nothing to refuse."""

    def command(self, command: Command) -> None:
        """Run it."""
        self._host.run(command)

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Forget it."""

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Forget it."""


class Bench:
    """A host, and learners on it."""

    def __init__(self, federation: Federation, *, split: bool, processor: torch.device = HOST) -> None:
        self.federation = federation
        network = federation.network()
        self.plans = plans(measure(network), federation.cut if split else None, federation.training())
        self.host = Host(network, self.plans, federation.samples(), SEED, processor=processor)
        self.nodes: dict[int, Node] = {}

    def node(self, number: int) -> Node:
        """A node of the host."""
        if number not in self.nodes:
            self.nodes[number] = Node(DirectPort(number, self.host))
        return self.nodes[number]

    def learner(self, node: int = 0, plan: str | None = None) -> Learner:
        """A fresh learner, of the first block if not said otherwise."""
        return Learner(self.node(node), self.plans[plan or next(iter(self.plans))])

    def do(self, work: Any) -> Any:
        """Run a work; its result."""
        self.host.run(work.command)
        return work.result

    def flat(self, payload: Payload) -> FlatTensors:
        """The tensors of a payload of weights."""
        value = self.host.value(payload)
        assert isinstance(value, FlatTensors)
        return value

    def tensor(self, payload: Payload) -> Tensor:
        """The tensor of any other payload."""
        value = self.host.value(payload)
        assert isinstance(value, Tensor)
        return value

    def give(self, payload: Payload, value: FlatTensors | Tensor) -> Payload:
        """Put a value behind a handle, as when it has come over a wire."""
        self.host.core.values[payload] = value
        return payload


def furthest(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Largest norm-relative difference of a tensor; whole numbers must be equal."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for name, mine in ours.items():
        other = theirs[name]
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype), name
        if mine.is_floating_point():
            worst = max(worst, float((mine - other).norm() / other.norm().clamp_min(1e-300)))
        else:
            assert mine.equal(other), name
    return worst


def bits(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The bytes of each tensor."""
    return {n: t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in tensors.items()}


def indices(shard: NDArray[np.int64], order: Sequence[int]) -> Tensor:
    """Rows of a shard as a tensor."""
    return torch.from_numpy(shard[np.asarray(order)])
