"""The first event in which two runs of one scenario differ: in pacing, in links, in the order of messages.

Events are paired by what they are and their place among their likes: the n-th work of that kind and size of a node, the
n-th message of that kind and size between two nodes, the n-th message that a node got. Pairing by place alone would
report every event after the first difference. Works that were lost or lie at the end of the run, which may have cut
them, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from fedsim.report.identity import DELIVERED
from fedsim.trace import Span, Trace, Transfer

WITHIN: Final = 0.05
"""Of a duration: what a whole run may be off by, so that a difference explains one."""

LEAST_WORK: Final = 0.005
"""Wall seconds that works may differ by in any case: shorter ones are not paced, since a sleep overshoots by up to
0.15 ms and a busy host by more."""

LEAST_FLOW: Final = 0.02
"""Wall seconds that flows may differ by in any case, and arrivals come in any order: a shaped link may send as much
ahead."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An event that is not as simulated: seconds on the clock of the simulation; values are durations, or words."""

    what: str
    """`pacing`, `links` or `message order`."""
    node: str
    time: float
    event: str
    simulated: float | str
    emulated: float | str


class _Event(NamedTuple):
    """When, of which node, and how long or who."""

    time: int
    node: int
    duration: int


def differences(simulated: Trace, emulated: Trace, dilation: float = 1.0) -> tuple[Difference, ...]:
    """The first difference of each kind, those of pacing before those of links before those of order.

    Args:
        dilation: wall seconds a second of the scenario; what a host may be late by shrinks with it.
    """
    names = {node.number: node.name for node in simulated.nodes}

    def work(_: int, kind: str, *_size: int) -> str:
        return kind

    def flow(source: int, target: int, message: str, *_size: int) -> str:
        return f"{message} from {names[source]} to {names[target]}"

    works = _durations("pacing", _works(simulated), _works(emulated), LEAST_WORK / dilation, names, work)
    flows = _durations("links", _flows(simulated), _flows(emulated), LEAST_FLOW / dilation, names, flow)
    found = (works, flows, _order(simulated, emulated, LEAST_FLOW / dilation, names))
    return tuple(one for one in found if one is not None)


_Events = Mapping[tuple[Any, ...], list[_Event]]


def _durations(
    what: str,
    simulated: _Events,
    emulated: _Events,
    least: float,
    names: Mapping[int, str],
    said: Callable[..., str],
) -> Difference | None:
    """The first pair of events whose durations differ by more than a share, or than so many seconds."""
    apart: list[tuple[_Event, _Event, str]] = []
    for key, events in simulated.items():
        for place, (one, other) in enumerate(zip(events, emulated.get(key, ()), strict=False), 1):
            if abs(other.duration - one.duration) > max(WITHIN * one.duration, least * 1e9):
                apart.append((one, other, f"{said(*key)}, number {place} of its size"))
                break
    if not apart:
        return None
    one, other, event = min(apart, key=lambda pair: pair[0])
    return Difference(what, names[one.node], one.time / 1e9, event, one.duration / 1e9, other.duration / 1e9)


def _works(trace: Trace) -> _Events:
    """Works that ended before the run did, by node, kind and size."""
    found: dict[tuple[Any, ...], list[_Event]] = {}
    for span in sorted(map(Span._make, trace.spans), key=lambda span: (span.start, span.end)):
        if not span.wasted and span.end < trace.end:
            key = (span.node, span.kind, span.macs, span.samples)
            found.setdefault(key, []).append(_Event(span.start, span.node, span.end - span.start))
    return found


def _flows(trace: Trace) -> _Events:
    """Messages that arrived, by their ends, type and payload, in the order in which they were sent."""
    found: dict[tuple[Any, ...], list[_Event]] = {}
    for sent in sorted(_delivered(trace), key=lambda sent: (sent.queued, sent.number)):
        key = (sent.source, sent.target, sent.message, *payload(sent))
        found.setdefault(key, []).append(_Event(sent.queued, sent.source, sent.arrived - sent.started))
    return found


def payload(sent: Transfer) -> tuple[int, int, int, int]:
    """Bytes of a message without its envelope: weights, activations, gradients, labels."""
    return sent.weights, sent.activations, sent.gradients, sent.labels


def _delivered(trace: Trace) -> Iterator[Transfer]:
    return (sent for sent in map(Transfer._make, trace.transfers) if sent.outcome == DELIVERED)


def _order(simulated: Trace, emulated: Trace, least: float, names: Mapping[int, str]) -> Difference | None:
    """The first message of a node that is of another type or from another sender than simulated, or is not there.

    Messages that came within so many seconds of one another may come in any order.
    """
    expected, came = _mail(simulated), _mail(emulated)

    def said(letter: Transfer | None) -> str:
        return "none" if letter is None else f"{letter.message} from {names[letter.source]}"

    apart: list[tuple[int, int, Difference]] = []
    for node in sorted(expected.keys() | came.keys()):
        found = _astray(expected.get(node, []), came.get(node, []), round(least * 1e9))
        if found is not None:
            place, one, other = found
            time = one.arrived if one is not None else other.arrived if other is not None else 0
            event = f"message {place} that it got"
            difference = Difference("message order", names[node], time / 1e9, event, said(one), said(other))
            apart.append((time, node, difference))
    return min(apart)[2] if apart else None


def _astray(
    expected: list[Transfer], came: list[Transfer], least: int
) -> tuple[int, Transfer | None, Transfer | None] | None:
    """The place of the first message that came instead of an earlier one, and both."""
    left = list(reversed(expected))  # the earliest is the last, where it is quickly removed
    for place, letter in enumerate(came, 1):
        head = left[-1] if left else None
        for index in range(len(left) - 1, -1, -1):
            one = left[index]
            if head is None or one.arrived - head.arrived > least:
                return place, head, letter
            if (one.message, one.source) == (letter.message, letter.source):
                del left[index]
                break
        else:
            return place, head, letter
    return (len(came) + 1, left[-1], None) if left else None


def _mail(trace: Trace) -> dict[int, list[Transfer]]:
    """What each node got, in the order of arrival."""
    found: dict[int, list[Transfer]] = {}
    for sent in sorted(_delivered(trace), key=lambda sent: (sent.arrived, sent.number)):
        found.setdefault(sent.target, []).append(sent)
    return found
