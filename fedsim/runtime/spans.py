"""Works as spans of a trace: laid on a node's lanes when they start, cut off when they end too early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedsim.costs import Cost
from fedsim.errors import ScriptError
from fedsim.runtime.coroutines import name
from fedsim.script import Work

Price = Callable[[int, Cost, int], int]
"""Nanoseconds that a cost takes on a node, from the moment in nanoseconds at which it starts."""
Spans = list[tuple[Any, ...]]


def lay(spans: Spans, node: int, works: Sequence[Work[Any]], start: int, lanes: int, price: Price) -> int:
    """Append the spans of works that start together; answers with the end of the last one.

    Each work takes the lane that is free first, in order.

    Raises:
        ScriptError: there are no works, or as `append`.
    """
    if not works:
        raise ScriptError(f"{name(node)} computes nothing; give compute at least one work")
    free = [start] * min(lanes, len(works))
    for work in works:
        lane = free.index(min(free))
        free[lane] = append(spans, node, work, lane, free[lane], price)
    return max(free)


def append(spans: Spans, node: int, work: Work[Any], lane: int, end: int, price: Price) -> int:
    """Append the spans of a work that follows what ends on its lane at `end`; answers with its own end.

    Raises:
        ScriptError: the work has no parts, or is another node's.
    """
    command = work.command
    if command.node != node:
        raise ScriptError(f"{name(node)} computes {command.method}, which is work of {name(command.node)}")
    if not work.parts:
        raise ScriptError(f"{name(node)} computes {command.method}, which has no parts and so no cost")
    for part in work.parts:
        start, cost = end, part.cost
        end += price(node, cost, start)
        macs, forward, head = cost.macs, cost.own_forward_macs, cost.head_macs
        spans.append((node, lane, part.kind, start, end, macs, forward, part.samples, False, head))
    return end


def cut(spans: Spans, now: int) -> Spans:
    """What stands of spans whose node stops at `now`: wasted, since the result of their works is lost.

    A span that is cut off did the share of its MACs that its time is of the whole, and has trained no samples.
    """
    stands: Spans = []
    for span in spans:
        node, lane, kind, start, end, macs, forward, samples, _, head = span
        if end <= now:
            stands.append((node, lane, kind, start, end, macs, forward, samples, True, head))
        elif start < now:
            done, whole = now - start, end - start
            macs, forward, head = (each * done // whole for each in (macs, forward, head))
            stands.append((node, lane, kind, start, now, macs, forward, 0, True, head))
    return stands
