"""`timeline.json.gz`: the run in Chrome's trace format, as Perfetto opens it.

A process is a node and a thread one of its lanes; waits lie on the first lane, under the name of their cause, so each
cause has a colour of its own. Arrows lead from a send to its delivery, from slice to slice of the first lane: from what
the sender did next to what the receiver did then. Where there is none, as behind the end of a script, one of a
nanosecond holds the arrow, since Perfetto leaves out arrows that end nowhere. Counters of a node show bytes a second by
direction and the messages that wait for its script (see `counters`). Perfetto keeps process and thread 0 for itself,
hence pid = node + 2 (the server is 1) and tid = lane + 1. Devices without any record are left out.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedsim.intervals import holds, overlapping
from fedsim.report.bench import bench
from fedsim.report.columns import Bools, Columns, Ints, Waits
from fedsim.report.counters import KINDS, WAITING, Counters, counters
from fedsim.report.identity import DELIVERED
from fedsim.report.idle import CAUSES, Pieces, pieces
from fedsim.report.rounds import rounds

EVENTS: Final = 1_000_000
_COUNTERS: Final = 0.25  # share of the events that counters may have
_EDGE: Final = 0.4  # share of the events kept for each end of the run; the middle gets the rest
_COMPRESSION: Final = 5  # a third larger than level 9, four times faster
_CHUNK: Final = 50_000


@dataclass(frozen=True, slots=True)
class Loose:
    """The ends of transfers where no slice would hold an arrow, were all of them shown."""

    start: Bools
    end: Bools


@dataclass(frozen=True, slots=True)
class Shown:
    """Which records become events, and what to say where that is not all of them."""

    spans: Bools
    waits: Bools
    transfers: Bools
    note: str


def write_timeline(path: Path, columns: Columns, events: int = EVENTS) -> None:
    """Write the timeline.

    Above `events` slices, arrow ends and counter values, its middle is thinned and counters become means; `otherData`
    says so.
    """
    counts = counters(columns, int(events * _COUNTERS))
    loose = _loose(columns)
    shown = choose(columns, events - len(counts), loose)
    waits = pieces(columns, shown.waits)
    shown = _held(columns, shown, waits, loose)
    note = "; ".join(filter(None, (shown.note, counts.note)))
    about = {"clock": "ns of the run, shown as µs", **({"thinned": note} if note else {})}
    head = json.dumps({"displayTimeUnit": "ms", "otherData": about})[:-1]
    lines = chain(
        _names(columns, shown, waits, counts),
        _spans(columns, shown),
        _waits(columns, waits),
        _arrows(columns, shown, loose),
        _counts(columns, counts),
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


def choose(columns: Columns, events: int, loose: Loose) -> Shown:
    """The records to show: all of them, or both ends of the run in full and every n-th record of its middle."""
    spans, waits, sent = columns.spans, columns.waits, columns.transfers
    delivered = sent.outcome.among(DELIVERED)
    starts = np.concatenate((spans.start, waits.start, sent.queued[delivered]))
    ones, pairs = np.ones(len(spans.start), np.int64), (2 + loose.start.astype(np.int64) + loose.end)[delivered]
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


def _loose(columns: Columns) -> Loose:
    sent, waits = columns.transfers, columns.waits
    every = np.ones(len(columns.spans.start), np.bool_)
    within = partial(_on_first_lane, columns, every, waits)
    return Loose(~within(sent.source, sent.queued), ~within(sent.target, sent.arrived))


def _held(columns: Columns, shown: Shown, waits: Pieces, loose: Loose) -> Shown:
    """Without the arrows that begin or end in a slice that is not shown."""
    if not shown.note:
        return shown
    sent = columns.transfers
    within = partial(_on_first_lane, columns, shown.spans, waits)
    starts = loose.start | within(sent.source, sent.queued)
    ends = loose.end | within(sent.target, sent.arrived)
    return replace(shown, transfers=shown.transfers & starts & ends)


def _on_first_lane(columns: Columns, chosen: Bools, waits: Waits | Pieces, node: Ints, moment: Ints) -> Bools:
    """Whether a node computes on its first lane (of the chosen spans), or waits, at a moment."""
    spans = columns.spans
    first = chosen & (spans.lane == 0)
    owners = np.concatenate((spans.node[first], waits.node))
    starts, ends = np.concatenate((spans.start[first], waits.start)), np.concatenate((spans.end[first], waits.end))
    return holds(owners, starts, ends, node, moment)


def _most_pieces(columns: Columns) -> Ints:
    """The most pieces that each wait can be cut into: two for each round and each turn of others, and one."""
    barriers, waits = rounds(columns), columns.waits
    low, high = overlapping(waits.start, waits.end, barriers.opens, barriers.closes)
    return 1 + 2 * (high - low + bench(columns).overlaps(waits.node, waits.start, waits.end))


def _names(columns: Columns, shown: Shown, waits: Pieces, counts: Counters) -> Iterator[str]:
    spans, sent = columns.spans, columns.transfers
    ends = (sent.source[shown.transfers], sent.target[shown.transfers])
    first_lane = np.concatenate((waits.node, *ends, counts.node))
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


def _arrows(columns: Columns, shown: Shown, loose: Loose) -> Iterator[str]:
    sent, here = columns.transfers, shown.transfers
    names = [json.dumps(name) for name in sent.message.names]
    values = (
        sent.message.codes,
        sent.number,
        sent.queued,
        sent.arrived,
        sent.bytes.sum(axis=0),
        loose.start,
        loose.end,
    )
    for source, target, code, number, queued, arrived, amount, from_nowhere, to_nowhere in zip(
        _pids(columns, sent.source[here]),
        _pids(columns, sent.target[here]),
        *(column[here].tolist() for column in values),
        strict=True,
    ):
        for pid, moment, nowhere in ((source, queued, from_nowhere), (target, arrived, to_nowhere)):
            if nowhere:
                named = f'"cat":"message","name":{names[code]},"pid":{pid},"tid":1'
                yield f'{{"ph":"X",{named},"ts":{_us(moment)},"dur":0.001}}'
        head = f'"cat":"message","name":{names[code]},"id":{number},"tid":1'
        yield f'{{"ph":"s",{head},"pid":{source},"ts":{_us(queued)},"args":{{"bytes":{amount}}}}}'
        yield f'{{"ph":"f","bp":"e",{head},"pid":{target},"ts":{_us(arrived)}}}'


def _counts(columns: Columns, counts: Counters) -> Iterator[str]:
    units = ["messages" if kind == WAITING else "bytes/s" for kind in range(len(KINDS))]
    for node, kind, time, value in zip(
        _pids(columns, counts.node), counts.kind.tolist(), counts.time.tolist(), counts.value.tolist(), strict=True
    ):
        yield (
            f'{{"ph":"C","cat":"counter","name":"{KINDS[kind]}","pid":{node},"tid":1,"ts":{_us(time)},'
            f'"args":{{"{units[kind]}":{value:.9g}}}}}'
        )


def _pids(columns: Columns, rows: Ints) -> list[int]:
    numbers = np.fromiter((node.number + 2 for node in columns.nodes), np.int64, len(columns.nodes))
    found: list[int] = numbers[rows].tolist()
    return found


def _us(ns: int) -> str:
    """Nanoseconds as microseconds, exactly: floats would lose them after three months."""
    return f"{ns // 1000}.{ns % 1000:03d}"
