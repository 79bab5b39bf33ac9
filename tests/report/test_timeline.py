"""The timeline in Chrome's trace format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fedsim.report.columns import tabulate
from fedsim.report.idle import CAUSES
from fedsim.report.timeline import write_timeline
from fedsim.report.traffic import traffic
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.fedoptima import FedOptima
from fedsim.schedulers.pipar import PiPar
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER
from fedsim.simulation import Fault
from fedsim.testing import simulate, toy
from tests.report import chrome_trace
from tests.report.hand_made_traces import Tape, fedavg


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


def test_arrows_lead_from_the_send_to_the_delivery(tmp_path: Path) -> None:
    """In pairs; slices lie on the first lane; no process has the number 0."""
    events = timeline(fedavg(), tmp_path / "t.gz")["traceEvents"]
    starts, ends = ([e["id"] for e in events if e["ph"] == phase] for phase in "sf")
    assert starts == ends == [0, 1, 2, 3]
    arrows = [(e["pid"], e["ts"]) for e in events if e["ph"] in "sf"]
    assert arrows[:4] == [(1, 0.0), (2, 0.01), (2, 0.02), (1, 0.03)]
    assert {e["tid"] for e in events if e["ph"] == "X"} == {1}, "lane 0"
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "server (a6000)", 2: "device-0 (pi)", 3: "device-1 (pi)"}


def test_counters_are_what_flows_and_what_waits(tmp_path: Path) -> None:
    """Bytes a second by direction, two downloads of the server at once; the message that waits from 30 to 60."""
    tape = fedavg()
    tape.trace.stays.append((SERVER, 30, 60, 1))
    write_timeline(tmp_path / "t.gz", tape.columns)
    found = chrome_trace.counters(chrome_trace.read(tmp_path / "t.gz")["traceEvents"])
    values = {key: [(float(ts), float(value)) for ts, value in series] for key, series in found.items()}
    rate = 104 / 10e-9
    assert values == {
        (1, "down"): [(0.0, 2 * rate), (0.01, 0.0)],
        (2, "down"): [(0.0, rate), (0.01, 0.0)],
        (3, "down"): [(0.0, rate), (0.01, 0.0)],
        (1, "up"): [(0.02, rate), (0.03, 0.0), (0.04, rate / 2), (0.06, 0.0)],
        (2, "up"): [(0.02, rate), (0.03, 0.0)],
        (3, "up"): [(0.04, rate / 2), (0.06, 0.0)],
        (1, "waiting"): [(0.03, 1.0), (0.06, 0.0)],
    }


def test_an_arrow_to_where_nothing_is_done_ends_in_a_slice_of_its_own(tmp_path: Path) -> None:
    """Of a nanosecond: the run ends when the message arrives."""
    tape = Tape(1, 10)
    tape.span(SERVER, 0, 10)
    tape.wait(0, 0, 10, "model", tape.send(SERVER, 0, "model", 2, 10))
    write_timeline(tmp_path / "t.gz", tape.columns)
    document = chrome_trace.read(tmp_path / "t.gz")
    chrome_trace.check(document)
    held = [(e["pid"], float(e["ts"]), float(e["dur"])) for e in document["traceEvents"] if e.get("cat") == "message"
            and e["ph"] == "X"]  # fmt: skip
    assert held == [(2, 0.01, 0.001)]


RUNS: dict[str, Any] = {
    "fedavg": lambda: toy(FedAvg(local_steps=2), devices=3, rounds=2, participants=2),
    "pipar": lambda: toy(PiPar(micro_batches=3, local_steps=1), devices=5, rounds=1),
    "splitfed": lambda: toy(SplitFed(local_steps=2), devices=5, faults=[Fault(device=1, leave=0.006)]),
    "fedoptima": lambda: toy(FedOptima(local_steps=2, activation_cap=2), devices=4, rounds=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("events", [1_000_000, 200])
@pytest.mark.parametrize("name", RUNS)
def test_a_timeline_keeps_to_the_format_and_makes_sense(name: str, events: int, tmp_path: Path) -> None:
    """Every kind of event by a schema; slices nest; arrows hold at both ends; counters hold the bytes and the stays.

    Whole, and thinned to few events.
    """
    trace = simulate(RUNS[name](), learning=False).simulation.trace
    columns = tabulate(trace)
    write_timeline(tmp_path / "t.gz", columns, events)
    document = chrome_trace.read(tmp_path / "t.gz")
    chrome_trace.check(document)
    assert sum(event["ph"] != "M" for event in document["traceEvents"]) <= events
    found = {key: chrome_trace.integral(series) for key, series in
             chrome_trace.counters(document["traceEvents"]).items()}  # fmt: skip
    carried = traffic(columns).delivered.sum(axis=1)
    for row, node in enumerate(columns.nodes):
        stays = sum(end - start for at, start, end, _ in trace.stays if at == node.number) / 1e9
        for key, amount in (("up", carried[0, row]), ("down", carried[1, row]), ("waiting", stays)):
            if amount and ((node.number + 2, key) in found or events > 200):
                assert found[node.number + 2, key] == pytest.approx(amount, rel=1e-6)
    if events > 200:
        assert {event["ph"] for event in document["traceEvents"]} == set("MXsfC")
        waiting = {pid for pid, key in found if key == "waiting"}
        assert waiting == {"fedavg": set(), "fedoptima": {2, 3, 4}}.get(name, {1}), "1 is the server"


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
    tape.span(SERVER, 0, 1000, "aggregate")
    for start in range(0, 1000, 10):
        tape.span(0, start, start + 5)
        tape.wait(0, start + 5, start + 10, "model", tape.send(SERVER, 0, "model", start, start + 10))
    whole, thin = timeline(tape, tmp_path / "a.gz"), timeline(tape, tmp_path / "b.gz", events=100)
    assert "thinned" not in whole["otherData"]
    assert thin["otherData"]["thinned"].startswith("402 events are more than 100; from")
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
