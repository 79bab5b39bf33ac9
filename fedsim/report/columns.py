"""The records of a trace as numpy columns, nodes numbered by their row in the node table.

The one place where tuples become arrays; every measure starts from here. Knows nothing of what the columns mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsim.errors import AccountingError
from fedsim.records import Words
from fedsim.script import SERVER
from fedsim.trace import PURPOSES, Mark, Node, Span, Stay, Trace, Transfer, Wait, columns

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

SECOND = 1e9  # in the nanoseconds of a trace


@dataclass(frozen=True, slots=True)
class Spans:
    """Columns of `Span`."""

    node: Ints
    lane: Ints
    kind: Words
    start: Ints
    end: Ints
    macs: Ints
    forward_macs: Ints
    samples: Ints
    wasted: Bools
    head_macs: Ints


@dataclass(frozen=True, slots=True)
class Transfers:
    """Columns of `Transfer`; `bytes` has a row a purpose, in the order of `PURPOSES`."""

    number: Ints
    source: Ints
    target: Ints
    message: Words
    role: Words
    bytes: Ints
    queued: Ints
    started: Ints
    arrived: Ints
    outcome: Words
    round: Ints

    def rows(self, numbers: Ints) -> Ints:
        """Where the transfers with these numbers stand; -1 for a number that no transfer has."""
        if not len(self.number):
            return np.full(len(numbers), -1, np.int64)
        order = np.argsort(self.number, kind="stable")
        at = np.minimum(np.searchsorted(self.number[order], numbers), len(order) - 1)
        found: Ints = np.where(self.number[order[at]] == numbers, order[at], -1)
        return found


@dataclass(frozen=True, slots=True)
class Waits:
    """Columns of `Wait`."""

    node: Ints
    start: Ints
    end: Ints
    awaited: Words
    message: Ints


@dataclass(frozen=True, slots=True)
class Stays:
    """Columns of `Stay`."""

    node: Ints
    start: Ints
    end: Ints
    message: Ints


@dataclass(frozen=True, slots=True)
class Marks:
    """Columns of `Mark`, in the order of recording; nodes by their numbers."""

    node: Ints
    time: Ints
    name: Words
    value: npt.NDArray[np.float64]
    detail: Words


class NodeTable:
    """The node table: node numbers to rows."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        numbers = np.fromiter((node.number for node in nodes), np.int64, len(nodes))
        self._order = np.argsort(numbers, kind="stable")
        self._numbers = numbers[self._order]

    def rows(self, numbers: npt.ArrayLike) -> Ints:
        """The rows of the nodes with these numbers.

        Raises:
            AccountingError: a node is not in the table.
        """
        numbers = np.asarray(numbers, np.int64)
        if not len(numbers):
            return numbers
        if not len(self._numbers):
            raise AccountingError(f"node {numbers[0]} has records but is not in the node table, which is empty")
        at = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        strangers = self._numbers[at] != numbers
        if strangers.any():
            raise AccountingError(f"node {numbers[strangers][0]} has records but is not in the node table")
        found: Ints = self._order[at]
        return found


@dataclass(frozen=True, slots=True)
class Columns:
    """A trace in columns. `server` is the row of the server in the node table, -1 where it is not in it."""

    nodes: Sequence[Node]
    table: NodeTable
    server: int
    end: int
    spans: Spans
    transfers: Transfers
    waits: Waits
    stays: Stays
    marks: Marks
    clock_bound: int = 0
    """Nanoseconds by which the clocks of nodes may disagree."""

    @property
    def devices(self) -> Bools:
        """The rows of the node table that are devices."""
        flags = np.ones(len(self.nodes), np.bool_)
        if self.server >= 0:
            flags[self.server] = False
        return flags

    def named(self, *names: str) -> list[Mark]:
        """The marks with these names, in the order of their recording."""
        marks = self.marks
        here = marks.name.among(*names)
        words = [marks.name.names[code] for code in marks.name.codes[here].tolist()]
        details = [marks.detail.names[code] for code in marks.detail.codes[here].tolist()]
        numbers = (marks.node[here].tolist(), marks.time[here].tolist(), words, marks.value[here].tolist(), details)
        return list(map(Mark, *numbers))

    def marked(self, name: str, *, by_value: bool = False) -> Ints:
        """How many marks of a name each node has, by row of the node table.

        Args:
            by_value: whether the value is the number of the node that a mark is about.
        """
        here = self.marks.name.among(name)
        nodes = self.marks.value[here].astype(np.int64) if by_value else self.marks.node[here]
        return np.bincount(self.table.rows(nodes), minlength=len(self.nodes)).astype(np.int64)

    def has(self, name: str) -> bool:
        """Whether there is a mark of a name."""
        return name in self.marks.name.names


def tabulate(trace: Trace) -> Columns:
    """The columns of a trace."""
    table = NodeTable(trace.nodes)
    servers = [row for row, node in enumerate(trace.nodes) if node.number == SERVER]
    return Columns(
        nodes=trace.nodes,
        table=table,
        server=servers[0] if servers else -1,
        end=trace.end,
        spans=_spans(columns(trace.spans, Span), table),
        transfers=_transfers(columns(trace.transfers, Transfer), table),
        waits=_waits(columns(trace.waits, Wait), table),
        stays=_stays(columns(trace.stays, Stay), table),
        marks=Marks(**columns(trace.marks, Mark)),
        clock_bound=trace.clock_bound,
    )


def _spans(found: dict[str, Any], table: NodeTable) -> Spans:
    return Spans(**{**found, "node": table.rows(found["node"])})


def _transfers(found: dict[str, Any], table: NodeTable) -> Transfers:
    return Transfers(
        number=found["number"],
        source=table.rows(found["source"]),
        target=table.rows(found["target"]),
        message=found["message"],
        role=found["role"],
        bytes=np.stack([found[purpose] for purpose in PURPOSES]),
        queued=found["queued"],
        started=found["started"],
        arrived=found["arrived"],
        outcome=found["outcome"],
        round=found["round"],
    )


def _waits(found: dict[str, Any], table: NodeTable) -> Waits:
    return Waits(
        node=table.rows(found["node"]),
        start=found["start"],
        end=found["end"],
        awaited=found["awaited"],
        message=found["message"],
    )


def _stays(found: dict[str, Any], table: NodeTable) -> Stays:
    return Stays(**{**found, "node": table.rows(found["node"])})
