"""What comes of an emulation on its server, before anybody looks at it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from fedsim.emulation.pacing import Fidelity, summarised
from fedsim.emulation.publications import Point
from fedsim.emulation.records.recording import CLOCK, PACE, TRAFFIC, merged
from fedsim.emulation.watchdog import DISAGREEMENT
from fedsim.runtime.conditions import Ending
from fedsim.runtime.published import told
from fedsim.script import SERVER
from fedsim.trace import Node, Trace

if TYPE_CHECKING:
    from torch import Tensor

_REPORTS = (PACE, TRAFFIC, CLOCK)
DECLARED, MEASURED = "memory.peak", "memory.measured"  # marks: the most that a node held, and its process


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the server of a run has in the end."""

    ending: Ending
    end: int
    """Length of the run in nanoseconds."""
    rows: Sequence[Sequence[Any]]
    """The notes of all nodes."""
    points: Sequence[Point] = ()
    """The quality of published models."""
    weights: Mapping[str, Tensor] | None = None
    """The last published model."""
    dilation: float = 1.0
    paused: int = 0
    """Wall nanoseconds in which the run stood still, for evaluations."""
    crashed: Sequence[int] = field(default_factory=list)
    """Devices whose life ended without their leave."""


def trace_of(
    rows: Iterable[Sequence[Any]],
    nodes: Sequence[Node],
    scenario: Mapping[str, Any],
    end: int,
    points: Iterable[Point] = (),
) -> Trace:
    """The trace of a run from the notes of its nodes and the quality of its models."""
    rows = list(rows)
    trace = merged((row for row in rows if row[0] not in _REPORTS), nodes, scenario, end)
    trace.clock_bound = max((row[3] for row in rows if row[0] == CLOCK), default=0)
    steps = sorted((span[4], span[7]) for span in trace.spans if span[0] != SERVER and not span[8])
    ends, trained = [end for end, _ in steps], [0, *accumulate(samples for _, samples in steps)]
    for moment, version, quality in points:
        detail = told(quality, version, trained[bisect_right(ends, moment)])
        trace.mark(SERVER, moment, "evaluate", quality.accuracy, detail)
    trace.marks.sort(key=lambda mark: mark[1])
    return trace


def memory_of(trace: Trace) -> dict[int, float]:
    """By how much the memory of a device's process was off from what its works declare, where that is worth telling.

    A share of what is declared, above 0 where the process took more.
    """
    peaks: dict[str, dict[int, float]] = {DECLARED: {}, MEASURED: {}}
    for node, _, name, value, _ in trace.marks:
        if name in peaks:
            peaks[name][node] = max(value, peaks[name].get(node, 0.0))
    found = {
        node: peaks[MEASURED][node] / declared - 1
        for node, declared in peaks[DECLARED].items()
        if declared > 0 and peaks[MEASURED].get(node, 0.0) > 0
    }
    return {node: share for node, share in found.items() if abs(share) > DISAGREEMENT}


def fidelity_of(outcome: Outcome) -> dict[str, Any]:
    """`summary.fidelity` of a run."""
    paces: dict[int, Fidelity] = {}
    messages = frames = nbytes = bound = 0
    for kind, node, *values in (row for row in outcome.rows if row[0] in _REPORTS):
        if kind == PACE:
            works, short, overruns, lag, worst = values
            known = paces.setdefault(node, Fidelity())
            known.works += works
            known.short += short
            known.overruns += overruns
            known.lag += lag
            known.worst = max(known.worst, worst)
        elif kind == TRAFFIC:
            messages, frames, nbytes = messages + values[0], frames + values[1], nbytes + values[2]
        else:
            bound = max(bound, values[1])
    found = summarised(paces, outcome.end / 1e9)
    return found | {
        "dilation": outcome.dilation,
        "pauses_s": outcome.paused / 1e9,
        "clock_bound_s": bound / 1e9,
        "wire": {"messages": messages, "frames": frames, "bytes": nbytes},
        "crashed": sorted(outcome.crashed),
    }
