"""What flows and what waits, as series over time: bytes a second of nodes by direction, and messages in mailboxes.

A trace says when a message began to flow and when it had arrived, not how fast it flowed in between: its bytes are
taken to be spread evenly over that time. Where links are shared the true rate changes meanwhile: the bytes under a
series are right, its steps are means of messages. Counted is what was delivered, payload and envelope, `up` at whoever
sent it towards the server, `down` at whoever received it from above, and all of it at the server, as in `traffic`. What
arrives the instant that it starts has no rate and is left out. Queues are exact: the trace has every stay in a mailbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedsim.report.columns import SECOND, Bools, Columns, Floats, Ints
from fedsim.report.identity import DELIVERED

KINDS: Final = ("up", "down", "waiting")
UP, DOWN, WAITING = range(len(KINDS))

FEWEST: Final = 10
"""Means that a series has to have to say anything."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Series as their steps, sorted by node, kind and time.

    Row of the node, index into `KINDS`, moment, and the value from then on: bytes a second, or messages. A series is 0
    before its first step, and its last one is to 0. `note` tells where values are means over a time.
    """

    node: Ints
    kind: Ints
    time: Ints
    value: Floats
    note: str = ""

    def __len__(self) -> int:
        return len(self.node)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What series are sums of: `amount` from `start` to `end`; `key` is of a node and a kind."""

    key: Ints
    start: Ints
    end: Ints
    amount: Floats

    def of(self, here: Bools) -> _Parts:
        """Some of them."""
        return _Parts(self.key[here], self.start[here], self.end[here], self.amount[here])


def counters(columns: Columns, room: int) -> Counters:
    """The series of a run in at most `room` steps.

    Where there are more, the server's have one half of the room and the devices' the other; where that does not do
    either, they become means over equal parts of the run, and are left out if these were too few to say anything.
    """
    parts = _parts(columns)
    whole = _steps(parts)
    if len(whole) <= room:
        return whole
    found, notes = [], []
    server = parts.key // len(KINDS) == columns.server
    for whose, here in (("the server", server), ("devices", ~server)):
        some, share = parts.of(here), room // 2
        steps = _steps(some)
        if len(steps) > share:
            slots = share // len(np.unique(some.key)) - 1
            if slots < FEWEST:
                notes.append(f"counters of {whose} are left out, since {len(steps)} values are too many")
                continue
            steps = _means(some, columns.end, slots)
            notes.append(f"counters of {whose} are means over {columns.end / slots / 1e9:.6g} s each")
        found.append(steps)
    columns_of = [[getattr(one, name) for one in found] for name in ("node", "kind", "time")]
    node, kind, time = (np.concatenate([np.zeros(0, np.int64), *column]) for column in columns_of)
    value = np.concatenate([np.zeros(0), *(one.value for one in found)])
    order = np.lexsort((time, kind, node))
    return Counters(node[order], kind[order], time[order], value[order], "; ".join(notes))


def _parts(columns: Columns) -> _Parts:
    sent, stays = columns.transfers, columns.stays
    here = sent.outcome.among(DELIVERED) & (sent.arrived > sent.started)
    start, end, target = sent.started[here], sent.arrived[here], sent.target[here]
    rate = sent.bytes[:, here].sum(axis=0) / ((end - start) / SECOND)
    up = target == columns.server
    peer, kind = np.where(up, sent.source[here], target), np.where(up, UP, DOWN)
    nodes = [peer, *([np.full(len(peer), columns.server)] if columns.server >= 0 else []), stays.node]
    kinds = [*([kind] * (len(nodes) - 1)), np.full(len(stays.node), WAITING)]
    times = len(nodes) - 1
    return _Parts(
        key=np.concatenate(nodes) * len(KINDS) + np.concatenate(kinds),
        start=np.concatenate([*([start] * times), stays.start]),
        end=np.concatenate([*([end] * times), stays.end]),
        amount=np.concatenate([*([rate] * times), np.ones(len(stays.node))]),
    )


def _steps(parts: _Parts) -> Counters:
    """Every change of every series."""
    key, time = np.tile(parts.key, 2), np.concatenate((parts.start, parts.end))
    order = np.lexsort((time, key))
    key, time = key[order], time[order]
    change = np.concatenate((parts.amount, -parts.amount))[order]
    active = np.cumsum(np.repeat(np.array([1, -1]), len(parts.key))[order])  # it comes back to 0 where a series ends
    value = np.where(active > 0, np.maximum(_cumulated(change, key), 0.0), 0.0)  # without what rounding has left over
    last = np.append((key[1:] != key[:-1]) | (time[1:] != time[:-1]), True)[: len(key)]
    return _series(key[last], time[last], value[last])


def _cumulated(change: Floats, key: Ints) -> Floats:
    """Running sums that begin anew with every key."""
    if not len(key):
        return change
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    sums = np.cumsum(change)
    found: Floats = sums - np.repeat(np.append(0.0, sums[first[1:] - 1]), np.diff(np.append(first, len(key))))
    return found


def _means(parts: _Parts, end: int, slots: int) -> Counters:
    """The mean of every series over each of so many parts of the run, and 0 at its end."""
    edges = np.linspace(0, end, slots + 1).astype(np.int64)
    keys, row = np.unique(parts.key, return_inverse=True)
    first = np.clip(np.searchsorted(edges, parts.start, "right") - 1, 0, slots - 1)
    last = np.maximum(np.clip(np.searchsorted(edges, parts.end, "left") - 1, 0, slots - 1), first)
    within = np.zeros((len(keys), slots + 1))  # amounts times nanoseconds that lie in each slot
    whole = np.zeros((len(keys), slots + 1))  # what begins, or ceases, to fill whole slots
    several = last > first
    reached = np.where(several, edges[first + 1], parts.end)
    np.add.at(within, (row, first), parts.amount * (reached - parts.start))
    np.add.at(within, (row, last), np.where(several, parts.amount * (parts.end - edges[last]), 0.0))
    np.add.at(whole, (row, first + 1), np.where(several, parts.amount, 0.0))
    np.add.at(whole, (row, last), np.where(several, -parts.amount, 0.0))
    value = within / np.append(np.maximum(np.diff(edges), 1), 1) + np.maximum(np.cumsum(whole, axis=1), 0.0)
    value[:, -1] = 0.0
    return _series(np.repeat(keys, slots + 1), np.tile(edges, len(keys)), value.ravel())


def _series(key: Ints, time: Ints, value: Floats) -> Counters:
    """Steps without those that change nothing."""
    new = np.append(True, key[1:] != key[:-1])[: len(key)]
    changes = np.where(new, value != 0.0, np.append(True, value[1:] != value[:-1])[: len(key)])
    key, time, value = key[changes], time[changes], value[changes]
    return Counters(key // len(KINDS), key % len(KINDS), time, value)
