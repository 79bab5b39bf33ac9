"""What each device has given: batches trained, activations offered, sent, skipped, rejected and consumed, and updates.

A device can be busy and useless, so these stand beside every figure of idle time. Counted from spans, transfers and the
marks `skipped` (of a device), `consumed` and `rejected` (of the server, with the device as their value).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from fedsim.report.columns import Bools, Columns, Ints
from fedsim.report.identity import DELIVERED
from fedsim.report.rounds import rounds
from fedsim.script import Role

STEPS: Final = ("trained", "offered", "sent", "skipped", "rejected", "consumed", "delivered")
"""The counts in the order in which a batch passes through them, and the updates."""


@dataclass(frozen=True, slots=True)
class Contributions:
    """Counts with an entry a row of the node table; None where the run has no such figure.

    A micro-batch counts as a batch. `sent` are activations queued, whatever became of them, and `offered` those and the
    `skipped` ones; a run whose model is not cut has none of them. `consumed` are batches on which the server block has
    taken a step, where the server says so, `delivered` the updates that arrived, those left out that came too late for
    their round.
    """

    trained: Ints
    delivered: Ints
    sent: Ints | None
    skipped: Ints | None
    rejected: Ints | None
    consumed: Ints | None

    @property
    def offered(self) -> Ints | None:
        """Batches whose activations a device has produced for the server."""
        if self.sent is None or self.skipped is None:
            return None
        total: Ints = self.sent + self.skipped
        return total

    @property
    def kind(self) -> Literal["consumed", "delivered"]:
        """What a contribution is here: a batch consumed, where the server counts them; else an update delivered."""
        return "delivered" if self.consumed is None else "consumed"

    @property
    def counts(self) -> Ints:
        """The contributions of each node."""
        return self.delivered if self.consumed is None else self.consumed


def contributions(columns: Columns) -> Contributions:
    """Count the contributions of a trace."""
    spans, sent, size = columns.spans, columns.transfers, len(columns.nodes)
    up = sent.target == columns.server
    updates = sent.outcome.among(DELIVERED) & up & sent.role.among(Role.CONTRIBUTION) & ~rounds(columns).late
    split = splits(columns)
    return Contributions(
        trained=_counted(spans.node[(spans.samples > 0) & ~spans.wasted], size),
        delivered=_counted(sent.source[updates], size),
        sent=_counted(sent.source[up & sent.role.among(Role.ACTIVATIONS)], size) if split else None,
        skipped=columns.marked("skipped") if split else None,
        rejected=columns.marked("rejected", by_value=True) if split else None,
        consumed=columns.marked("consumed", by_value=True) if columns.has("consumed") else None,
    )


def splits(columns: Columns) -> bool:
    """Whether the model is cut: somebody offered activations, a device trained a head, or the server trained."""
    spans = columns.spans
    on_devices: Bools = spans.node != columns.server
    return bool(
        columns.transfers.role.among(Role.ACTIVATIONS).any()
        or columns.has("skipped")
        or (spans.head_macs[on_devices] > 0).any()
        or (spans.samples[~on_devices] > 0).any()
    )


def jain(counts: Ints) -> float | None:
    """Jain's index (Σc)²/(KΣc²): 1 where all give alike, 1/K where one gives all; None where nobody gives anything."""
    values: list[int] = counts.tolist()  # Python's integers: squares of counts may not fit 64 bits
    squares = len(values) * sum(value * value for value in values)
    return sum(values) ** 2 / squares if squares else None


def _counted(rows: Ints, size: int) -> Ints:
    return np.bincount(rows, minlength=size).astype(np.int64)
