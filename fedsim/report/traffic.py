"""Bytes by direction and purpose, counted once, where they are delivered; lost ones apart, by reason.

`up` is towards the server, `down` away from it; each node's row counts what it sent up or received from above, the
server's row everything. `control` is the envelope of messages, all other purposes are payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedsim.report.columns import Bools, Columns, Ints
from fedsim.report.identity import DELIVERED, IN_FLIGHT
from fedsim.trace import PURPOSES

DIRECTIONS: Final = ("up", "down")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Delivered bytes with axes (direction, purpose, node); totals of what was not delivered."""

    delivered: Ints
    in_flight: int
    lost: dict[str, int]

    @property
    def wasted(self) -> int:
        """Bytes lost, whatever the reason."""
        return sum(self.lost.values())

    def totals(self, server: int) -> Ints:
        """Delivered bytes of the run with axes (direction, purpose); `server` is its row, -1 for none."""
        axis: Ints = self.delivered[:, :, server] if server >= 0 else self.delivered.sum(axis=2)
        return axis


def traffic(columns: Columns) -> Traffic:
    """Count the bytes of a trace."""
    sent, size = columns.transfers, len(columns.nodes)
    arrived = sent.outcome.among(DELIVERED)
    up = sent.target == columns.server
    counted = np.zeros((len(DIRECTIONS), len(PURPOSES), size), np.int64)
    for direction, (rows, peer) in enumerate(((arrived & up, sent.source), (arrived & ~up, sent.target))):
        for purpose in range(len(PURPOSES)):
            np.add.at(counted[direction, purpose], peer[rows], sent.bytes[purpose, rows])
        if columns.server >= 0:
            counted[direction, :, columns.server] = counted[direction].sum(axis=1)
    return Traffic(
        delivered=counted,
        in_flight=_total(sent.bytes, sent.outcome.among(IN_FLIGHT)),
        lost={
            reason: _total(sent.bytes, sent.outcome.among(reason))
            for reason in sorted(sent.outcome.names)
            if reason not in (DELIVERED, IN_FLIGHT)
        },
    )


def _total(amounts: Ints, rows: Bools) -> int:
    return int(amounts[:, rows].sum())
