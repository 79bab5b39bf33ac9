"""Joules by the linear model: a base for as long as a node takes part, more while it computes and while it exchanges.

    E = P_ready·T + Σ_work (P_busy − P_ready)·length + Σ_transfer (P_active·length + e·bytes)

The model of LEAF (dos-group/leaf): linear in nodes and links, no measurement of power. Transfers of one direction that
overlap draw `P_active` once. A transfer that was lost draws power while it flows; its bytes are not charged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.intervals import union
from fedsim.report.columns import SECOND, Columns, Floats
from fedsim.report.identity import DELIVERED
from fedsim.report.idle import Accounts
from fedsim.trace import Node

CONFIDENCE = ("measured", "derived", "specification", "unverified")
"""How far a figure is to be trusted, best first."""


def joules(columns: Columns, accounts: Accounts) -> Floats:
    """The energy of every row of the node table; NaN where its profile has no power."""
    nodes = columns.nodes
    base = base_watts(nodes)
    computing = base * (accounts.horizon / SECOND)
    computing += (column(nodes, "busy_watts") - base) * (accounts.busy / SECOND)
    return computing + _radio(columns)


def _radio(columns: Columns) -> Floats:
    """What each node's end of its transfers takes."""
    nodes, sent, size = columns.nodes, columns.transfers, len(columns.nodes)
    active = column(nodes, "radio_watts")
    total = np.zeros(size)
    whole = sent.bytes.sum(axis=0) * sent.outcome.among(DELIVERED)
    flows = sent.arrived > sent.started
    for owner, each in ((sent.source, column(nodes, "radio_up")), (sent.target, column(nodes, "radio_down"))):
        if each.any():
            total += each * np.bincount(owner, weights=whole, minlength=size)
        if active.any():
            total += active * (union(owner[flows], sent.started[flows], sent.arrived[flows], size) / SECOND)
    return total


def base_watts(nodes: Sequence[Node]) -> Floats:
    """What every node draws for as long as it takes part: ready for work, or idle where its profile knows no more."""
    ready = column(nodes, "ready_watts")
    found: Floats = np.where(np.isnan(ready), column(nodes, "idle_watts"), ready)
    return found


def column(nodes: Sequence[Node], name: str) -> Floats:
    """A figure of every node, such as its watts; NaN where it has none."""
    return np.fromiter((getattr(node, name) for node in nodes), np.float64, len(nodes))


def energy_label(nodes: Sequence[Node]) -> str:
    """What stands beside every figure in joules: how it was made, and the input that is known least."""
    least = max(nodes, key=lambda node: CONFIDENCE.index(node.power_confidence))
    return (
        "linear energy model, no power was measured; "
        f"weakest input: {least.power_field} of {least.profile} ({least.power_confidence})"
    )
