"""The timeline in Chrome's trace format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fedsim.report.idle import CAUSES
from fedsim.report.timeline import write_timeline
from fedsim.script import SERVER
from tests.report.hand_made_traces import Tape, fedavg

KEYS = {
    "M": {"ph", "name", "pid", "tid", "args"},
    "X": {"ph", "cat", "name", "pid", "tid", "ts", "dur"},
    "s": {"ph", "cat", "name", "id", "pid", "tid", "ts"},
    "f": {"ph", "cat", "name", "id", "pid", "tid", "ts", "bp"},
}


def timeline(tape: Tape, path: Path, **options: int) -> dict[str, Any]:
    """The timeline of a trace, read back."""
    write_timeline(path, tape.columns, **options)
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def test_a_wait_is_cut_where_a_device_sits_out(tmp_path: Path) -> None:
    """And counts as three events at most where there is no room for all."""
    tape = Tape(1, 100)
    tape.trace.mark(SERVER, 20, "benched", 0)
    tape.trace.mark(SERVER, 70, "called", 0)
    tape.wait(0, 0, 100, "model")
    slices = [event for event in timeline(tape, tmp_path / "t.gz")["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["ts"], event["dur"]) for event in slices] == [
        *(("model", 0.0, 0.02), ("unselected", 0.02, 0.05)),
        ("model", 0.07, 0.03),
    ]
    assert timeline(tape, tmp_path / "t.gz", events=3)["otherData"].get("thinned") is None
    assert timeline(tape, tmp_path / "t.gz", events=2)["otherData"]["thinned"].startswith("3 events are more than 2")


def test_every_event_has_what_the_format_asks_for(tmp_path: Path) -> None:
    """Phases M, X, s and f, numbers where numbers belong; arrows in pairs; no process 0."""
    events = timeline(fedavg(), tmp_path / "t.gz")["traceEvents"]
    for event in events:
        assert set(event) - {"args"} >= KEYS[event["ph"]] - {"args"}, event
        assert isinstance(event["pid"], int)
        assert event["pid"] >= 1
        assert all(isinstance(event[key], int | float) for key in ("ts", "dur") if key in event)
    starts, ends = ([e["id"] for e in events if e["ph"] == phase] for phase in "sf")
    assert starts == ends == [0, 1, 2, 3]
    arrows = [(e["pid"], e["ts"]) for e in events if e["ph"] in "sf"]
    assert arrows[:4] == [(1, 0.0), (2, 0.01), (2, 0.02), (1, 0.03)], "from the send to the delivery"
    assert {e["tid"] for e in events if e["ph"] == "X"} == {1}, "lane 0"
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "server (a6000)", 2: "device-0 (pi)", 3: "device-1 (pi)"}


def test_slices_are_spans_and_waits_cut_by_cause(tmp_path: Path) -> None:
    """In microseconds, exact to the nanosecond; a slice of waiting bears the name of its cause."""
    events = timeline(fedavg(), tmp_path / "t.gz")["traceEvents"]
    slices = [(e["ts"], e["dur"], e["name"]) for e in events if e["ph"] == "X" and e["pid"] == 2]
    assert sorted(slices) == [
        (0.0, 0.01, "model"),
        (0.01, 0.01, "step"),
        (0.02, 0.01, "model"),
        (0.03, 0.03, "straggler"),
        (0.06, 0.02, "model"),
    ]
    assert {e["name"] for e in events if e.get("cat") == "idle"} <= set(CAUSES)


def test_times_keep_their_nanoseconds_after_years(tmp_path: Path) -> None:
    """They are written as digits, not as floats divided by a thousand."""
    tape = Tape(1, 10**17 + 1)
    tape.span(0, 10**17, 10**17 + 1)
    write_timeline(tmp_path / "t.gz", tape.columns)
    assert b'"ts":100000000000000.000,"dur":0.001' in gzip.decompress((tmp_path / "t.gz").read_bytes())


def test_the_same_trace_gives_the_same_bytes(tmp_path: Path) -> None:
    """gzip's header holds neither time nor name."""
    for name in ("a.gz", "b.gz"):
        write_timeline(tmp_path / name, fedavg().columns)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert (tmp_path / "a.gz").read_bytes()[3:8] == bytes(5), "no flags, so no name, and no moment"


def test_a_long_run_is_thinned_in_its_middle_and_says_so(tmp_path: Path) -> None:
    """Both ends stay whole, arrows stay pairs, and `otherData` tells what is missing."""
    tape = Tape(1, 1000)
    for start in range(0, 1000, 10):
        tape.span(0, start, start + 5)
        tape.wait(0, start + 5, start + 10, "model", tape.send(SERVER, 0, "model", start, start + 10))
    whole, thin = timeline(tape, tmp_path / "a.gz"), timeline(tape, tmp_path / "b.gz", events=100)
    assert "thinned" not in whole["otherData"]
    assert thin["otherData"]["thinned"].startswith("400 events are more than 100; from")
    shown = [event for event in thin["traceEvents"] if event["ph"] != "M"]
    assert 80 <= len(shown) <= 100
    assert [e["id"] for e in shown if e["ph"] == "s"] == [e["id"] for e in shown if e["ph"] == "f"]
    spans = [e["ts"] for e in shown if e["name"] == "step"]
    middle = [ts for ts in spans if 0.1 < ts < 0.9]
    assert max(middle) - min(middle) > 0.4, "thinned throughout, not cut off"
    assert spans[:9] == [pytest.approx(0.01 * n) for n in range(9)]
    assert spans[-9:] == [pytest.approx(0.91 + 0.01 * n) for n in range(9)]


def test_waits_that_span_many_rounds_stay_within_the_limit(tmp_path: Path) -> None:
    """An unselected device's wait has two pieces a round; they count before they are made."""
    tape = Tape(1, 1000)
    for number in range(100):
        tape.round(number, 10 * number, 10 * number + 5, [])
    tape.wait(0, 0, 1000, "model")
    tape.span(SERVER, 0, 1000)
    for limit in (50, 150):
        events = timeline(tape, tmp_path / "t.gz", events=limit)["traceEvents"]
        assert sum(event["ph"] == "X" for event in events) <= limit
    assert len(timeline(tape, tmp_path / "t.gz")["traceEvents"]) == 201 + 6
