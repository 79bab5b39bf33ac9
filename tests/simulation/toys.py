"""A toy world for scripts that run directly on the engine: one MAC takes a nanosecond, times are whole seconds.

Whatever a test does, `World.run` checks afterwards that the trace adds up and that every coroutine is closed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.report import check_identity
from fedsim.script import (
    SERVER,
    Command,
    Message,
    Part,
    Payload,
    Port,
    Purpose,
    Quality,
    Role,
    Work,
)
from fedsim.simulation import Ending, Fault, Ledger, Limits, Shortage, Simulation
from fedsim.trace import Mark, Node, Span, Trace, Transfer, Wait

S = 1_000_000_000
ENVELOPE = 64


@dataclass(frozen=True, slots=True)
class Go(Message):
    """Begin, with a number."""

    role: ClassVar[Role] = Role.MODEL
    number: int = 0


@dataclass(frozen=True, slots=True)
class Done(Message):
    """Here is what came of it."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    number: int = 0


@dataclass(frozen=True, slots=True)
class Ask(Message):
    """May I?"""

    role: ClassVar[Role] = Role.CREDIT
    number: int = 0


@dataclass(frozen=True, slots=True)
class Cargo(Message):
    """Bytes."""

    role: ClassVar[Role] = Role.ACTIVATIONS
    values: Payload
    more: tuple[Payload, ...] = ()


@dataclass(frozen=True, slots=True)
class Bytes:
    """The meta of a toy payload."""

    purpose: Purpose
    nbytes: int


def payload(nbytes: int, purpose: Purpose = Purpose.WEIGHTS, node: int = SERVER, number: int = 1) -> Payload:
    """A handle on nothing that weighs `nbytes`."""
    return Payload(node, number, Bytes(purpose, nbytes))


def part(seconds: float, kind: str = "step", samples: int = 0) -> Part:
    """A span that takes so many seconds."""
    macs = round(seconds * S)
    return Part(kind, Cost((Operator(OpClass.LINEAR, Phase.FORWARD, macs, 0),)), samples)


def work(me: Port | int, *seconds: float, result: Any = None, samples: int = 0, method: str = "train") -> Work[Any]:
    """A work of this node with a part for each number of seconds."""
    node = me if isinstance(me, int) else me.node
    parts = tuple(part(s, samples=samples) for s in seconds)
    return Work(Command(node, 1, method), parts, result)


def price(_node: int, cost: Cost, _start: int) -> int:
    """A nanosecond a MAC, on every node."""
    return cost.macs


class AtOnce:
    """What a network needs beside `submit` where it never has anything to announce."""

    def next(self) -> int | None:
        """Never."""
        return None

    def step(self, now: int) -> list[tuple[int, int, int]]:
        """Nothing."""
        return []

    def reset(self, now: int, node: int) -> list[tuple[int, int | None]]:
        """Nothing."""
        return []

    def under_way(self) -> list[tuple[int, int | None]]:
        """Nothing."""
        return []


@dataclass
class Delay(AtOnce):
    """Every message takes `seconds`, and `per_byte` seconds more for each byte; connections do not queue."""

    seconds: float = 0.0
    per_byte: float = 0.0
    resets: list[int] = field(default_factory=list)

    def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
        """After the delay."""
        flows = now + round(self.seconds * S)
        return flows, flows + round(self.per_byte * nbytes * S)

    def reset(self, now: int, node: int) -> list[tuple[int, int | None]]:
        """Remember that it was asked for."""
        self.resets.append(node)
        return []


@dataclass
class Diary:
    """Workers that write down what they are told; `qualities` are given out in turn, the last one again and again."""

    qualities: Sequence[float] = ()
    told: list[tuple[Any, ...]] = field(default_factory=list)
    evaluated: list[tuple[tuple[Payload, ...], str]] = field(default_factory=list)

    def start(self, node: int, commands: Sequence[Command]) -> None:
        """Write it down."""
        self.told.append(("start", node, tuple(command.method for command in commands)))

    def finish(self, node: int) -> None:
        """Write it down."""
        self.told.append(("finish", node))

    def queue(self, command: Command) -> None:
        """Write it down."""
        self.told.append(("queue", command.node, command.method))

    def forget(self, node: int) -> None:
        """Write it down."""
        self.told.append(("forget", node))

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality | None:
        """The next quality, or None where there are none."""
        if not self.qualities:
            return None
        self.evaluated.append((tuple(model), split))
        accuracy = self.qualities[min(len(self.evaluated), len(self.qualities)) - 1]
        return Quality(accuracy, 1 - accuracy, 100)


Script = Callable[[Port], Coroutine[Any, Any, Any]]


async def idle(me: Port) -> None:
    """A device that does nothing and ends."""


@dataclass
class World:
    """A run and, afterwards, what its trace says; times in seconds."""

    server: Script
    device: Script = idle
    devices: int = 1
    network: Any = field(default_factory=Delay)
    workers: Any = field(default_factory=Diary)
    limits: Limits = field(default_factory=Limits)
    lanes: dict[int, int] = field(default_factory=dict)
    faults: Sequence[Fault] = ()
    churn: dict[int, Iterator[Fault]] | None = None
    memory: Ledger | None = None
    shortage: Shortage = Shortage.REFUSE
    price: Callable[[int, Cost, int], int] = price
    coroutines: list[Any] = field(default_factory=list)
    observed: list[tuple[str, float]] = field(default_factory=list)
    simulation: Simulation = field(init=False)

    def __post_init__(self) -> None:
        table = [Node(k, f"node {k}", "toy", 0, self.lanes.get(k, 1), 0, 0.0, 0.0, 0.0) for k in self.nodes]
        self.simulation = Simulation(
            trace=Trace(table, {}),
            server=self._kept(self.server),
            device=self._kept(self.device),
            devices=self.devices,
            price=self.price,
            network=self.network,
            workers=self.workers,
            limits=self.limits,
            lanes=self.lanes,
            faults=self.faults,
            churn=self.churn,
            memory=self.memory,
            shortage=self.shortage,
            observe=lambda name, value: self.observed.append((name, value)),
        )

    @property
    def nodes(self) -> Iterable[int]:
        """All node numbers."""
        return range(SERVER, self.devices)

    def _kept(self, script: Script) -> Script:
        def make(me: Port) -> Coroutine[Any, Any, Any]:
            made = script(me)
            self.coroutines.append(made)
            return made

        return make

    def run(self) -> Ending:
        """Run, then check what must hold after every run, however it ended."""
        try:
            return self.simulation.run()
        finally:
            check_identity(self.trace)
            self.check_closed()

    def check_closed(self) -> None:
        """Every coroutine is closed."""
        made = [one for one in self.coroutines if inspect.iscoroutine(one)]
        assert [inspect.getcoroutinestate(one) for one in made] == [inspect.CORO_CLOSED] * len(made)

    def fail(self, error: type[BaseException], match: str | None = None) -> str:
        """Run and expect an error; answers with its text."""
        with pytest.raises(error, match=match) as caught:
            self.run()
        return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])

    @property
    def trace(self) -> Trace:
        """The records."""
        return self.simulation.trace

    @property
    def end(self) -> float:
        """When it ended."""
        return self.trace.end / S

    def spans(self, node: int) -> list[tuple[float, float]]:
        """When a node computed."""
        return [(s.start / S, s.end / S) for s in self.all_spans(node)]

    def all_spans(self, node: int) -> list[Span]:
        """What a node computed."""
        return [s for s in map(Span._make, self.trace.spans) if s.node == node]

    def waits(self, node: int) -> list[tuple[float, float, str]]:
        """When a node waited, and for what roles."""
        return [(w.start / S, w.end / S, w.awaited) for w in self.all_waits(node)]

    def all_waits(self, node: int) -> list[Wait]:
        """The waits of a node."""
        return [w for w in map(Wait._make, self.trace.waits) if w.node == node]

    def transfers(self) -> list[tuple[str, int, int, float, float, str]]:
        """Class, sender, receiver, moment of the send, arrival and outcome of every message."""
        return [(t.message, t.source, t.target, t.queued / S, t.arrived / S, t.outcome) for t in self.all_transfers()]

    def all_transfers(self) -> list[Transfer]:
        """Every message."""
        return [Transfer._make(row) for row in self.trace.transfers]

    def marks(self, *names: str) -> list[tuple[str, int, float]]:
        """Name, node and time of every mark with one of these names, in the order of recording."""
        found = map(Mark._make, self.trace.marks)
        return [(m.name, m.node, m.time / S) for m in found if not names or m.name in names]

    def lists(self) -> tuple[list[tuple[Any, ...]], ...]:
        """All records, to be compared with those of another run."""
        return (self.trace.spans, self.trace.transfers, self.trace.waits, self.trace.marks)
