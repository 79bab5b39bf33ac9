"""The accounting identity: busy and waiting fill every node's horizon, and every byte sent has an end.

Exact for virtual time. In an emulation, driving a node takes time that is neither: it is missing, as
`identity.time_error_s`, and should be little.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from fedsim.errors import AccountingError
from fedsim.intervals import added, union
from fedsim.report.columns import Bools, Columns, Ints, tabulate
from fedsim.report.horizon import horizons
from fedsim.report.idle import CAUSES, Accounts, account
from fedsim.trace import Trace

DELIVERED = "delivered"
IN_FLIGHT = "in flight"

MOST_MISSING: Final = 0.01
"""Of a node's horizon, in an emulation: what its shares may then be off by is small beside what they may differ by."""


def check_identity(trace: Trace) -> None:
    """Check that times and bytes of a trace add up.

    Raises:
        AccountingError: they do not; the message names the node or the transfer and the difference.
    """
    columns = tabulate(trace)
    check_times(columns, account(columns))
    check_transfers(columns)


def check_emulated(trace: Trace, *, strict: bool = False) -> list[str]:
    """Check that bytes of an emulation add up, and that its times nearly do.

    Args:
        strict: whether too much time that is accounted for twice, or not at all, is an error.

    Returns:
        A sentence for each node of whose time more than 1 % is.

    Raises:
        AccountingError: a transfer has no end, or more than one; or, if `strict`, there is such a node.
    """
    columns = tabulate(trace)
    check_transfers(columns)
    remarks = list(_mistimed(columns, account(columns)))
    if strict and remarks:
        raise AccountingError("; ".join(remarks))
    return remarks


def _mistimed(columns: Columns, accounts: Accounts) -> Iterator[str]:
    """What is missing, or there twice by more than clocks disagree."""
    spans, waits, size, bound = columns.spans, columns.waits, len(columns.nodes), columns.clock_bound
    node = np.concatenate((spans.node, waits.node))
    start = np.concatenate((spans.start, waits.start))
    end = np.maximum(np.concatenate((spans.end, waits.end)) - bound, start)
    count = len(spans.node)
    twice = union(node[:count], start[:count], end[:count], size) + added(node[count:], (end - start)[count:], size)
    twice -= union(node, start, end, size)
    for row, horizon in enumerate(accounts.horizon.tolist()):
        missing, double = int(accounts.missing[row]), int(twice[row])
        if max(abs(missing), double) > MOST_MISSING * horizon:
            both = f", {double / 1e9:.3g} s are both" if double else ""
            yield (
                f"{_name(columns, row)}: busy and waiting differ from its horizon of {horizon / 1e9:.3g} s by "
                f"{-missing / 1e9:+.3g} s{both}; more than {MOST_MISSING:.0%} makes its shares doubtful"
            )


def check_times(columns: Columns, accounts: Accounts) -> None:
    """Check that spans and waits fill each node's horizon, without gap, overlap or anything outside it."""
    spans, waits, size = columns.spans, columns.waits, len(columns.nodes)
    node = np.concatenate((spans.node, waits.node))
    start, end = np.concatenate((spans.start, waits.start)), np.concatenate((spans.end, waits.end))
    backwards = end < start
    if backwards.any():
        first = int(np.flatnonzero(backwards)[0])
        raise AccountingError(
            f"{_name(columns, node[first])}: a record ends at {end[first]} ns, "
            f"{start[first] - end[first]} ns before it starts"
        )
    outside = (horizons(columns).holding(node, start, end) < 0) & (end > start)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        what = "computing" if first < len(spans.node) else "waiting"
        raise AccountingError(
            f"{_name(columns, node[first])}: {what} from {start[first]} to {end[first]} ns lies outside its horizon"
        )
    for row in np.flatnonzero(accounts.missing)[:1].tolist():
        causes = ", ".join(
            f"{cause} {ns}" for cause, ns in zip(CAUSES, accounts.idle[:, row].tolist(), strict=True) if ns
        )
        raise AccountingError(
            f"{_name(columns, row)}: busy {accounts.busy[row]} ns + waiting {accounts.idle[:, row].sum()} ns "
            f"({causes or 'nothing'}) differ from its horizon of {accounts.horizon[row]} ns "
            f"by {-accounts.missing[row]:+d} ns"
        )
    twice = union(spans.node, spans.start, spans.end, size) + added(waits.node, waits.end - waits.start, size)
    twice -= union(node, start, end, size)
    for row in np.flatnonzero(twice)[:1].tolist():
        raise AccountingError(f"{_name(columns, row)}: computes while it waits, or waits twice, for {twice[row]} ns")


def check_transfers(columns: Columns) -> None:
    """Check that every transfer is delivered, lost for a named reason or in flight, at times in order."""
    sent, waits = columns.transfers, columns.waits
    delivered = sent.outcome.among(DELIVERED)
    _refuse(columns, sent.outcome.among(""), "has no outcome: {total} bytes are neither delivered, lost nor in flight")
    negative: Bools = sent.bytes.min(axis=0) < 0
    _refuse(columns, negative, "has a negative number of bytes")
    bound = columns.clock_bound
    order = delivered & (
        (sent.queued > sent.started + bound)
        | (sent.started > sent.arrived + bound)
        | (sent.arrived > columns.end + bound)
    )
    _refuse(
        columns,
        order,
        "was delivered, but its times are out of order: sent {queued}, started {started}, arrived {arrived} ns",
    )
    numbers, counts = np.unique(sent.number, return_counts=True)
    if (counts > 1).any():
        raise AccountingError(f"transfer {numbers[counts > 1][0]} is recorded {counts[counts > 1][0]} times")
    ended = waits.message >= 0
    at = sent.rows(waits.message[ended])
    wrong = (at < 0) | ~np.append(delivered, False)[at] | (np.append(sent.target, -1)[at] != waits.node[ended])
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        node = _name(columns, int(waits.node[ended][first]))
        raise AccountingError(
            f"{node}: a wait was ended by transfer {waits.message[ended][first]}, which was never delivered to it"
        )


def _refuse(columns: Columns, wrong: Bools, what: str) -> None:
    sent = columns.transfers
    for row in np.flatnonzero(wrong)[:1].tolist():
        times = {"queued": sent.queued[row], "started": sent.started[row], "arrived": sent.arrived[row]}
        said = what.format(total=sent.bytes[:, row].sum(), **times)
        raise AccountingError(f"transfer {sent.number[row]} to {_name(columns, sent.target[row])} {said}")


def _name(columns: Columns, row: int | Ints) -> str:
    node = columns.nodes[int(row)]
    return f"node {node.number} ({node.name})"
