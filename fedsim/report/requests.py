"""What devices answered, in runs for inference: latency, tokens, energy and memory, by group of devices.

From the marks `asked` (its value is the moment from which a request waited) and `answered` (the tokens given), and the
spans in between: `prefill` ends with the first token, `decode` is one token more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedsim.report.columns import SECOND, Bools, Columns, Floats, Ints
from fedsim.report.measures import Measures, finite
from fedsim.trace import Mark
from fedsim.units import human_count, human_seconds

FIRST: Final = "prefill"
NEXT: Final = "decode"
QUANTILES: Final = (("p50", 50), ("p95", 95))


@dataclass(frozen=True, slots=True)
class _Requests:
    """Those that were answered: row of the device, moments in nanoseconds, tokens."""

    row: Ints
    asked: Floats
    started: Ints
    answered: Ints
    tokens: Ints


def inference(measures: Measures) -> list[dict[str, Any]] | None:
    """A row a group of devices; None where nobody was asked anything."""
    columns = measures.columns
    if not columns.has("asked") and not columns.has("answered"):
        return None
    requests = _requests(columns)
    group = np.fromiter((node.group for node in columns.nodes), np.int64, len(columns.nodes))
    short = np.zeros(len(columns.nodes), np.bool_)
    short[columns.table.rows([mark.node for mark in columns.named("out_of_memory")])] = True
    return [
        _of_group(measures, requests, columns.devices & (group == number), short)
        for number in np.unique(group[columns.devices]).tolist()
    ]


def _requests(columns: Columns) -> _Requests:
    """Each answer with what was asked before it; a device that left in between owes one."""
    waiting: dict[int, Mark] = {}
    found: list[tuple[int, float, int, int, int]] = []
    for mark in columns.named("asked", "answered"):
        if mark.name == "asked":
            waiting[mark.node] = mark
        elif (asked := waiting.pop(mark.node, None)) is not None:
            found.append((mark.node, asked.value * SECOND, asked.time, mark.time, int(mark.value)))
    nodes, moments, started, answered, tokens = zip(*found, strict=True) if found else ((),) * 5
    return _Requests(
        columns.table.rows(list(nodes)),
        np.array(moments, np.float64),
        np.array(started, np.int64),
        np.array(answered, np.int64),
        np.array(tokens, np.int64),
    )


def _of_group(measures: Measures, requests: _Requests, members: Bools, short: Bools) -> dict[str, Any]:
    nodes, spans = measures.columns.nodes, measures.columns.spans
    mine = members[requests.row]
    count, tokens = int(mine.sum()), int(requests.tokens[mine].sum())
    kept = members[spans.node] & ~spans.wasted
    lengths = (spans.end - spans.start) / SECOND
    later = kept & spans.kind.among(NEXT)
    decoding = float(lengths[later].sum())
    further = tokens * int(later.sum()) / (int(later.sum()) + count) if count else 0.0  # of a request, but the first
    joules = _joules(measures, requests, members)
    peak = measures.peak_memory[members]
    return {
        "profile": nodes[int(np.flatnonzero(members)[0])].profile,
        "devices": int(members.sum()),
        "out_of_memory": int((members & short).sum()),
        "requests": count,
        "latency_s": _quantiles((requests.answered - requests.asked)[mine] / SECOND),
        "first_token_s": _quantiles(_first_tokens(measures.columns, requests, mine)),
        "tokens": tokens or None,
        "tokens_per_s": further / decoding if decoding else None,
        "joules_per_request": finite(joules / count) if count else None,
        "joules_per_token": finite(joules / tokens) if tokens else None,
        "peak_memory_bytes": None if np.isnan(peak).all() else int(np.nanmax(peak)),
    }


def _quantiles(values: Floats) -> dict[str, float] | None:
    return {name: float(np.percentile(values, share)) for name, share in QUANTILES} if len(values) else None


def _first_tokens(columns: Columns, requests: _Requests, mine: Bools) -> Floats:
    """Seconds from the moment of each request to the end of its prompt; none where there are no prompts."""
    spans = columns.spans
    found: list[float] = []
    for row in np.unique(requests.row[mine]).tolist():
        prompts = np.flatnonzero((spans.node == row) & spans.kind.among(FIRST) & ~spans.wasted)
        if not len(prompts):
            continue
        prompts = prompts[np.argsort(spans.start[prompts], kind="stable")]
        these = mine & (requests.row == row)
        at = np.searchsorted(spans.start[prompts], requests.started[these])
        found += ((spans.end[prompts[at]] - requests.asked[these]) / SECOND).tolist()
    return np.array(found)


def _joules(measures: Measures, requests: _Requests, members: Bools) -> float:
    """Of devices from their first request to their last answer, without radios; NaN where a profile has no power."""
    spans, total = measures.columns.spans, 0.0
    for row in np.unique(requests.row[members[requests.row]]).tolist():
        node, mine = measures.columns.nodes[row], requests.row == row
        first, last = int(requests.started[mine].min()), int(requests.answered[mine].max())
        base = node.idle_watts if node.ready_watts is None else node.ready_watts
        inside = (spans.node == row) & (spans.start >= first) & (spans.end <= last)
        busy = float((spans.end - spans.start)[inside].sum()) / SECOND
        total += base * (last - first) / SECOND + (node.busy_watts - base) * busy
    return total


# ------------------------------------------------------------------------------------------- for people


def _between(write: Callable[[float], str]) -> Callable[[Any], str]:
    return lambda found: f"{write(found['p50'])} / {write(found['p95'])}"


_COLUMNS: Final[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
    "requests": ("requests", str),
    "latency_s": ("latency p50 / p95", _between(human_seconds)),
    "first_token_s": ("first token", _between(human_seconds)),
    "tokens_per_s": ("tokens/s", "{:.3g}".format),
    "joules_per_request": ("J/request", lambda value: human_count(value, "J")),
    "joules_per_token": ("J/token", lambda value: human_count(value, "J")),
    "peak_memory_bytes": ("memory, peak", lambda value: human_count(value, "B")),
}


def lines(rows: Sequence[Mapping[str, Any]], *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a table, without columns that nobody has a figure for; a `brief` one fits a terminal."""
    known = {key: column for key, column in _COLUMNS.items() if any(row[key] is not None for row in rows)}
    if brief:
        known.pop("requests", None)
        if "joules_per_token" in known:
            known.pop("joules_per_request", None)
    cells = []
    for row in rows:
        texts = ["" if row[key] is None else write(row[key]) for key, (_, write) in known.items()]
        if row["out_of_memory"]:
            texts[0] = "does not fit" if row["out_of_memory"] == row["devices"] else f"{texts[0]} (does not fit all)"
        cells.append([f"{row['devices']} x {row['profile']}", *texts])
    return ["devices", *(head for head, _ in known.values())], cells
