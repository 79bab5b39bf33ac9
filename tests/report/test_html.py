"""The report as one HTML file."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from fedsim.report.charts import Axis, Series, bar, curves, ticks
from fedsim.report.comparison import Column, Grid
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
    """Finds tags that do not close in order, and lists all tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen |= {tag, *(name for name, _ in attrs)}
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
    assert "<h1>by-hand: fedavg | ampere</h1>" in page
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


EVIL = "<evil onx='1' ony=\"2\">"


def everywhere_evil(scheduler: str = "fedavg") -> Run:
    """A run in which all that has a name is called by markup."""
    tape = fedavg()
    scenario = {**SCENARIO, "name": EVIL, "scheduler": {"name": EVIL + scheduler}, EVIL: EVIL, "model": {"name": EVIL}}
    tape.trace.scenario = {**scenario, "data": {"name": EVIL}, "codec": {EVIL: EVIL}, "network": {"latency": EVIL}}
    tape.trace.nodes = tuple(replace(one, name=EVIL, profile=EVIL) for one in tape.trace.nodes)
    tape.trace.mark(SERVER, 0, "memory.peak", 1.0)
    metric = {"name": "accuracy", "final": 0.5 + (scheduler == "ampere") / 4, "best": 0.9}  # one wins
    found = run(tape, scheduler=EVIL + scheduler, energy_label=EVIL, status=EVIL, mode=EVIL, metric=metric)
    figure = {"fields": EVIL, "confidence": "measured", "source": EVIL}
    sources = [{"of": EVIL, "kind": "profile", "speed": EVIL, "trust": EVIL, "figures": [figure]}]
    return Run(
        found.summary, found.measures, found.scenario, [*sources, {**sources[0], "of": scheduler, "figures": []}]
    )


@pytest.mark.parametrize("schedulers", [["fedavg"], ["fedavg", "ampere"]])
def test_no_name_becomes_markup(schedulers: list[str]) -> None:
    """Neither a tag nor an attribute, in no part of a page: of one run, and of two with the tables of a comparison."""
    checker = Checker()
    runs = [everywhere_evil(name) for name in schedulers]
    column = Column("seconds", EVIL, EVIL, lambda _: None, str)
    page = render(runs, [Grid(EVIL, [column], {EVIL: [(EVIL, True)]}, [EVIL])] if len(runs) > 1 else ())
    checker.feed(page)
    assert checker.open == []
    assert "details" in checker.seen
    assert len(runs) == 1 or "next: &lt;evil" in page, "one wins"
    assert not {"evil", "onx", "ony"} & checker.seen


def test_a_run_without_evaluations_says_so() -> None:
    """Instead of an empty picture."""
    assert "No evaluation was recorded." in render([run(Tape(1, 10))])


def test_only_the_first_nodes_are_listed() -> None:
    """200 of 301, folded away, with a pointer to the table that has all; of few nodes the table is open."""
    page = render([run(Tape(300, 10))])
    assert "<summary>301 nodes</summary>" in page
    assert "nodes</summary>" not in render([run(Tape(29, 10))])
    assert "<summary>31 nodes</summary>" in render([run(Tape(30, 10))])
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


def test_systems_are_set_side_by_side_by_what_they_were_idle() -> None:
    """Server and devices of each, above the groups of each; the share of a group is the mean of its devices."""
    tape = Tape(3, 100)
    for device, busy in ((0, 20), (1, 50), (2, 70)):
        tape.span(device, 0, busy)
        tape.wait(device, busy, 100, "sleep")
    page = render([run(tape), run(scheduler="ampere")])
    assert cells(page, "devices, fedavg")[2] == "53.3 %"
    assert cells(page, "server, ampere")[2] == "87.5 %"
    assert 'style="width:46.667%" title="busy 46.7 %"' in cells(page, "devices, fedavg")[1]
    group = cells(page, "group 0: 2 × pi")
    assert 'style="width:45.000%" title="busy 45.0 %"' in group[1]
    assert 'style="width:55.000%" title="sleep 55.0 %"' in group[1]


def test_the_fullest_node_of_each_group_is_that_with_the_least_room() -> None:
    """By its share, not by its bytes; more than there is stands out."""
    tape = Tape(4, 100)
    small = replace(tape.trace.nodes[1], memory=1e9)
    tape.trace.nodes = (tape.trace.nodes[0], small, *tape.trace.nodes[2:])
    for device, peak in ((0, 0.5e9), (2, 1e9), (1, 5e9)):  # of 1, 4 and 4 GB
        tape.trace.mark(device, 50, "memory.peak", peak)
    page = render([run(tape)])
    memory = page.partition("<h2>Memory</h2>")[2]
    assert cells(memory, "group 0: 2 × pi")[2:] == ["500 MB", "1 GB", "50.0 %"]
    assert 'class="busy" style="width:50.000%"' in cells(memory, "group 0: 2 × pi")[1]
    assert cells(memory, "group 1: 2 × pi")[2:] == ["5 GB", "4 GB", "125.0 %"]
    assert 'class="wasted" style="width:100.000%"' in cells(memory, "group 1: 2 × pi")[1]


def test_devices_are_drawn_group_by_group() -> None:
    """What each gave and drew, whatever the order of their numbers."""
    tape = Tape(3, 10**9)  # 0 and 2 in one group, 1 in the other
    tape.trace.nodes = tuple(replace(one, busy_watts=2.0 + one.number) for one in tape.trace.nodes)
    for device in range(3):
        tape.span(device, 0, 10**9)
        for _ in range(10 + device):
            tape.send(device, SERVER, "contribution", 0, 10)
    page = render([run(tape)])
    given = page.partition("updates of each device</figcaption>")[2].partition("</figure>")[0]
    assert re.findall(r"<title>device \d: (.*?)</title>", given) == ["10", "12", "11"]
    drew = page.partition("energy of each device</figcaption>")[2].partition("</figure>")[0]
    assert re.findall(r"<title>device \d: (.*?)</title>", drew) == ["2 J", "4 J", "3 J"]


def test_the_heading_says_how_long_the_run_was() -> None:
    """In the unit that suits it."""
    assert "seed 7, done, 2 min on its own clock" in render([run(Tape(1, 120 * 10**9))])


def test_the_axes_reach_the_longest_of_all_systems() -> None:
    """Also where it is not the first."""
    short, long = Tape(1, 10**9), Tape(1, 3 * 3600 * 10**9)
    short.evaluate(10**9, 0.5, 1.0, 5)
    long.evaluate(3 * 3600 * 10**9, 0.5, 1.0, 5)
    assert "time, h</text>" in render([run(short), run(long, scheduler="ampere")])


def test_a_table_says_what_is_bold_where_anything_is() -> None:
    """And nothing where all are alike."""
    bold = "The best of each row in bold."
    heads = [Column("seconds", "length", "length", lambda _: None, str)]
    rows = [run(), run(scheduler="ampere")]
    assert bold in render(rows, [Grid("a", heads, {"x": [("1", True)], "y": [("2", False)]})])
    assert bold not in render(rows, [Grid("a", heads, {"x": [("1", False)], "y": [("1", False)]})])


def test_timelines_of_several_systems_share_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page has so many pieces, however many runs it shows."""
    monkeypatch.setattr("fedsim.report.page.alone.PIECES", 20)
    assert "more pieces than a page holds" not in render([run()])
    assert render([run(), run(scheduler="ampere")]).count("more pieces than a page holds") == 2


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
