"""Barriers: the rounds a server opened, who was in them and when their contributions were delivered.

A round is open from its `round.open` to its `round.close`, or to the next round's opening where that comes first. A
contribution belongs to the round that it names, if it comes while that is open; one that names none, to the round in
which its device, being part of it, sent it; failing that, to the one in which it arrived. A barrier is full when `need`
devices have delivered, or when its time is up; what comes later is too late. A barrier that never filled (devices left,
or the run ended) holds everyone until the round closes. Knows no scheduler's name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import numpy as np

from fedsim.errors import AccountingError
from fedsim.report.columns import Bools, Columns, Ints
from fedsim.script import Role

_NEVER: Final = np.iinfo(np.int64).max
_NO_SUCH: Final = -1


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rounds in order of time, disjoint; `member` and the columns below it have a row a (device, round).

    `first` is the delivery of a round's first contribution, `full` the one that filled the barrier; both lie within
    the round. `member` is sorted, and `delivered` is that of the device's own contribution. `late` has a row a
    transfer: the contributions that came to no barrier in time.
    """

    opens: Ints
    closes: Ints
    first: Ints
    full: Ints
    member: Ints
    member_round: Ints
    delivered: Ints
    late: Bools

    def key(self, node: Ints, number: Ints) -> Ints:
        """What `member` is sorted by: the node's row, then the number of the round."""
        return node * max(len(self.opens), 1) + number

    def memberships(self, node: Ints, number: Ints) -> Ints:
        """The rows of `member` for these devices and rounds, -1 where a device is not part of the round."""
        return _find(self.member, self.key(node, number))


def rounds(columns: Columns) -> Rounds:
    """The rounds of a trace; none for an asynchronous system.

    Raises:
        AccountingError: a round closes that was not open.
    """
    opened = columns.named("round.open")
    count = len(opened)
    opens = np.fromiter((mark.time for mark in opened), np.int64, count)
    shut = _closings(columns)
    closes = np.minimum(shut, np.append(opens[1:], columns.end))
    member, need, until = _members(columns)
    delivered, transfer, found = _deliveries(columns, opens, shut, member)

    number = member % max(count, 1)
    order = np.lexsort((delivered, number))
    begin = np.searchsorted(number[order], np.arange(count))
    finish = np.searchsorted(number[order], np.arange(count), "right")
    padded = np.append(delivered[order], _NEVER)
    first = np.where(finish > begin, padded[begin], _NEVER)
    last = begin + need - 1
    full = np.where(
        need <= 0, opens, np.where(last < finish, padded[np.minimum(np.maximum(last, 0), len(order))], _NEVER)
    )
    full = np.clip(np.minimum(full, until), opens, closes)
    late = np.zeros(len(columns.transfers.number), np.bool_)
    late[transfer] = (found < 0) | (columns.transfers.arrived[transfer] > np.append(full[number], 0)[found])
    return Rounds(opens, closes, np.clip(first, opens, full), full, member, number, delivered, late)


def _closings(columns: Columns) -> Ints:
    """When each round was closed by its own mark, the end of the run where it was not."""
    running: dict[float, list[int]] = {}
    closes: list[int] = []
    for mark in columns.named("round.open", "round.close"):
        if mark.name == "round.open":
            running.setdefault(mark.value, []).append(len(closes))
            closes.append(columns.end)
        elif running.get(mark.value):
            closes[running[mark.value].pop()] = mark.time
        else:
            raise AccountingError(f"round {mark.value:g} was closed at {mark.time} ns but was not open")
    return np.array(closes, np.int64)


def _members(columns: Columns) -> tuple[Ints, Ints, Ints]:
    """Who takes part, as sorted keys; how many contributions each round needs, and when its time is up."""
    opened = columns.named("round.open")
    details = [json.loads(mark.detail) if mark.detail else {} for mark in opened]
    chosen = [columns.table.rows(detail.get("nodes", ())) for detail in details]
    need = [detail.get("need", len(nodes)) for detail, nodes in zip(details, chosen, strict=True)]
    until = [detail.get("until", _NEVER) for detail in details]
    keys = [nodes * len(opened) + number for number, nodes in enumerate(chosen)]
    member = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    return member, np.array(need, np.int64), np.array(until, np.int64)


def _deliveries(columns: Columns, opens: Ints, closes: Ints, member: Ints) -> tuple[Ints, Ints, Ints]:
    """When the contribution of each member was delivered: the last one where there are several, or never.

    And of each contribution that names a round of the run: its transfer, and the member that it is of, -1 if it came to
    none.
    """
    sent = columns.transfers
    mine: Bools = sent.role.among(Role.CONTRIBUTION) & sent.outcome.among("delivered") & (sent.target == columns.server)
    source, queued, arrived, named = sent.source[mine], sent.queued[mine], sent.arrived[mine], sent.round[mine]
    count = max(len(opens), 1)
    by_name = _named(columns, named, arrived)
    names = by_name != _NO_SUCH
    at = _find(member, source * count + by_name)
    found = np.where(names & (at >= 0) & (arrived <= np.append(closes, 0)[np.where(names, by_name, -1)]), at, -1)
    # At an instant that is both a closing and an opening, the earlier round is meant: hence "left" before "right".
    for moment, side in ((queued, "left"), (arrived, "left"), (arrived, "right")):
        number = np.searchsorted(opens, moment, side) - 1  # type: ignore[call-overload]
        at = _find(member, source * count + number)
        inside = (number >= 0) & (at >= 0) & (moment <= np.append(closes, 0)[number])
        found = np.where((found < 0) & ~names & inside, at, found)
    last = np.full(len(member), -1, np.int64)
    np.maximum.at(last, found[found >= 0], arrived[found >= 0])
    delivered: Ints = np.where(last < 0, _NEVER, last)
    return delivered, np.flatnonzero(mine)[names], found[names]


def _named(columns: Columns, named: Ints, arrived: Ints) -> Ints:
    """The round that each contribution names, of several with that number the last one that was open when it came."""
    opened: dict[int, list[tuple[int, int]]] = {}
    for index, mark in enumerate(columns.named("round.open")):
        opened.setdefault(int(mark.value), []).append((mark.time, index))
    found = np.full(len(named), _NO_SUCH, np.int64)
    for row, (number, moment) in enumerate(zip(named.tolist(), arrived.tolist(), strict=True)):
        for time, index in opened.get(number, ()):
            if time <= moment:
                found[row] = index
    return found


def _find(keys: Ints, wanted: Ints) -> Ints:
    """Where `wanted` stand among sorted, distinct `keys`; -1 where they do not."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: Ints = np.where(keys[at] == wanted, at, -1)
    return found
