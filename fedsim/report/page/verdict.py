"""What the figures say, in words: who wins by what, and where the time went that nobody computed in.

Knows summaries and which end of a figure is better (`comparison`); no scheduler's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedsim.report.comparison import Column, Table
from fedsim.report.idle import CAUSES
from fedsim.report.measures import Measures
from fedsim.report.page.systems import System
from fedsim.report.show import percent
from fedsim.units import human_count, human_seconds

_ASKED: Final = ("final_", "time_to_", "end_to_end", "server_idle", "devices_idle", "bytes_total", "devices_")
_LEFT_OUT: Final = ("devices_idle_whole_run",)
REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "dependency": ("for the gradients of their own batches", "while no contribution was in"),
    "straggler": ("for slower devices of their round", "for the rest of a round's contributions"),
    "flow": ("for leave to send", "for leave to send"),
    "model": ("for weights: their own upload, the averaging, the download", "for weights"),
    "unselected": ("while others had their turn", "while nobody was chosen"),
    "load": ("for data", "for data"),
    "sleep": ("asleep", "asleep"),
}
"""What a device, and the server, waits for under each cause."""
_MUCH: Final = 0.05
"""The mean share of waiting for stragglers from which it is said who waited least."""

_GIVEN: Final = {
    "consumed": ("batch", "batches", "that the server used"),
    "delivered": ("update", "updates", "that counted"),
}


@dataclass(frozen=True, slots=True)
class Win:
    """The best system by one figure, and how far it is from the next best."""

    figure: str
    winner: str
    value: str
    margin: str


def wins(table: Table) -> list[Win]:
    """The figures by which one system alone is best."""
    return [win for column in table.columns if _is_asked(column) for win in _win(table, column)]


def _is_asked(column: Column) -> bool:
    return column.better != 0 and column.key.startswith(_ASKED) and column.key not in _LEFT_OUT


def _win(table: Table, column: Column) -> Iterator[Win]:
    best = table.best(column)
    means = {label: table.statistic(label, column).mean for label in table.runs}
    known = {label: mean for label, mean in means.items() if mean is not None}
    if len(best) != 1 or len(known) < 2:
        return
    winner = next(iter(best))
    others = {label: mean for label, mean in known.items() if label != winner}
    next_best = (max if column.better > 0 else min)(others, key=lambda label: others[label])
    margin = f"next: {next_best}, {table.statistic(next_best, column).text(column.write)}"
    yield Win(column.label, winner, table.statistic(winner, column).text(column.write), margin)


def about(system: System) -> list[str]:
    """What a system did, in sentences."""
    summary = system.first.summary
    said = [_length(system, summary), *times(system), *_awaited(system.first.measures)]
    up, down = (sum(summary["bytes"][way].values()) for way in ("up", "down"))
    said.append(f"{human_count(up, 'B')} went up to the server and {human_count(down, 'B')} came down.")
    given = summary["contributions"]
    if given["max"] and "inference" not in summary:
        one, many, which = _GIVEN[given["kind"]]
        what = f"{one if given['max'] == 1 else many} {which}"
        same = given["min"] == given["max"]
        said.append(
            f"Every device gave {given['min']:,} {what}."
            if same
            else f"Devices gave between {given['min']:,} and {given['max']:,} {what}."
        )
    return said


def times(system: System) -> list[str]:
    """Where the time of the server and of the devices went, in a sentence each."""
    count = system.first.summary["devices"]["count"]
    devices = "The device" if count == 1 else f"The {count:,} devices"
    said = (_time("The server", system.shares("server"), 1), _time(devices, system.shares("devices"), 0))
    return [sentence for sentence in said if sentence]


def _awaited(measures: Measures) -> Iterator[str]:
    """Which device waited least for slower ones, where devices did: whom the others waited for is seldom another."""
    accounts = measures.accounts
    rows = np.flatnonzero(measures.columns.devices & (accounts.horizon > 0))
    if len(rows) < 2:
        return
    waited = accounts.idle[CAUSES.index("straggler"), rows] / accounts.horizon[rows]
    if waited.mean() < _MUCH:
        return
    least = int(waited.argmin())
    node = measures.columns.nodes[rows[least]]
    share = percent(float(waited[least]))
    yield f"{node.name.capitalize()} ({node.profile}) waited least for slower devices: {share} of its time."


def _length(system: System, summary: Mapping[str, Any]) -> str:
    metric = summary["metric"]
    took = f"The run took {human_seconds(summary['seconds'])} of its own clock"
    seeds = f" (seed {summary['seed']}, the first of {len(system.runs)})" if len(system.runs) > 1 else ""
    if metric["final"] is None:
        return f"{took}{seeds}."
    write = percent if metric["name"] == "accuracy" else "{:.4g}".format
    final, best = write(metric["final"]), write(metric["best"])
    return f"{took}{seeds} and ended with {metric['name']} {final}; the best was {best}."


def _time(who: str, shares: Sequence[float | None], side: int) -> str:
    """Busy and idle shares of a node or of many, the causes from the largest down."""
    busy, *idle = shares
    if busy is None:
        return ""
    verb = "were" if who.endswith("devices") else "was"
    causes = sorted(((share or 0.0, cause) for cause, share in zip(CAUSES, idle, strict=True)), reverse=True)
    waits = [f"{percent(share)} {_waiting(cause, side)}" for share, cause in causes if share >= 0.005]
    waited = f", and idle {percent(1 - busy)}: {', '.join(waits)}" if waits else ""
    return f"{who} {verb} busy {percent(busy)} of the time{waited}."


def _waiting(cause: str, side: int) -> str:
    reason = REASONS[cause][side]
    return reason if cause == "sleep" else f"waiting {reason}"
