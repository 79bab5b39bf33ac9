"""Orders for hosts in other processes: commands as bytes, numbers in the place of handles, and what goes with them.

Handles are recognised wherever they stand in the arguments of a command. A meta is sent once to each host.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.script import Command, Meta, Payload

Key = tuple[int, int]
"""Of a payload: its node, its number."""


def key_of(payload: Payload) -> Key:
    """The key of a payload, by which all processes of a run know it."""
    return payload.node, payload.number


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command, which is encoded."""

    command: bytes


@dataclass(frozen=True, slots=True)
class Take:
    """Take in a value of another host, which is part `part` of the call."""

    payload: bytes
    part: int


@dataclass(frozen=True, slots=True)
class Give:
    """Give a value to other hosts: one more answer of the call."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class GiveSums:
    """Give what has been summed up for a node's mean, which another host has: one more answer of the call."""

    node: int
    number: int
    runs: Sequence[int] | None
    """Of these runs, which are complete; None: all that is left, and the mean is gone then."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Let go of nodes, which go on in another host: one more answer of the call."""

    nodes: list[int]


@dataclass(frozen=True, slots=True)
class Join:
    """Take in what another host has summed up for a node's mean, which is part `part` of the call."""

    node: int
    number: int
    part: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Take in nodes that another host has let go of, which are part `part` of the call."""

    part: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Let go of payloads, which nobody will name again."""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop what a node holds: it has left."""

    node: int


Order = Run | Take | Give | GiveSums | Join | Leave | Settle | Drop | Forget


class Encoder:
    """Commands for one host."""

    def __init__(self) -> None:
        self._metas: dict[int, tuple[int, Meta]] = {}  # with the meta itself, so that no other one gets its id
        self._fresh: list[Meta] = []

    def encode(self, command: Command) -> tuple[bytes, list[Payload]]:
        """A command, and the payloads that it names, its output among them."""
        found: list[Payload] = []
        file = io.BytesIO()
        parts = (command.node, command.learner, command.method, command.args, command.output)
        _Pickler(file, self._number, found).dump(parts)
        return file.getvalue(), found

    def payloads(self, payloads: tuple[Payload, ...]) -> bytes:
        """Some payloads."""
        file = io.BytesIO()
        _Pickler(file, self._number, []).dump(payloads)
        return file.getvalue()

    def fresh(self) -> list[Meta]:
        """The metas that the host does not know yet, which are to go before what was encoded."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def _number(self, meta: Meta) -> int:
        known = self._metas.get(id(meta))
        if known is None:
            known = self._metas[id(meta)] = (len(self._metas), meta)
            self._fresh.append(meta)
        return known[0]


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, number: Callable[[Meta], int], found: list[Payload]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._number = number
        self._found = found

    def persistent_id(self, obj: Any) -> tuple[int, int, int] | None:
        """Numbers in the place of a payload."""
        if type(obj) is not Payload:
            return None
        self._found.append(obj)
        return obj.node, obj.number, self._number(obj.meta)


class Decoder:
    """What an `Encoder` has made, with the handles of this process."""

    def __init__(self) -> None:
        self._metas: list[Meta] = []
        self._handles: dict[Key, Payload] = {}

    def learn(self, metas: list[Meta]) -> None:
        """Metas that are new."""
        self._metas += metas

    def command(self, data: bytes) -> Command:
        """A command."""
        node, learner, method, args, output = _Unpickler(io.BytesIO(data), self._handle).load()
        return Command(node, learner, method, args, output)

    def payloads(self, data: bytes) -> tuple[Payload, ...]:
        """Some payloads."""
        found: tuple[Payload, ...] = _Unpickler(io.BytesIO(data), self._handle).load()
        return found

    def drop(self, key: Key) -> None:
        """Let go of a handle: nobody will name it again."""
        self._handles.pop(key, None)

    def _handle(self, node: int, number: int, meta: int) -> Payload:
        known = self._handles.get((node, number))
        if known is None:
            known = self._handles[node, number] = Payload(node, number, self._metas[meta])
        return known


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, handle: Callable[[int, int, int], Payload]) -> None:
        super().__init__(file)
        self._handle = handle

    def persistent_load(self, pid: Any) -> Payload:
        """The payload of these numbers."""
        return self._handle(*pid)
