"""What a node of an emulation is made of, whoever puts it together, and the one lock around its works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fedsim.emulation.exchange import Terms, Values
from fedsim.network.fluid import FluidNetwork
from fedsim.payload.coding import Value
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import Layout
from fedsim.runtime.conditions import Limits, Shortage
from fedsim.runtime.memory import Ledger
from fedsim.runtime.spans import Price
from fedsim.script import Command, Payload, Quality

if TYPE_CHECKING:
    from torch import Tensor

Script = Callable[[Any], Any]
"""Makes the coroutine of a node from its port."""

Absences = Callable[[int], Iterator[tuple[float, float | None]]]
"""When a device leaves and is back (None: never), in seconds, one after the other."""


class Host(Values, Protocol):
    """Does the works of a node, and holds what its payloads stand for; `learning.Host`."""

    def run(self, command: Command) -> None:
        """Run one command."""
        ...

    def forget(self, node: int) -> None:
        """Drop what a node holds, or, of another one, what is owed to it."""
        ...

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """Measure a model on a split of the data."""
        ...

    def model_tensors(self, model: Sequence[Payload]) -> dict[str, Tensor]:
        """A copy of a model's tensors by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A run as every one of its nodes knows it."""

    profiles: Sequence[str]
    """Of the devices, by number."""
    server: Script
    device: Script
    price: Price
    """Nanoseconds that a cost takes on a node, if it starts at a moment."""
    lanes: Mapping[int, int]
    """Works that a node runs at once, where it is more than one."""
    terms: Terms
    host: Host
    network: Callable[[], FluidNetwork]
    """A network with nothing under way."""
    shaped: bool
    """Whether links are kept to."""
    ledger: Callable[[], Ledger]
    shortage: Shortage
    limits: Limits
    absences: Absences
    inbox: int
    """Bytes that may wait to be sent to a node."""
    labels: Callable[[int], bytes]
    """A digest of the labels of the samples that a device holds."""
    supports: Callable[[int], str]
    """The digest of what a device's weights are of the model's: empty, where they are all of it."""
    scenario: str
    """The resolved scenario, as YAML: what a device builds its own parts from."""

    @property
    def devices(self) -> int:
        """How many there are."""
        return len(self.profiles)


class OneAtATime:
    """A host that does one thing at a time: its works, or what models are measured for.

    What messages bring and take is not held up by that, only by one another and by what is forgotten.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._values = threading.Lock()

    def run(self, command: Command) -> None:
        """Run one command."""
        with self._lock:
            self._host.run(command)

    def forget(self, node: int) -> None:
        """Drop what a node holds."""
        with self._lock, self._values:
            self._host.forget(node)

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """Measure a model."""
        with self._lock:
            return self._host.evaluate(model, split)

    def model_tensors(self, model: Sequence[Payload]) -> dict[str, Tensor]:
        """A copy of a model's tensors by name."""
        with self._lock:
            return self._host.model_tensors(model)

    def outgoing(self, payload: Payload, reader: int) -> Value:
        """What is to be encoded for a node."""
        with self._values:
            return self._host.outgoing(payload, reader)

    def incoming(self, values: Mapping[Payload, Value]) -> None:
        """Take in what has come."""
        with self._values:
            self._host.incoming(values)

    def layout_of(self, meta: TensorMeta) -> Layout:
        """How weights are to lie in memory."""
        return self._host.layout_of(meta)
