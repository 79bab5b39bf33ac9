"""`timeline.json.gz`: the run in Chrome's trace format, as Perfetto opens it.

A process is a node and a thread one of its lanes; waits lie on the first lane, under the name of their cause, so each
cause has a colour of its own. Arrows lead from a send to its delivery. Perfetto keeps process and thread 0 for itself,
hence pid = node + 2 (the server is 1) and tid = lane + 1. Devices without any record are left out.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedsim.report.bench import bench
from fedsim.report.columns import Bools, Columns, Ints
from fedsim.report.identity import DELIVERED
from fedsim.report.idle import CAUSES, Pieces, pieces
from fedsim.report.intervals import overlapping
from fedsim.report.rounds import rounds

EVENTS: Final = 1_000_000
_EDGE: Final = 0.4  # share of the events kept for each end of the run; the middle gets the rest
_COMPRESSION: Final = 5  # a third larger than level 9, four times faster
_CHUNK: Final = 50_000


@dataclass(frozen=True, slots=True)
class Shown:
    """Which records become events, and what to say where that is not all of them."""

    spans: Bools
    waits: Bools
    transfers: Bools
    note: str


def write_timeline(path: Path, columns: Columns, events: int = EVENTS) -> None:
    """Write the timeline; above `events` slices and arrow ends its middle is thinned, and `otherData` says so."""
    shown = choose(columns, events)
    waits = pieces(columns, shown.waits)
    about = {"clock": "ns of the run, shown as µs", **({"thinned": shown.note} if shown.note else {})}
    head = json.dumps({"displayTimeUnit": "ms", "otherData": about})[:-1]
    lines = chain(
        _names(columns, shown, waits), _spans(columns, shown), _waits(columns, waits), _arrows(columns, shown)
    )
    with path.open("wb") as raw, gzip.GzipFile("", "wb", _COMPRESSION, raw, mtime=0) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
        text.write(head + ', "traceEvents": [')
        separator = "\n"
        while block := list(islice(lines, _CHUNK)):
            text.write(separator + ",\n".join(block))
            separator = ",\n"
        text.write("\n]}\n")
        text.flush()
        text.detach()


def choose(columns: Columns, events: int) -> Shown:
    """The records to show: all of them, or both ends of the run in full and every n-th record of its middle."""
    spans, waits, sent = columns.spans, columns.waits, columns.transfers
    delivered = sent.outcome.among(DELIVERED)
    starts = np.concatenate((spans.start, waits.start, sent.queued[delivered]))
    ones, pairs = np.ones(len(spans.start), np.int64), np.full(int(delivered.sum()), 2, np.int64)
    weights = np.concatenate((ones, _most_pieces(columns), pairs))
    total = int(weights.sum())
    kept, note = np.ones(len(starts), np.bool_), ""
    if total > events:
        order = np.argsort(starts, kind="stable")
        reached, edge = np.cumsum(weights[order]), int(events * _EDGE)
        middle = order[(reached > edge) & (reached - weights[order] < total - edge)]
        room = events - 2 * edge
        step = -(-int(weights[middle].sum()) // max(room, 1))
        picked = middle[::step]
        picked = picked[np.cumsum(weights[picked]) <= room]
        kept[middle] = False
        kept[picked] = True
        begin, end = (starts[at] / 1e9 for at in (middle[0], middle[-1]))
        note = f"{total} events are more than {events}; from {begin:g} s to {end:g} s, one record in {step} is shown"
    cuts = np.split(kept, [len(spans.start), len(spans.start) + len(waits.start)])
    delivered[delivered] = cuts[2]
    return Shown(cuts[0], cuts[1], delivered, note)


def _most_pieces(columns: Columns) -> Ints:
    """The most pieces that each wait can be cut into: two for each round and each turn of others, and one."""
    barriers, waits = rounds(columns), columns.waits
    low, high = overlapping(waits.start, waits.end, barriers.opens, barriers.closes)
    return 1 + 2 * (high - low + bench(columns).overlaps(waits.node, waits.start, waits.end))


def _names(columns: Columns, shown: Shown, waits: Pieces) -> Iterator[str]:
    spans, sent = columns.spans, columns.transfers
    first_lane = np.concatenate((waits.node, sent.source[shown.transfers], sent.target[shown.transfers]))
    seen = set(zip(spans.node[shown.spans].tolist(), spans.lane[shown.spans].tolist(), strict=True))
    seen |= {(row, 0) for row in np.unique(first_lane).tolist()}
    for row in sorted({row for row, _ in seen}):
        node = columns.nodes[row]
        yield _meta("process_name", node.number, 0, name=f"{node.name} ({node.profile})")
        yield _meta("process_sort_index", node.number, 0, sort_index=node.number)
    for row, lane in sorted(seen):
        yield _meta("thread_name", columns.nodes[row].number, lane, name=f"lane {lane}")


def _meta(what: str, node: int, lane: int, **args: Any) -> str:
    return json.dumps({"ph": "M", "name": what, "pid": node + 2, "tid": lane + 1, "args": args})


def _spans(columns: Columns, shown: Shown) -> Iterator[str]:
    spans, here = columns.spans, shown.spans
    names = [json.dumps(name) for name in spans.kind.names]
    values = (spans.kind.codes, spans.lane + 1, spans.start, spans.end, spans.samples, spans.macs, spans.wasted)
    for node, code, tid, start, end, samples, macs, wasted in zip(
        _pids(columns, spans.node[here]), *(column[here].tolist() for column in values), strict=True
    ):
        yield (
            f'{{"ph":"X","cat":"compute","name":{names[code]},"pid":{node},"tid":{tid},"ts":{_us(start)},'
            f'"dur":{_us(end - start)},"args":{{"samples":{samples},"macs":{macs}'
            + (',"wasted":true}}' if wasted else "}}")
        )


def _waits(columns: Columns, waits: Pieces) -> Iterator[str]:
    for node, start, end, cause in zip(
        _pids(columns, waits.node), waits.start.tolist(), waits.end.tolist(), waits.cause.tolist(), strict=True
    ):
        yield (
            f'{{"ph":"X","cat":"idle","name":"{CAUSES[cause]}","pid":{node},"tid":1,"ts":{_us(start)},'
            f'"dur":{_us(end - start)}}}'
        )


def _arrows(columns: Columns, shown: Shown) -> Iterator[str]:
    sent, here = columns.transfers, shown.transfers
    names = [json.dumps(name) for name in sent.message.names]
    values = (sent.message.codes, sent.number, sent.queued, sent.arrived, sent.bytes.sum(axis=0))
    for source, target, code, number, queued, arrived, amount in zip(
        _pids(columns, sent.source[here]),
        _pids(columns, sent.target[here]),
        *(column[here].tolist() for column in values),
        strict=True,
    ):
        head = f'"cat":"message","name":{names[code]},"id":{number},"tid":1'
        yield f'{{"ph":"s",{head},"pid":{source},"ts":{_us(queued)},"args":{{"bytes":{amount}}}}}'
        yield f'{{"ph":"f","bp":"e",{head},"pid":{target},"ts":{_us(arrived)}}}'


def _pids(columns: Columns, rows: Ints) -> list[int]:
    numbers = np.fromiter((node.number + 2 for node in columns.nodes), np.int64, len(columns.nodes))
    found: list[int] = numbers[rows].tolist()
    return found


def _us(ns: int) -> str:
    """Nanoseconds as microseconds, exactly: floats would lose them after three months."""
    return f"{ns // 1000}.{ns % 1000:03d}"
