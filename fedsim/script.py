"""What a scheduler's script may say: effects to await, messages to exchange, works to order.

The one rule: everything that takes time is awaited, and nothing else is. A script is an `async def` that awaits
`Effect`s; a runtime interprets them on the virtual clock or on the wall clock. This module knows costs and the
standard library only: no clock, no transport, no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, overload, runtime_checkable

from fedsim.costs import Cost

SERVER: Final = -1
"""Node number of the server; devices are numbered from 0."""

UNSENT: Final = -2
"""Sender of a message that has not been sent yet."""

T = TypeVar("T")
M = TypeVar("M", bound="Message")
M_contra = TypeVar("M_contra", bound="Message", contravariant=True)


# ---------------------------------------------------------------------------------------------- payloads


class Purpose(StrEnum):
    """What the bytes of a payload are; reports count them apart."""

    WEIGHTS = "weights"
    ACTIVATIONS = "activations"
    GRADIENTS = "gradients"
    LABELS = "labels"
    CONTROL = "control"


class Meta(Protocol):
    """What is known of a payload without its values."""

    @property
    def purpose(self) -> Purpose:
        """What its bytes are."""
        ...

    @property
    def nbytes(self) -> int:
        """Exact bytes of its tensors."""
        ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Payload:
    """A handle on tensors that live with a node's host; scripts pass it on and never look inside.

    The host drops the tensors when the last handle is gone.
    """

    node: int
    number: int
    meta: Meta

    @property
    def nbytes(self) -> int:
        """Exact bytes of the tensors, known before they exist."""
        return self.meta.nbytes


# ---------------------------------------------------------------------------------------------- messages


class Role(StrEnum):
    """What a message is for; idle time is attributed by the roles that a node waits for."""

    MODEL = "model"
    CONTRIBUTION = "contribution"
    ACTIVATIONS = "activations"
    GRADIENT = "gradient"
    CREDIT = "credit"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages: frozen dataclasses whose fields are payloads and scalars.

    `sender` is filled in by the runtime when the message is sent.
    """

    role: ClassVar[Role]
    sender: int = field(default=UNSENT, kw_only=True)


@dataclass(frozen=True, slots=True)
class Disconnected(Message):
    """The runtime's notice that a device has left. It waits in the mailbox and interrupts nothing."""

    role: ClassVar[Role] = Role.CONTROL
    device: int


@dataclass(frozen=True, slots=True)
class Connected(Message):
    """The runtime's notice that a device that had left is back, with a fresh script."""

    role: ClassVar[Role] = Role.CONTROL
    device: int


@dataclass(frozen=True, slots=True)
class Timeout:
    """What `recv(..., until=t)` returns when nothing came before t."""


_SCALARS: Final = frozenset({"int", "float", "str", "bool", "None"})


def payload_fields(kind: type[Message]) -> tuple[str, ...]:
    """Names of the fields of a message class that may hold payloads, in order of declaration: all but plain scalars."""
    declared = ((f.name, f.type if isinstance(f.type, str) else f.type.__name__) for f in fields(kind))
    return tuple(name for name, text in declared if not _SCALARS.issuperset(text.replace("|", " ").split()))


def payloads(message: Message, names: Iterable[str] | None = None) -> list[Payload]:
    """The payloads that a message carries, alone or in tuples, lists and mappings, in order of declaration.

    `names` are the fields to look into, where the caller has kept what `payload_fields` says of the class.
    """
    found: list[Payload] = []
    for name in payload_fields(type(message)) if names is None else names:
        value = getattr(message, name)
        if type(value) is Payload:
            found.append(value)
        else:
            _collect(value, found)
    return found


def _collect(value: object, found: list[Payload]) -> None:
    if isinstance(value, Payload):
        found.append(value)
    elif isinstance(value, Mapping):
        _collect(tuple(value.values()), found)
    elif isinstance(value, tuple | list):
        for item in value:
            _collect(item, found)


# ------------------------------------------------------------------------------------------------- works


@dataclass(frozen=True, slots=True)
class Command:
    """A named call on a learner of one node. Commands of a node run in the order in which scripts made them.

    `holds` is how many bytes more (or fewer) the node holds from then on: weights, gradients, optimizer state, sums.
    """

    node: int
    learner: int
    method: str
    args: tuple[object, ...] = ()
    output: Payload | None = None
    holds: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One span of a work: what the node is doing, what it costs and how many samples it trains.

    `memory` is what it needs while it runs, in bytes beside what the node holds: its batch, and what a backward needs of
    the forward. `keeps` is what it leaves behind: above 0 after a forward whose backward is yet to come, as much below
    0 after that backward.
    """

    kind: str
    cost: Cost
    samples: int = 0
    memory: int = 0
    keeps: int = 0


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """A command that takes time. Its result is a handle, so it is known before the work has run."""

    command: Command
    parts: tuple[Part, ...]
    result: T


# ----------------------------------------------------------------------------------------------- effects


class Effect(Generic[T]):
    """Something that takes time. Awaiting it hands it to the runtime, which answers with a `T`.

    Effects are values: nobody changes one. They are not frozen, since that makes them four times as dear to make,
    and every await makes one.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Effect[T], T, T]:
        return (yield self)


@dataclass(slots=True)
class Compute(Effect[T]):
    """Run works of this node; `single` tells whether the answer is one result or a tuple."""

    works: tuple[Work[Any], ...]
    single: bool


@dataclass(slots=True)
class Send(Effect[None]):
    """Queue a message for each of `to`; the transfer overlaps whatever the script does next.

    Where it is `blocking`, the script waits until every copy has arrived, or is lost.
    """

    to: tuple[int, ...]
    message: Message
    blocking: bool = False


@dataclass(slots=True)
class Recv(Effect[T]):
    """Wait for a message of one of `kinds`."""

    kinds: tuple[type[Message], ...]
    source: int | None
    by: Callable[[Any], Any] | None
    until: float | None


@dataclass(slots=True)
class Sleep(Effect[None]):
    """Let `seconds` pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Quality:
    """A model's quality on a split of the data: `accuracy` in 0-1 and mean `loss` over `samples`."""

    accuracy: float
    loss: float
    samples: int
    variants: tuple[Quality, ...] = ()
    """Of each variant, where these are models of their own; the quality is then what a device has on average."""


@dataclass(slots=True)
class Evaluate(Effect[Quality]):
    """Measure a model on held-out data: zero virtual time, one journalled answer."""

    model: tuple[Payload, ...]
    split: str = "validation"


@overload
def compute(work: Work[T], /) -> Effect[T]: ...
@overload
def compute(work: Work[T], /, *more: Work[T]) -> Effect[tuple[T, ...]]: ...
def compute(work: Work[Any], /, *more: Work[Any]) -> Effect[Any]:
    """Run a work of this node, or several together on up to its lanes; answers with their results."""
    return Compute((work, *more), single=not more)


def send(to: int, message: Message, *, blocking: bool = False) -> Effect[None]:
    """Queue `message` for node `to`; returns when it is queued or, where that is `blocking`, has arrived."""
    return Send((to,), message, blocking)


M1 = TypeVar("M1", bound=Message)
M2 = TypeVar("M2", bound=Message)
M3 = TypeVar("M3", bound=Message)
M4 = TypeVar("M4", bound=Message)


# fmt: off
@overload
def recv(k1: type[M1], /, *, source: int | None = None, by: Callable[[M1], Any] | None = None) -> Effect[M1]: ...
@overload
def recv(k1: type[M1], /, *, source: int | None = None, by: Callable[[M1], Any] | None = None, until: float) -> Effect[M1 | Timeout]: ...
@overload
def recv(k1: type[M1], k2: type[M2], /, *, source: int | None = None, by: Callable[[M1 | M2], Any] | None = None) -> Effect[M1 | M2]: ...
@overload
def recv(k1: type[M1], k2: type[M2], /, *, source: int | None = None, by: Callable[[M1 | M2], Any] | None = None, until: float) -> Effect[M1 | M2 | Timeout]: ...
@overload
def recv(k1: type[M1], k2: type[M2], k3: type[M3], /, *, source: int | None = None, by: Callable[[M1 | M2 | M3], Any] | None = None) -> Effect[M1 | M2 | M3]: ...
@overload
def recv(k1: type[M1], k2: type[M2], k3: type[M3], /, *, source: int | None = None, by: Callable[[M1 | M2 | M3], Any] | None = None, until: float) -> Effect[M1 | M2 | M3 | Timeout]: ...
@overload
def recv(k1: type[M1], k2: type[M2], k3: type[M3], k4: type[M4], /, *, source: int | None = None, by: Callable[[M1 | M2 | M3 | M4], Any] | None = None) -> Effect[M1 | M2 | M3 | M4]: ...
@overload
def recv(k1: type[M1], k2: type[M2], k3: type[M3], k4: type[M4], /, *, source: int | None = None, by: Callable[[M1 | M2 | M3 | M4], Any] | None = None, until: float) -> Effect[M1 | M2 | M3 | M4 | Timeout]: ...
# fmt: on
def recv(
    *kinds: type[Message],
    source: int | None = None,
    by: Callable[[Any], Any] | None = None,
    until: float | None = None,
) -> Effect[Any]:
    """Wait for a message of one of `kinds`.

    Args:
        source: take only messages of this node.
        by: among the waiting messages take the one that this key ranks lowest; ties, and no key, go by arrival.
            The key of a waiting message may grow with time, never fall.
        until: moment (seconds of the run's clock) at which the answer becomes `Timeout()`.
    """
    return Recv(kinds, source, by, until)


def sleep(seconds: float) -> Effect[None]:
    """Let `seconds` of the run's clock pass."""
    return Sleep(seconds)


async def broadcast(to: Iterable[int], make: Message | Callable[[int], Message]) -> None:
    """Send a message to every node of `to`: one message for all, or `make(node)` for each.

    Neighbours for whom the same message is made get it as one.
    """
    if isinstance(make, Message):
        await Send(tuple(to), make)
        return
    for message, nodes in groupby(((make(node), node) for node in to), key=itemgetter(0)):
        await Send(tuple(node for _, node in nodes), message)


class Collector(Protocol[M_contra]):
    """Takes in contributions one by one, as a running mean does."""

    def add(self, message: M_contra, /) -> None:
        """Take one in."""
        ...


@overload
async def gather(nodes: Iterable[int], kind: type[M]) -> list[M]: ...
@overload
async def gather(nodes: Iterable[int], kind: type[M], *, into: Collector[M]) -> list[int]: ...
async def gather(nodes: Iterable[int], kind: type[M], *, into: Collector[M] | None = None) -> list[M] | list[int]:
    """One message of `kind` from each of `nodes`; a node that leaves is no longer waited for.

    Returns the messages by node number or, with `into`, only the numbers of the nodes that delivered, so that no
    message is kept alive.
    """
    missing = set(nodes)
    messages: list[M] = []
    delivered: list[int] = []
    while missing:
        message = await recv(kind, Disconnected)
        if isinstance(message, Disconnected):
            missing.discard(message.device)
        elif message.sender in missing:
            missing.discard(message.sender)
            delivered.append(message.sender)
            if into is None:
                messages.append(message)
            else:
                into.add(message)
    if into is None:
        return sorted(messages, key=lambda m: m.sender)
    return sorted(delivered)


# --------------------------------------------------------------------------------- runtime and scheduler


@runtime_checkable
class Port(Protocol):
    """What a runtime gives a node besides the interpretation of effects: plain calls that take no time."""

    @property
    def node(self) -> int:
        """This node's number."""
        ...

    @property
    def now(self) -> float:
        """Seconds since the start of the run, on the run's own clock."""
        ...

    @property
    def absent(self) -> Collection[int]:
        """The devices that have left and not come back."""
        ...

    def poll(self, *kinds: type[Message]) -> Message | None:
        """Take the first waiting message of `kinds`, or nothing, at once."""
        ...

    def arrived(self, kind: type[Message]) -> list[Message]:
        """The messages of `kind` that have come since this was last asked, whether they still wait or not."""
        ...

    def outgoing(self, kind: type[Message]) -> int:
        """How many messages of `kind` that this node has sent, since it first asked, have not been delivered."""
        ...

    def drop(self, message: Message) -> None:
        """Take a message that waits out of the mailbox without looking at it; nothing, if it does not wait."""
        ...

    def command(self, command: Command) -> None:
        """Queue a command that takes no time behind everything this node has been told so far."""
        ...

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Record a moment in the trace."""
        ...

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Name the current global model."""
        ...


D_contra = TypeVar("D_contra", contravariant=True)
S_contra = TypeVar("S_contra", contravariant=True)


class Scheduler(Protocol[D_contra, S_contra]):
    """A training system: two scripts and what it needs of the model. A frozen dataclass of its options.

    It may also say, as class attributes or properties: `local_loss`, that devices train through an auxiliary head;
    `shared`, that one server block takes the batches of all devices, in the place of a copy each; `takes_all`, that the
    scenario's `selection` means nothing to it; `validates`, that held-out results decide something;
    `needs_labels`, that it goes by which labels devices hold; `fresh_rounds`, that devices begin each round of
    `me.round` with weights of that round, and keep none from one to the next. A method `buffered(job)` gives the samples whose
    activations the server may hold at once; `check(training)` raises a `ValueError` for a way to train that the system
    cannot do with; `settled(job)` answers with the same system with what was left open written out, such as a number
    that follows from that of the devices, and raises a `UserError` for one that is impossible.
    """

    splits: ClassVar[bool]
    """Whether the model is cut into a device block and a server block."""
    messages: ClassVar[tuple[type[Message], ...]]
    """Every message class that the two scripts exchange."""

    async def device(self, me: D_contra, /) -> None:
        """What a device does."""
        ...

    async def server(self, me: S_contra, /) -> None:
        """What the server does; the run ends when it returns."""
        ...
