"""The report as one HTML file."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from fedsim.report.charts import Axis, Series, bar, curves, ticks
from fedsim.report.html import Run, render
from fedsim.report.measures import measure
from fedsim.report.summary import summarise
from fedsim.script import SERVER
from tests.report.hand_made_traces import SCENARIO, Tape, fedavg

VOID = {"meta", "br", "line", "polyline", "polygon"}  # have no content

SOURCES: list[dict[str, Any]] = [
    {
        "of": "pi",
        "kind": "profile",
        "speed": "2 GMAC/s",
        "trust": "not calibrated",
        "figures": [
            {"fields": "power.idle, power.busy", "confidence": "measured", "source": "a table <of> watts"},
            {"fields": "variation", "confidence": "unverified", "source": "plausible"},
        ],
    },
    {"of": "inline", "kind": "link", "speed": "up 8 Mbit/s, down 8 Mbit/s", "figures": []},
]


class Checker(HTMLParser):
    """Finds tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def run(tape: Tape | None = None, **more: Any) -> Run:
    """A run by hand."""
    trace = (fedavg() if tape is None else tape).trace
    return Run({**summarise(trace, status="done", wall_seconds=1.0), **more}, measure(trace), trace.scenario, SOURCES)


def test_one_run_has_every_part() -> None:
    """Figures, curve, bars, bytes, nodes and scenario; well formed."""
    page = render([run()])
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    for said in ("87.5 %", "60.0 %", "416 B", "device-1", "group 1: 1 × pi", "local_steps: 2", "straggler 37.5 %"):
        assert said in page
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads == [
        *("Key figures", "Quality", "Busy and idle time by cause", "Who did what when", "Bytes delivered", "Devices"),
        *("Nodes", "What this rests on", "Resolved scenario"),
    ]
    assert "prefers-color-scheme: dark" in page


def test_the_page_needs_no_network_and_runs_no_code_but_its_own() -> None:
    """No address, import or link; one script, and a policy that admits that text alone."""
    page = render([run(), run(scheduler="ampere")])
    assert not re.search(r"https?://|src=|@import|url\(|<link|href", page)
    (code,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\"" in page


def test_several_runs_are_compared() -> None:
    """A line and a column a run, named by what differs."""
    page = render([run(), run(scheduler="ampere")])
    assert "<h1>fedavg | ampere</h1>" in page
    assert page.count("<polyline") == 2 * 4, "over time, bytes and joules, and the loss"
    said = re.findall(r'<p class="sub">(.*)</p>', page)[0].split("<br>")
    assert ["scheduler ampere, 2 devices, seed 7" in line for line in said] == [False, True]
    assert "Which system wins, and why" in page


def test_what_comes_from_a_run_is_escaped() -> None:
    """Names, profiles and scenario values are text."""
    evil = "<img src=x onerror=alert(1)>"
    page = render([run(Tape(1, 10, {**SCENARIO, "name": evil, "model": {"name": evil}}))])
    assert "<img" not in page
    assert page.count("&lt;img") > 3
    packed = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(packed) == 1
    assert "<" not in packed[0]


def test_a_run_without_evaluations_says_so() -> None:
    """Instead of an empty picture."""
    assert "No evaluation was recorded." in render([run(Tape(1, 10))])


def test_only_the_first_nodes_are_listed() -> None:
    """200 of 301, with a pointer to the table that has all."""
    page = render([run(Tape(300, 10))])
    assert "the first 200 of 301 nodes; all are in nodes.csv" in page
    assert "device-198<" in page
    assert "device-199<" not in page


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (3, 3, [1, 2, 3, 4, 5]), (-4, 11, [-5, 0, 5, 10, 15])],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    """Also where all values are one."""
    assert ticks(low, high) == expected


def test_a_curve_keeps_its_last_point_and_skips_what_is_not_a_number() -> None:
    """However many evaluations there were."""
    points = [(float(n), n / 4000) for n in range(4000)]
    series = [Series("a", [*points, (4000.0, float("nan"))])]
    picture = curves("accuracy", series, Axis("s", 1.0, "{:g}".format), "{:g}".format)
    assert "nan" not in picture
    coordinates = re.findall(r'points="([^"]*)"', picture)[0].split()
    assert 1000 < len(coordinates) < 1600


def test_a_bar_is_as_long_as_its_shares() -> None:
    """States without a share have no piece."""
    assert bar([0.25, 0, 0.75, 0, 0, 0, 0, 0]).count("<i ") == 2
    assert "width:75.000%" in bar([0.25, 0, 0.75, 0, 0, 0, 0, 0])


def cells(page: str, head: str) -> list[str]:
    """The text of the cells of the first row that begins so."""
    row = re.search(rf"<tr><td[^>]*>{re.escape(head)}</td>.*?</tr>", page)
    assert row is not None
    return re.findall(r"<td[^>]*>(.*?)</td>", row[0])


def test_bytes_are_totalled_and_each_node_has_its_two_directions() -> None:
    """Up is up and down is down, also in the sum of a row."""
    tape = Tape(1, 100)
    tape.send(SERVER, 0, "model", 0, 10, weights=500)
    tape.send(0, SERVER, "activations", 10, 20, activations=30, labels=4)
    page = render([run(tape)])
    assert cells(page, "up")[2:] == ["30 B", "0 B", "0 B", "4 B", "0 B", "34 B"]
    assert "width:6.000%" in cells(page, "up")[1], "all bars are on the scale of the longest, of 500 B"
    assert cells(page, "down")[-1] == "500 B"
    assert cells(page, "0")[-2:] == ["34 B", "500 B"]


def test_what_was_lost_stands_below_the_bytes() -> None:
    """Payload and envelopes apart; what was lost or is under way is in neither."""
    tape = Tape(1, 100)
    tape.send(SERVER, 0, "model", 0, 10, weights=500, control=64)
    tape.send(0, SERVER, "contribution", 10, 20, weights=30, control=4, outcome="sender left")
    tape.send(0, SERVER, "contribution", 30, 100, weights=7, outcome="in flight")
    assert (
        "Payload 500 B, envelopes (control) 64 B. Not counted in these: 34 B lost on the way, 7 B still under way"
        in render([run(tape)])
    )


def test_what_devices_gave_stands_beside_their_idle_time() -> None:
    """By group, from the fewest to the most; the server gives nothing. Nodes have the columns that the run has."""
    tape = Tape(3, 100)
    for device, batches in ((0, 5), (1, 2), (2, 3)):
        tape.span(device, 0, 20 * (device + 1))
        tape.wait(device, 20 * (device + 1), 100, "sleep")
        tape.send(device, SERVER, "activations", 0, 10, activations=8)
        for _ in range(batches):
            tape.trace.mark(SERVER, 50, "consumed", device)
    page = render([run(tape)])
    assert "<th>consumed, fewest–most</th>" in page
    assert cells(page, "server")[2:] == ["100.0 %", "100.0 %", "100.0 %", ""]
    assert cells(page, "all 3 devices")[2:] == ["60.0 %", "40.0 %–80.0 %", "60.0 %", "2–5"]
    assert cells(page, "group 0: 2 × pi")[-1] == "3–5"
    assert "<th>skipped</th>" in page
    assert "<th>skipped</th>" not in render([run()]), "a full model is offered to nobody"


def test_the_bars_say_how_much_of_the_time_was_idle() -> None:
    """The rest of what a node was busy."""
    tape = Tape(1, 100)
    tape.span(0, 0, 20)
    tape.wait(0, 20, 100, "sleep")
    found = cells(render([run(tape)]), "all 1 devices")
    assert found[2:] == ["80.0 %", "80.0 %", "80.0 %", "0–0"]


def test_perplexity_is_drawn_as_perplexity() -> None:
    """exp of the loss, and no per cent sign."""
    tape = Tape(1, 10**10, {**SCENARIO, "until": {"perplexity": 2.0}})
    tape.evaluate(10**9, 0.1, 0.0, 5)
    tape.evaluate(2 * 10**9, 0.1, math.log(3), 9)
    assert ": 3 at 2 s</title>" in render([run(tape)])
    loss = Tape(1, 10**10, {**SCENARIO, "until": {"loss": 0.1}})
    loss.evaluate(10**9, 0.1, 0.75, 5)
    assert ": 0.75 at 1 s</title>" in render([run(loss)])


def test_the_title_counts_the_runs() -> None:
    """A tab of a browser shows little else."""
    assert "<title>2 systems – fedsim</title>" in render([run(), run(scheduler="ampere")])
    assert "<title>by-hand · fedavg – fedsim</title>" in render([run()])


def test_an_emulation_shows_its_fidelity() -> None:
    """Among the key figures; the page says that it is an emulation."""
    tape = fedavg()
    tape.scenario = {**SCENARIO, "mode": "emulate"}
    tape.trace.scenario = tape.scenario
    tape.trace.clock_bound = 5
    found = run(tape, fidelity={"faithful": True, "dilation": 2.0, "overrun_ratio": 0.0, "lag_s": 0.0})
    page = render([found])
    assert "emulation, scheduler fedavg" in page
    assert "<b>faithful</b><span>emulation</span>" in page
    assert "<b>2</b><span>wall seconds a second</span>" in page
