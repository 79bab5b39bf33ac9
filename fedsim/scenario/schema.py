"""The sections of a scenario as frozen models: every key, its type, its default and what it means.

Knows nothing of files and lines, nor of which schedulers, models and data sets there are: what those take is in
`options`, checked against types that are handed in. Rules that join several sections are in `checks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag, model_validator

from fedsim.documents.problems import Places
from fedsim.documents.translate import rule, wanted
from fedsim.quantities import Duration, Fraction, Frequency, Size
from fedsim.scenario.codec import Codec
from fedsim.scenario.errors import SCENARIO
from fedsim.scenario.network import AccessPoint, Link, Network
from fedsim.scenario.pruning import Pruned, Pruning
from fedsim.scenario.section import Identifier, Name, Number, Options, Recorded, Section, Switch, Whole


def _index(value: object) -> object:
    if isinstance(value, str):
        raise wanted("the index of a unit, or auto")
    return value


Cut = Annotated[
    Annotated[Literal["auto"], Tag("<auto>")] | Annotated[Whole, BeforeValidator(_index), Field(ge=1), Tag("<index>")],
    Discriminator(lambda value: "<auto>" if value == "auto" else "<index>"),
]


class Model(Section):
    """The network that is trained, and where it is cut between device and server. Short form: its name."""

    name: Name = Field(examples=["vgg5"])
    """A model of `fedsim list models`, or `module:Class`."""
    cut: Cut | None = None
    """The device holds the units before this index; auto chooses; null where the scheduler trains whole models."""
    objective: Literal["time", "device_memory", "device_macs", "bytes", "activation_bytes"] = "time"
    """What `cut: auto` makes least: the predicted time of a round, the devices' memory, or the bytes exchanged."""
    weights: Path | None = None
    """Trained weights to start from: a run folder, or a safetensors file; null draws them. Relative to the scenario
    file."""
    options: Options = None
    """What the model takes beside these, each a key of this section."""


class Partition(Section):
    """How the training data are spread over the devices. Short form: its kind."""

    kind: Name = "iid"
    """A partition such as `iid` or `dirichlet`."""
    options: Options = None
    """What the partition takes, each a key of this section."""


class Tokens(Section):
    """How text becomes training sequences."""

    length: Whole = Field(ge=1, examples=[256])
    """Tokens in a sequence."""
    tokenizer: Name = Field(examples=["bytes"])
    """`bytes`, `chars`, `model` (that of the model's `path`), a path, `package:NAME`, or `module:Class`."""


class Data(Section):
    """The data set and how it is spread. Short form: its name."""

    name: Name = Field(examples=["digits"])
    """A data set of `fedsim list data`, or `module:Class`."""
    path: Path | None = None
    """The folder with the files: torchvision's layout, or Hugging Face Parquet. Relative to the scenario file."""
    samples: Whole | None = Field(default=None, ge=1)
    """A seeded subset of the training set; null takes all of it."""
    resize: Whole | None = Field(default=None, ge=1)
    """The side of the images in pixels; null fits them to what the model takes."""
    tokens: Tokens | None = None
    """For text: how it becomes sequences."""
    partition: Partition = Partition()
    """How the training data are spread over the devices."""


class Group(Section):
    """A group of like devices."""

    profile: Name = Field(examples=["raspberry-pi-4b"])
    """A profile of `fedsim list profiles`, or the path of one."""
    count: Whole = Field(default=1, ge=1, le=10_000_000)
    """Devices of this kind."""
    link: Link | None = None
    """A link of `fedsim list links`, the path of one, or its rates; null takes the profile's default."""
    power_mode: Name | None = None
    """A mode of the profile; null takes its usual one."""
    clock: Frequency | None = None
    """Clock of the processor that trains, in the place of the profile's."""
    access: Name | None = None
    """The access point (a key of `access`) that the devices share."""
    population: Switch = False
    """Whether each device draws its own rates from the link's population."""
    availability: Recorded | None = None
    """A recording of when devices are there; each starts at its own moment of it."""
    pruning: Pruned | None = None
    """How their model is made smaller; null: as the scenario says, off: not at all."""


class Server(Section):
    """The server."""

    profile: Name = Field(examples=["rtx-a6000"])
    """A profile of `fedsim list profiles`, or the path of one."""
    link: Link | None = None
    """The server's own link, shared by all devices; null takes the profile's default."""


class Scheduler(Section):
    """The training system. Short form: its name."""

    name: Name = Field(examples=["fedavg"])
    """A scheduler of `fedsim list schedulers`, or `module:Class`."""
    options: Options = None
    """The scheduler itself: a frozen dataclass whose fields are keys of this section."""


class Optimizer(Section):
    """The optimizer on the devices and on the server. Short form: its name."""

    name: Name = "sgd"
    """Such as `sgd`."""
    options: Options = None
    """What the optimizer takes, such as `lr`, each a key of this section."""


class Training(Section):
    """How a step of training is done."""

    batch: Whole = Field(default=32, ge=1)
    """Samples in a step."""
    optimizer: Optimizer = Optimizer()
    """The optimizer on the devices and on the server."""
    dtype: Literal["float32", "float64"] = "float32"
    """The type of weights and activations."""
    optimizer_state: Literal["reset", "keep"] = "reset"
    """Whether a device's optimizer starts anew when it gets new weights."""
    drop_last: Switch = False
    """Whether a pass over a device's data leaves out its last batch, where that is not full and not the only one."""


class Auxiliary(Section):
    """The small network behind a device block that gives the device a loss of its own. Short form: its kind."""

    options: Options = None
    """What a head takes, each a key of this section."""


_TAKERS: Final = {"count": ("uniform", "over"), "fraction": ("fraction",), "over": ("over",)}
_EXAMPLES: Final = {"count": "count: 10", "fraction": "fraction: 10 %", "over": "over: 2"}


class Selection(Section):
    """Which devices take part in a round, and when it ends."""

    kind: Literal["all", "uniform", "fraction", "over"] = "all"
    """All of them, `count` drawn at random, a `fraction` drawn at random, or `count` and `over` more drawn at random,
    of which the first `count` to contribute complete the round."""
    count: Whole | None = Field(default=None, ge=1)
    """Devices a round, for kind uniform; contributions that complete it, for kind over."""
    fraction: Fraction | None = Field(default=None, gt=0, le=1)
    """The part of the fleet a round, for kind fraction."""
    over: Whole | None = Field(default=None, ge=1)
    """Devices that are asked beyond `count`, for kind over."""
    window: Duration | None = None
    """Time after which a round ends with those that contributed, of any kind; null: it has no such end."""

    @model_validator(mode="after")
    def _takes_what_its_kind_needs(self) -> Selection:
        """`count`, `fraction` and `over` are given where the kind needs them, and nowhere else."""
        for key, kinds in _TAKERS.items():
            given = getattr(self, key) is not None
            if given and self.kind not in kinds:
                takers = f"kinds {' and '.join(kinds)} take" if len(kinds) > 1 else f"kind {kinds[0]} takes"
                raise rule(f"only {takers} it, and the kind is {self.kind}; remove it", key)
            if not given and self.kind in kinds:
                raise rule(f"kind {self.kind} needs {key}; add it, as in '{_EXAMPLES[key]}'")
        return self


class Fault(Section):
    """A device that goes away and, maybe, comes back."""

    device: Whole = Field(ge=0, examples=[3])
    """The device's index in the fleet, from 0."""
    leave: Duration = Field(examples=["120 s"])
    """When it goes away."""
    return_: Duration | None = Field(default=None, alias="return")
    """When it comes back; null: never."""

    @model_validator(mode="after")
    def _returns_after_leaving(self) -> Fault:
        """`return` is later than `leave`."""
        if self.return_ is not None and self.return_ <= self.leave:
            raise rule("the device returns before it leaves; give a later time than leave", "return")
        return self


class Churn(Section):
    """When devices are there, from a recording."""

    availability: Recorded = Field(examples=["availability.csv"])
    """The recording; each device starts at its own moment of it."""


def _faults(value: object) -> str:
    return "<recorded>" if isinstance(value, dict | Churn) else "<listed>"


Faults = Annotated[
    Annotated[tuple[Fault, ...], Tag("<listed>")] | Annotated[Churn, Tag("<recorded>")], Discriminator(_faults)
]


class Until(Section):
    """When the run ends: whichever comes first; at least one."""

    rounds: Whole | None = Field(default=None, ge=1)
    """Rounds; for asynchronous systems, rounds x devices aggregations."""
    time: Duration | None = None
    """Time on the run's own clock."""
    accuracy: Fraction | None = Field(default=None, gt=0, le=1)
    """Accuracy on the test data."""
    loss: Number | None = Field(default=None, gt=0)
    """Loss on the test data, or less."""
    perplexity: Number | None = Field(default=None, gt=1)
    """Perplexity on the test data, or less."""

    @model_validator(mode="after")
    def _ends(self) -> Until:
        """At least one of these is given."""
        if all(getattr(self, key) is None for key in Until.model_fields):
            raise rule(f"nothing ends the run; give at least one of {', '.join(Until.model_fields)}")
        return self


class Evaluate(Section):
    """When and on how much the model is tested."""

    every: Duration | None = None
    """Time between evaluations; null: until.time / 50, else at each new global model."""
    samples: Literal["all"] | Annotated[Whole, Field(ge=1)] = "all"
    """Test samples; a number takes a seeded subset."""


def _stretch(value: object) -> object:
    if isinstance(value, str) and value != "auto":
        raise wanted("a number, or auto")
    return value


Count = Annotated[
    Annotated[Literal["auto"], Tag("<auto>")]
    | Annotated[Whole, BeforeValidator(_stretch), Field(ge=1, le=4096), Tag("<number>")],
    Discriminator(lambda value: "<auto>" if value == "auto" else "<number>"),
]


class Workers(Section):
    """What does the real work of a simulation. None of it changes virtual time."""

    kind: Literal["inline", "ray"] = "inline"
    """Inline: in this process; ray: in a pool of processes."""
    count: Count = "auto"
    """Processes of a pool; auto: as many as there are cores for, or GPUs, where those compute."""
    threads: Whole = Field(default=1, ge=1, le=4096)
    """Threads inside an operation; part of what makes a run reproducible to the bit."""
    processor: Literal["cpu", "cuda"] = "cpu"
    """What computes: the CPU, or an NVIDIA GPU, which workers of a pool share evenly; it rounds differently."""
    memory_format: Literal["channels_last", "default"] = "channels_last"
    """The layout of images in memory; channels_last is faster on most machines and rounds differently."""


Dilation = Annotated[
    Annotated[Literal["auto"], Tag("<auto>")]
    | Annotated[Number, BeforeValidator(_stretch), Field(gt=0, le=1000), Tag("<number>")],
    Discriminator(lambda value: "<auto>" if value == "auto" else "<number>"),
]


class Emulation(Section):
    """How a run on the wall clock is done. Changes nothing of a simulation."""

    dilation: Dilation = 1.0
    """Real seconds a second of the scenario: compute, links and timeouts are slowed alike; auto takes the smallest of
    1, 2, 5, 10, ... up to 1,000 that this host can carry."""
    shaping: Switch = True
    """Whether links are kept to their rates and latencies; off where the network is a real one."""
    limit: Duration = 1800.0
    """The longest that the run may be expected to take on the wall clock."""
    checksum: Literal["crc32", "off"] = "crc32"
    """Of what messages carry."""
    inbox: Annotated[Size, Field(ge=2**20)] = 64 * 2.0**20
    """Bytes that may wait to be sent to one node; a sender of more waits."""
    restarts: Whole = Field(default=0, ge=0, le=1000)
    """How often each device whose process has died is started again; it comes back as one that had left."""


class Scenario(Section):
    """A whole scenario, checked, with every default in place; `load` makes it."""

    name: Identifier = Field(examples=["eight-boards"])
    """The run's name; by default that of the file."""
    seed: Whole = Field(default=0, ge=0, lt=2**63)
    """All that is random follows from it."""
    model: Model = Field(examples=["vgg5"])
    """The network, and where it is cut."""
    data: Data = Field(examples=["digits"])
    """The data and how they are spread."""
    fleet: tuple[Group, ...] = Field(min_length=1, examples=["[{profile: raspberry-pi-4b, count: 4}]"])
    """The devices, in groups; their indices count through the groups, from 0."""
    server: Server = Field(examples=["{profile: rtx-a6000}"])
    """The server."""
    scheduler: Scheduler = Field(examples=["fedavg"])
    """The training system."""
    training: Training = Training()
    """How a step of training is done."""
    auxiliary: Auxiliary = Auxiliary()
    """The head of schedulers that train devices by a local loss."""
    pruning: Pruning | None = None
    """How the devices' model is made smaller before it is deployed; null: not at all, unless groups say so."""
    norm: Literal["bn", "gn", "frozen_bn"] = "bn"
    """Batch or group normalisation, or batch normalisation by fixed statistics, in models that normalise."""
    selection: Selection = Selection()
    """Which devices take part in a round."""
    codec: Codec = Codec()
    """How payloads are written for the link."""
    network: Network = Network()
    """How messages flow."""
    access: dict[Name, AccessPoint] = Field(default_factory=dict)
    """Capacities that groups of devices share, by name."""
    faults: Faults = ()
    """Devices that go away and come back: a list, or a recording."""
    on_oom: Literal["refuse", "leave", "record"] = "refuse"
    """What happens where memory does not suffice: the run is refused, the device leaves, or it is only recorded."""
    until: Until = Field(examples=["{rounds: 100}"])
    """When the run ends."""
    evaluate: Evaluate = Evaluate()
    """When and on how much the model is tested."""
    mode: Literal["simulate", "emulate"] = "simulate"
    """Simulate: on a virtual clock. Emulate: on the wall clock, a process a node, with real links between them."""
    learning: Switch = True
    """Off: timing only, nothing is trained."""
    workers: Workers = Workers()
    """What does the real work."""
    emulation: Emulation = Emulation()
    """How a run on the wall clock is done."""
    strict: Switch = False
    """Whether an emulation that was not faithful fails."""

    _places: Places = PrivateAttr(default_factory=lambda: Places(SCENARIO))

    def __hash__(self) -> int:
        """Of some of what makes two scenarios equal; a mapping, such as `access`, has no hash of its own."""
        return hash((self.name, self.seed, self.fleet, self.server, self.until))

    @property
    def devices(self) -> int:
        """How many devices the fleet has."""
        return sum(group.count for group in self.fleet)

    @property
    def listed_faults(self) -> tuple[Fault, ...]:
        """The faults that are written out; none where they come from a recording."""
        return () if isinstance(self.faults, Churn) else self.faults

    def where(self, *path: str | int) -> str:
        """Where a value was given, for the end of a message: `(x.yaml, line 8)`."""
        return self._places.where(path)

    def placed(self, places: Places) -> Scenario:
        """The same scenario, which knows where its values were given."""
        copy = self.model_copy()
        copy._places = places
        return copy
