"""What Chrome's trace format asks for, as a schema, and what a timeline that says it has to mean."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_NUMBER = {"type": "number", "minimum": 0}
_TEXT = {"type": "string", "minLength": 1}
_PLACE: dict[str, Any] = {"pid": {"type": "integer", "minimum": 1}, "tid": {"type": "integer", "minimum": 1}}


def _event(phase: str, optional: dict[str, Any] | None = None, /, **fields: Any) -> dict[str, Any]:
    properties = {"ph": {"const": phase}, "name": _TEXT, **_PLACE, **fields}
    return {
        "type": "object",
        "properties": properties | (optional or {}),
        "required": list(properties),
        "additionalProperties": False,
    }


def _named(what: str, /, **args: Any) -> dict[str, Any]:
    inner = {"type": "object", "properties": args, "required": list(args), "additionalProperties": False}
    return _event("M", name={"const": what}, args=inner)


_FLOW: dict[str, Any] = {"cat": {"const": "message"}, "id": {"type": "integer"}, "ts": _NUMBER}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["displayTimeUnit", "traceEvents"],
    "additionalProperties": False,
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object", "additionalProperties": {"type": "string"}},
        "traceEvents": {
            "type": "array",
            "items": {
                "oneOf": [
                    _named("process_name", name=_TEXT),
                    _named("process_sort_index", sort_index={"type": "integer"}),
                    _named("thread_name", name=_TEXT),
                    _event("X", {"args": {"type": "object"}}, cat=_TEXT, ts=_NUMBER, dur=_NUMBER),
                    _event("s", {"args": {"type": "object"}}, **_FLOW),
                    _event("f", bp={"const": "e"}, **_FLOW),
                    _event(
                        "C",
                        cat={"const": "counter"},
                        ts=_NUMBER,
                        args={
                            "type": "object",
                            "minProperties": 1,
                            "maxProperties": 1,
                            "additionalProperties": _NUMBER,
                        },
                    ),
                ]
            },
        },
    },
}
VALIDATOR = Draft202012Validator(SCHEMA)

Events = list[dict[str, Any]]


def read(path: Path) -> dict[str, Any]:
    """A timeline; its numbers are exact."""
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)
    return found


def check(document: dict[str, Any]) -> None:
    """Raise an AssertionError where a timeline breaks the format or means nothing."""
    plain = json.loads(json.dumps(document, default=float))
    first = next(iter(VALIDATOR.iter_errors(plain)), None)
    assert first is None, f"{first.message} at {list(first.absolute_path)}" if first else ""
    events = document["traceEvents"]
    lanes = _lanes(events)
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert set(lanes) <= named, f"lanes without a name: {sorted(set(lanes) - named)}"
    for lane, slices in lanes.items():
        _check_nesting(lane, slices)
    _check_flows(events, lanes)
    for series in counters(events).values():
        moments = [moment for moment, _ in series]
        assert moments == sorted(set(moments)), "a counter goes forward, one value a moment"
        assert series[-1][1] == 0, "in the end nothing flows and nothing waits"


def counters(events: Events) -> dict[tuple[int, str], list[tuple[Decimal, Decimal]]]:
    """The values of each counter by process and name: moment in µs, value."""
    found: dict[tuple[int, str], list[tuple[Decimal, Decimal]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            (value,) = event["args"].values()
            found[event["pid"], event["name"]].append((Decimal(event["ts"]), Decimal(value)))
    return found


def integral(series: Iterable[tuple[Decimal, Decimal]]) -> float:
    """The area under a counter, in its unit times seconds."""
    steps = list(series)
    pairs = pairwise(steps)
    return float(sum(((end - start) * value for (start, value), (end, _) in pairs), Decimal(0)) / 1_000_000)


Lanes = dict[tuple[int, int], list[tuple[Decimal, Decimal]]]


def _lanes(events: Events) -> Lanes:
    lanes: Lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            start = Decimal(event["ts"])
            lanes[event["pid"], event["tid"]].append((start, start + Decimal(event["dur"])))
    return lanes


def _check_nesting(lane: tuple[int, int], slices: list[tuple[Decimal, Decimal]]) -> None:
    """A slice lies within the one that it begins in."""
    open_: list[Decimal] = []
    for start, end in sorted(slices, key=lambda one: (one[0], -one[1])):
        while open_ and open_[-1] <= start:
            open_.pop()
        assert not open_ or end <= open_[-1], f"slices of {lane} cross at {start}"
        open_.append(end)


def _check_flows(events: Events, lanes: Lanes) -> None:
    """Each arrow begins once and ends once, later, and both ends lie in a slice."""
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert len(starts) + len(ends) == sum(event["ph"] in "sf" for event in events), "a number is used twice"
    assert starts.keys() == ends.keys()
    for number, start in starts.items():
        end = ends[number]
        assert start["ts"] <= end["ts"]
        assert start["name"] == end["name"]
        for one in (start, end):
            slices = lanes.get((one["pid"], one["tid"]), [])
            assert any(s <= one["ts"] < e for s, e in slices), f"arrow {number} hangs loose at {one['ts']}"
