"""Sharing by brute force, straight from the definitions: the oracle of the network's tests.

Nothing is clever here and nothing comes from the code that is tested: every capacity is kept, however wide, and all
rates are found anew at every event by raising the level of all flows until something is full, again and again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Sent:
    """A message: when it may flow, over what, and (the oracle's answer) when it did."""

    connection: Hashable
    ready: float
    nbytes: float
    cap: float = math.inf
    weight: float = 1.0
    crosses: Mapping[str, float] = field(default_factory=dict)
    left: float = field(init=False)
    start: float = math.nan
    end: float = math.nan

    def __post_init__(self) -> None:
        self.left = self.nbytes


def fill(flows: Sequence[Sent], rates: Mapping[str, float]) -> list[float]:
    """Weighted max-min fair rates by progressive filling, one event at a time."""
    found = [0.0] * len(flows)
    rising = list(range(len(flows)))
    while rising:
        level, full = min((flows[k].cap / flows[k].weight, f"cap {k}") for k in rising)
        for name, rate in rates.items():
            taken = math.fsum(found[k] * f.crosses.get(name, 0) for k, f in enumerate(flows) if k not in rising)
            wanted = math.fsum(flows[k].weight * flows[k].crosses.get(name, 0) for k in rising)
            if wanted and (rate - taken) / wanted < level:
                level, full = (rate - taken) / wanted, name
        stopped = [k for k in rising if full == f"cap {k}" or flows[k].crosses.get(full)]
        for k in stopped:
            found[k] = max(0.0, level) * flows[k].weight
            rising.remove(k)
    return found


def play(
    messages: Sequence[Sent],
    rates: dict[str, float],
    *,
    fair: bool = False,
    changes: Sequence[tuple[float, int | str, float]] = (),
) -> None:
    """Let messages flow and fill in their starts and ends; those of a connection in order, unless `fair`.

    `changes`: from a moment on, a message's cap (by index) or a rate (by name) is another.
    """
    now = min((m.ready for m in messages), default=0.0)
    later = sorted(changes, key=lambda change: change[0])
    while any(math.isnan(m.end) for m in messages):
        while later and later[0][0] <= now:
            _, what, value = later.pop(0)
            if isinstance(what, str):
                rates[what] = value
            else:
                messages[what].cap = value
        flowing, waiting, busy = [], [at for at, *_ in later[:1]], set()
        for m in messages:
            if not math.isnan(m.end) or (m.connection in busy and not fair):
                continue
            busy.add(m.connection)
            if m.ready <= now:
                m.start = now if math.isnan(m.start) else m.start
                flowing.append(m)
            else:
                waiting.append(m.ready)
        given = fill(flowing, rates)
        ends = [m.left / rate if rate else math.inf for m, rate in zip(flowing, given, strict=True)]
        step = min([ready - now for ready in waiting] + ends)
        now = min([now + step, *waiting]) if step == min([math.inf, *(w - now for w in waiting)]) else now + step
        for m, rate, end in zip(flowing, given, ends, strict=True):
            m.left -= rate * step
            if end <= step + 1e-12 * (1 + now):
                m.end = now


def check_fair(flows: Sequence[Sent], given: Sequence[float], rates: Mapping[str, float]) -> None:
    """Max-min fair: nothing is over its capacity, and who is below its cap is at the top of something full."""
    for name, rate in rates.items():
        assert math.fsum(f.crosses.get(name, 0) * r for f, r in zip(flows, given, strict=True)) <= rate * (1 + 1e-9)
    for flow, own in zip(flows, given, strict=True):
        assert own <= flow.cap * (1 + 1e-9)
        if own >= flow.cap * (1 - 1e-9):
            continue
        level = own / flow.weight
        assert any(
            math.fsum(f.crosses.get(name, 0) * r for f, r in zip(flows, given, strict=True)) >= rates[name] * (1 - 1e-9)
            and all(
                r / f.weight <= level * (1 + 1e-9)
                for f, r in zip(flows, given, strict=True)
                if f.crosses.get(name) and r > 0
            )
            for name in flow.crosses
        ), "a flow could have more without taking from one that has no more"
