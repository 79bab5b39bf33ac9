"""The timeline of a page: rows, pieces, their encoding, and what becomes of too many."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.report.page.lanes import Lanes, lanes
from fedsim.script import SERVER
from fedsim.units import human_seconds
from tests.report.hand_made_traces import Tape, fedavg


def decoded(made: Lanes) -> list[list[tuple[int, int, str]]]:
    """Start, end (ticks) and name of the pieces of each row, read as the format says."""
    rows: list[list[tuple[int, int, str]]] = []
    at = 0
    for _ in made.rows:
        time, row = 0, []
        while True:
            value, shift = 0, 0
            while True:
                byte = made.data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            if not value:
                break
            length, state = divmod(value, len(made.states))
            if state:
                row.append((time, time + length, made.states[state][0]))
            time += length
        rows.append(row)
    assert at == len(made.data)
    return rows


def names(made: Lanes) -> list[str]:
    """Labels of the rows."""
    return [label for label, _ in made.rows]


def test_a_round_by_hand() -> None:
    """The server on top, then devices; works by their kind, waits by their cause, gaps where nothing is recorded."""
    made = lanes(fedavg().columns)
    assert names(made) == ["server", "device-0", "device-1"]
    assert made.ticks == 80, "a nanosecond each: the run is short"
    assert decoded(made) == [
        [(0, 30, "dependency"), (30, 60, "straggler"), (60, 70, "aggregate"), (70, 80, "dependency")],
        [(0, 10, "model"), (10, 20, "step"), (20, 30, "model"), (30, 60, "straggler"), (60, 80, "model")],
        [(0, 10, "model"), (10, 40, "step"), (40, 80, "model")],
    ]


def test_colours_are_those_of_busy_and_of_the_causes() -> None:
    """Kinds of work share one; work that was lost has its own."""
    tape = Tape(1, 20)
    tape.span(0, 0, 5, "forward")
    tape.span(0, 5, 10, "backward", wasted=True)
    tape.span(0, 12, 15, "load")
    made = lanes(tape.columns)
    assert decoded(made)[1] == [(0, 5, "forward"), (5, 10, "lost work"), (12, 15, "load")]
    assert dict(made.states)["forward"] == "busy"
    assert dict(made.states)["lost work"] == "wasted"
    assert dict(made.states)["straggler"] == "straggler"


def test_a_run_of_no_length_has_rows_without_pieces() -> None:
    """One that was stopped before anything happened."""
    made = lanes(Tape(2, 0).columns)
    assert decoded(made) == [[], [], []]
    assert (made.seconds, made.ticks) == (0.0, 1)


def test_rows_are_not_joined() -> None:
    """Though one goes on where the one above it ends."""
    tape = Tape(2, 20)
    tape.trace.nodes = tape.trace.nodes[1:]
    tape.span(0, 0, 10)
    tape.span(1, 10, 20)
    assert decoded(lanes(tape.columns)) == [[(0, 10, "step")], [(10, 20, "step")]]


def test_of_many_kinds_the_rarest_share_a_name() -> None:
    """24 are told apart; loading is none of them, but the cause of a wait."""
    tape = Tape(1, 1000)
    for number in range(26):
        for again in range(1 + (number >= 2)):
            tape.span(0, 30 * number + 10 * again, 30 * number + 10 * again + 5, f"kind {number}")
    tape.span(0, 990, 1000, "load")
    made = lanes(tape.columns)
    kinds = [name for name, colour in made.states if colour == "busy"]
    assert kinds == [*(f"kind {number}" for number in range(2, 26)), "other work"]
    pieces = decoded(made)[1]
    assert [name for *_, name in pieces[:3]] == ["other work", "other work", "kind 2"]
    assert pieces[-1] == (990, 1000, "load")


def test_lanes_of_a_server_are_rows() -> None:
    """Where more than one was used."""
    tape = Tape(1, 20, lanes=2)
    tape.span(SERVER, 0, 10, lane=0)
    tape.span(SERVER, 5, 20, lane=1)
    made = lanes(tape.columns)
    assert names(made) == ["server, lane 0", "server, lane 1", "device-0"]
    assert decoded(made)[:2] == [[(0, 10, "step")], [(5, 20, "step")]]


def test_devices_stand_by_group() -> None:
    """Those of one group together, although their numbers alternate."""
    assert [group for _, group in lanes(Tape(4, 10).columns).rows] == [
        "a6000",
        *["group 0: pi"] * 2,
        *["group 1: pi"] * 2,
    ]


def test_a_device_that_nobody_called_was_unselected() -> None:
    """As the accounts have it; one that left has a gap."""
    tape = Tape(2, 100)
    tape.trace.mark(1, 40, "leave")
    assert decoded(lanes(tape.columns))[1:] == [[(0, 100, "unselected")], [(0, 40, "unselected")]]


def test_of_too_many_devices_some_are_shown_from_all_groups() -> None:
    """And the page says how many."""
    made = lanes(Tape(100, 10).columns, rows=10)
    assert len(made.rows) == 11
    assert [group for _, group in made.rows].count("group 1: pi") == 5
    assert made.notes == ["10 of 100 devices are shown, evenly from all groups."]
    assert decoded(made) == [[], *[[(0, 10, "unselected")]] * 10], "the server has no records"


def busy_run(steps: int) -> Tape:
    """A device that works for three ticks and waits for one, again and again."""
    tape = Tape(1, 4 * steps)
    for step in range(steps):
        tape.span(0, 4 * step, 4 * step + 3)
        tape.wait(0, 4 * step + 3, 4 * step + 4, "gradient")
    return tape


def test_of_too_many_pieces_each_bin_has_what_took_most_of_it() -> None:
    """Four fifths of the time went to steps, so every bin of several steps is one; the page says what was done."""
    made = lanes(busy_run(1000).columns, most=50)
    assert sum(map(len, decoded(made))) <= 50
    assert {name for row in decoded(made)[1:] for *_, name in row} == {"step"}
    (note,) = made.notes
    assert "more pieces than a page holds" in note
    assert f"each {human_seconds(4000e-9 / made.ticks)} of a row" in note


def test_as_many_pieces_as_there_is_room_for_are_exact() -> None:
    """Neither binned nor noted."""
    made = lanes(busy_run(1000).columns, most=2000)
    assert sum(map(len, decoded(made))) == 2000
    assert not made.notes


def test_a_bin_that_is_mostly_empty_stays_empty() -> None:
    """A gap wins where it took most: time without records is not filled up."""
    tape = Tape(1, 4000)
    for step in range(1000):
        tape.span(0, 4 * step, 4 * step + 1)
    assert decoded(lanes(tape.columns, most=50))[1] == []


@given(
    spans=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**9), st.integers(1, 10**8)), max_size=20),
    end=st.integers(10**9, 3 * 10**9),
)
def test_whatever_overlaps_rows_are_in_order_and_apart(spans: Sequence[tuple[int, int, int]], end: int) -> None:
    """Pieces follow one another within the run, to a tick where they lie in the trace."""
    tape = Tape(4, end)
    for node, start, length in spans:
        tape.span(node, start, min(start + length, end))
    made = lanes(tape.columns)
    for number, row in enumerate(decoded(made)[1:]):
        assert all(one[1] <= two[0] for one, two in pairwise(row))
        assert all(0 <= start < stop <= made.ticks for start, stop, _ in row)
        node = int(made.rows[number + 1][0].removeprefix("device-"))
        own = [(start, min(start + length, end)) for k, start, length in spans if k == node]
        covered = np.zeros(made.ticks + 1, np.bool_)
        for start, stop in own:
            covered[round(start * made.ticks / end) : round(stop * made.ticks / end)] = True
        assert sum(stop - start for start, stop, name in row if name == "step") == covered.sum()


def test_the_figure_carries_its_data_as_text() -> None:
    """JSON in an element that browsers do not run; a name cannot close it."""
    made = lanes(fedavg().columns)
    page = Lanes([("</script>", "x")], made.states, 1.0, 1, b"\0", ["a < b"]).figure(3, "of <it>")
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(text)["rows"] == ["</script>"]
    assert "<p>a &lt; b</p>" in page
    assert 'aria-label="of &lt;it&gt;"' in page
    assert 'id="t3"' in page


@pytest.mark.slow
def test_a_large_run_stays_small() -> None:
    """A thousand devices with half a million pieces: 250,000 at most, and about 4.5 bytes each in the page."""
    tape = Tape(1000, 10**9)
    rows = np.arange(500_000)
    starts = (rows // 1000) * 2_000_000
    for node, start in zip((rows % 1000).tolist(), starts.tolist(), strict=True):
        tape.span(node, start + 37 * node, start + 37 * node + 1_300_000 + 1000 * (node % 7))
    made = lanes(tape.columns)
    assert 0 < sum(map(len, decoded(made))) <= 250_000
    assert len(made.figure(1, "")) < 1_500_000
