"""What a run had cost by a moment: bytes that had arrived, joules that devices had drawn.

So that quality can be drawn over bytes and energy and not over time alone. At the end of the run both equal the totals
of the summary. Knows how energy is modelled (`energy`), nothing of evaluations.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from fedsim.intervals import apart
from fedsim.report.columns import SECOND, Bools, Columns, Floats, Ints
from fedsim.report.energy import base_watts, column
from fedsim.report.horizon import horizons
from fedsim.report.identity import DELIVERED
from fedsim.trace import LOAD

Amounts = TypeVar("Amounts", Ints, Floats)


def bytes_by(columns: Columns, moments: Ints) -> Ints:
    """Bytes delivered until each moment (ns), both ways and envelopes included."""
    sent = columns.transfers
    arrived = sent.outcome.among(DELIVERED)
    order = np.argsort(sent.arrived[arrived], kind="stable")
    return _until(sent.arrived[arrived][order], sent.bytes.sum(axis=0)[arrived][order], moments)


def joules_by(columns: Columns, moments: Ints) -> Floats:
    """Joules that all devices together had drawn until each moment (ns); NaN where one of them has no power."""
    nodes, devices, sent = columns.nodes, columns.devices, columns.transfers
    base, active, spans = base_watts(nodes), horizons(columns), columns.spans
    works = ~spans.kind.among(LOAD)
    total = _drawn(base, devices, (active.node, active.start, active.end), moments)
    computing = apart(spans.node[works], spans.start[works], spans.end[works])
    total += _drawn(column(nodes, "busy_watts") - base, devices, computing, moments)
    flows, radio = sent.arrived > sent.started, column(nodes, "radio_watts")
    whole = sent.bytes.sum(axis=0) * sent.outcome.among(DELIVERED)
    order = np.argsort(sent.arrived, kind="stable")
    for owner, name in ((sent.source, "radio_up"), (sent.target, "radio_down")):
        flowing = apart(owner[flows], sent.started[flows], sent.arrived[flows])
        total += _drawn(radio, devices, flowing, moments)
        each = np.where(devices, column(nodes, name), 0.0)[owner] * whole
        total += _until(sent.arrived[order], each[order], moments)
    return total


def _drawn(watts: Floats, counted: Bools, intervals: tuple[Ints, Ints, Ints], moments: Ints) -> Floats:
    """Joules until each moment of nodes that draw so many watts during their intervals."""
    node, start, end = intervals
    kept = counted[node]
    power, since, until = watts[node[kept]], start[kept] / SECOND, end[kept] / SECOND
    rest: Floats = _risen(since, power, moments / SECOND) - _risen(until, power, moments / SECOND)
    return rest


def _risen(since: Floats, power: Floats, moments: Floats) -> Floats:
    """The integral until each moment of powers that are switched on at `since` and never off."""
    order = np.argsort(since, kind="stable")
    since, power = since[order], power[order]
    return _until(since, power, moments) * moments - _until(since, power * since, moments)


def _until(times: Ints | Floats, amounts: Amounts, moments: Ints | Floats) -> Amounts:
    """The sum of the amounts whose times, which are sorted, are not after each moment."""
    sums = np.concatenate((np.zeros(1, amounts.dtype), np.cumsum(amounts)))
    found: Amounts = sums[np.searchsorted(times, moments, "right")]
    return found
