"""nodes.csv and curves.csv."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

from fedsim.report.measures import measure
from fedsim.report.tables import CURVES, NODES, node_rows, write_curves, write_nodes
from tests.report.hand_made_traces import Tape, fedavg


def test_a_row_a_node(tmp_path: Path) -> None:
    """Seconds by state add up to the active time; bytes by direction and purpose; peak memory is empty."""
    write_nodes(tmp_path / "nodes.csv", measure(fedavg().trace))
    with (tmp_path / "nodes.csv").open(newline="") as file:
        server, fast, slow = csv.DictReader(file)
    assert tuple(fast) == NODES
    assert (server["node"], fast["node"], slow["name"], slow["profile"]) == ("-1", "0", "device-1", "pi")
    states = [float(fast[key]) for key in NODES[5:13]]
    assert math.isclose(sum(states), float(fast["active_s"]))
    assert float(fast["straggler_s"]) == 30e-9
    assert (fast["bytes_up_weights"], fast["bytes_down_weights"], server["bytes_up_weights"]) == ("100", "100", "200")
    assert [fast[f"macs{part}"] for part in ("", "_forward", "_backward", "_head", "_wasted")] == [
        "30",
        "10",
        "20",
        "",
        "0",
    ]
    assert [fast[key] for key in ("samples", "contributions", "trained", "delivered")] == ["8", "1", "1", "1"]
    assert {fast[key] for key in ("offered", "sent", "skipped", "rejected", "consumed")} == {""}, "nothing is offered"
    assert (server["contributions"], server["trained"]) == ("", ""), "the server gives nothing to itself"
    assert (fast["idle"], fast["idle_whole_run"], server["idle"]) == ("0.875", "0.875", "0.875")
    assert fast["peak_memory_bytes"] == ""


def test_only_the_first_rows_are_made_where_only_they_are_shown() -> None:
    """A report shows 200 nodes of 100,000."""
    assert [row[0] for row in node_rows(measure(fedavg().trace), 2)] == [-1, 0]


def test_a_row_an_evaluation(tmp_path: Path) -> None:
    """Time, the round it fell in, version, accuracy, loss and samples seen; what is missing is empty."""
    tape = Tape(1, 100)
    tape.evaluate(5, 0.1, 2.3, 0)
    tape.round(4, 10, 50, [0])
    tape.evaluate(20, 0.25, math.nan, 64, version=3)
    write_curves(tmp_path / "curves.csv", measure(tape.trace))
    text = (tmp_path / "curves.csv").read_text().splitlines()
    assert text[0] == ",".join(CURVES) == "time,round,version,accuracy,loss,samples"
    assert text[1:] == ["5e-09,,0,0.1,2.3,0", "2e-08,4,3,0.25,,64"]


def test_a_node_without_power_has_no_joules(tmp_path: Path) -> None:
    """An empty cell, not `nan`."""
    tape = fedavg()
    server, *devices = tape.trace.nodes
    tape.trace.nodes = (server, *(replace(node, busy_watts=math.nan) for node in devices))
    write_nodes(tmp_path / "nodes.csv", measure(tape.trace))
    with (tmp_path / "nodes.csv").open(newline="") as file:
        joules = [row["joules"] for row in csv.DictReader(file)]
    assert float(joules[0]) > 0
    assert joules[1:] == ["", ""]
