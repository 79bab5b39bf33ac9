"""Copies of a trace in which one thing is as an emulation might have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from fedsim.trace import Mark, Span, Trace, Transfer, Wait


def stretched(trace: Trace, node: int, factor: float) -> Trace:
    """The works of a node take longer; all else is as it was."""
    spans = [Span._make(row) for row in trace.spans]
    longer = [span._replace(end=span.start + round((span.end - span.start) * factor)) for span in spans]
    return replace(trace, spans=[tuple(b if a.node == node else a) for a, b in zip(spans, longer, strict=True)])


def slowed(trace: Trace, factor: float) -> Trace:
    """Everything comes later by a factor."""

    def later(moment: int) -> int:
        return round(moment * factor)

    return replace(
        trace,
        spans=[tuple(s._replace(start=later(s.start), end=later(s.end))) for s in map(Span._make, trace.spans)],
        waits=[tuple(w._replace(start=later(w.start), end=later(w.end))) for w in map(Wait._make, trace.waits)],
        marks=[tuple(m._replace(time=later(m.time))) for m in map(Mark._make, trace.marks)],
        transfers=[
            tuple(t._replace(queued=later(t.queued), started=later(t.started), arrived=later(t.arrived)))
            for t in map(Transfer._make, trace.transfers)
        ],
        end=later(trace.end),
    )


def changed(trace: Trace, choose: Callable[[Transfer], bool], change: Callable[[Transfer], Transfer]) -> Trace:
    """Some messages are otherwise."""
    rows = [Transfer._make(row) for row in trace.transfers]
    return replace(trace, transfers=[tuple(change(row) if choose(row) else row) for row in rows])


def delayed(trace: Trace, source: int, target: int, ns: int) -> Trace:
    """What flows from one node to another takes longer."""
    return changed(
        trace,
        lambda sent: (sent.source, sent.target) == (source, target),
        lambda sent: sent._replace(arrived=sent.arrived + ns),
    )


def swapped(trace: Trace, target: int, apart: int) -> Trace:
    """The first two messages that a node gets from different senders, so far apart, come in the other order."""
    rows = sorted(map(Transfer._make, trace.transfers), key=lambda sent: (sent.arrived, sent.number))
    mail = [row for row in rows if row.target == target and row.outcome == "delivered"]
    near = (pair for pair in pairwise(mail) if pair[0].source != pair[1].source)
    one, other = next((a, b) for a, b in near if b.arrived - a.arrived > apart)
    times = {one.number: other, other.number: one}

    def change(sent: Transfer) -> Transfer:
        like = times[sent.number]
        return sent._replace(arrived=like.arrived, started=like.arrived - (sent.arrived - sent.started))

    return changed(trace, lambda sent: sent.number in times, change)


def without(trace: Trace, choose: Callable[[Transfer], bool]) -> Trace:
    """The first message of some is not there."""
    rows = [Transfer._make(row) for row in trace.transfers]
    gone = next(row.number for row in rows if choose(row))
    waits = [wait._replace(message=-1) if wait.message == gone else wait for wait in map(Wait._make, trace.waits)]
    kept = [tuple(row) for row in rows if row.number != gone]
    return replace(trace, transfers=kept, waits=[tuple(wait) for wait in waits])
