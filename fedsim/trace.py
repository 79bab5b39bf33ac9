"""The record of a run: spans of computing, transfers, waits and marks, in integer nanoseconds.

Everything a report says is a pure function of a `Trace`. This module knows neither who writes one nor who
reads it. Records are appended as plain tuples, column order as in the `*_FIELDS` below, and become columns only
when the trace is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

SCHEMA: Final = 1
PURPOSES: Final = ("weights", "activations", "gradients", "labels", "control")


class Span(NamedTuple):
    """Computing on one lane of a node. `round` counts the barriers that were opened before it, -1 for none."""

    node: int
    lane: int
    kind: str
    start: int
    end: int
    macs: int
    forward_macs: int
    samples: int
    wasted: bool


class Transfer(NamedTuple):
    """One message to one node.

    `queued` is the moment of the send, `started` that of its first byte, `arrived` that of its last one. Bytes by
    purpose are payload; `control` is the envelope. `outcome` is `delivered`, `in flight` or the reason of its loss.
    """

    number: int
    source: int
    target: int
    message: str
    role: str
    weights: int
    activations: int
    gradients: int
    labels: int
    control: int
    queued: int
    started: int
    arrived: int
    outcome: str


class Wait(NamedTuple):
    """A script that waited: for messages of some roles (joined by `|`), or asleep (`sleep`).

    `message` is the number of the transfer that ended it, -1 if none did.
    """

    node: int
    start: int
    end: int
    awaited: str
    source: int
    message: int


class Mark(NamedTuple):
    """A moment with a name: join, leave, end, round.open, round.close, publish, evaluate, …"""

    node: int
    time: int
    name: str
    value: float
    detail: str


@dataclass(frozen=True, slots=True)
class Node:
    """A row of the node table: who took part, on what hardware."""

    number: int
    name: str
    profile: str
    group: int
    lanes: int
    samples: int
    idle_watts: float
    busy_watts: float
    memory: float


@dataclass(slots=True)
class Trace:
    """Records of one run, with the table of its nodes and the resolved scenario."""

    nodes: Sequence[Node]
    scenario: Mapping[str, Any]
    spans: list[tuple[Any, ...]] = field(default_factory=list)
    transfers: list[tuple[Any, ...]] = field(default_factory=list)
    waits: list[tuple[Any, ...]] = field(default_factory=list)
    marks: list[tuple[Any, ...]] = field(default_factory=list)
    end: int = 0

    def mark(self, node: int, time: int, name: str, value: float = 0.0, detail: object = None) -> None:
        """Append a mark; `detail` is kept as JSON."""
        self.marks.append((node, time, name, value, "" if detail is None else json.dumps(detail)))


_RECORDS: Final = {"span": Span, "transfer": Transfer, "wait": Wait, "mark": Mark}
