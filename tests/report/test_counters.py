"""Counters: series of bytes a second and of queues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.report.counters import DOWN, KINDS, UP, WAITING, Counters, counters
from fedsim.report.traffic import traffic
from fedsim.script import SERVER
from tests.report.hand_made_traces import Tape

END = 1_000
MOMENTS = st.tuples(st.integers(0, END), st.integers(0, END)).map(sorted).filter(lambda pair: pair[0] < pair[1])
FLOWS = st.lists(st.tuples(MOMENTS, st.integers(0, 2), st.booleans(), st.integers(0, 10**9)), max_size=30)
STAYS = st.lists(st.tuples(MOMENTS, st.integers(-1, 2)), max_size=30)


def area(found: Counters, node: int, kind: int) -> float:
    """Under one series, in seconds."""
    here = (found.node == node) & (found.kind == kind)
    time, value = found.time[here], found.value[here]
    return float((np.diff(time) / 1e9 * value[:-1]).sum())


@settings(deadline=None, max_examples=100)
@given(FLOWS, STAYS, st.sampled_from([10_000, 400, 30]))
def test_series_hold_what_was_carried_and_what_has_waited(
    flows: list[tuple[list[int], int, bool, int]], stays: list[tuple[list[int], int]], room: int
) -> None:
    """The area under each is the bytes of `traffic`, or the seconds of stays; none is negative; all end at 0.

    Also where they are means, for want of room; then there are no more steps than that.
    """
    tape = Tape(3, END)
    for (start, end), device, up, nbytes in flows:
        source, target = (device, SERVER) if up else (SERVER, device)
        tape.send(source, target, "model", max(start - 5, 0), end, started=start, weights=nbytes, control=1)
    for (start, end), whose in stays:
        tape.trace.stays.append((whose, start, end, 0))
    columns = tape.columns
    found, carried = counters(columns, room), traffic(columns).delivered.sum(axis=1)
    assert len(found) <= room
    assert (found.value >= 0).all()
    order = np.lexsort((found.time, found.kind, found.node))
    assert (order == np.arange(len(found))).all()
    for row, node in enumerate(columns.nodes):
        waited = sum(end - start for (start, end), at in stays if at == node.number) / 1e9
        for kind, amount in ((UP, carried[0, row]), (DOWN, carried[1, row]), (WAITING, waited)):
            here = (found.node == row) & (found.kind == kind)
            if "left out" not in found.note or here.any():
                assert area(found, row, kind) == pytest.approx(float(amount), rel=1e-6, abs=1e-12)
            assert not here.any() or found.value[here][-1] == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(MOMENTS, st.booleans(), st.integers(1, 10**9)), min_size=80, max_size=100))
def test_means_hold_what_was_carried(flows: list[tuple[list[int], bool, int]]) -> None:
    """Flows that begin and end within parts of the run, and that last over many of them."""
    tape = Tape(1, END)
    for (start, end), up, nbytes in flows:
        tape.send(*((0, SERVER) if up else (SERVER, 0)), "model", start, end, weights=nbytes)
    columns = tape.columns
    found, carried = counters(columns, 120), traffic(columns).delivered.sum(axis=1)
    assert "counters of devices are means over" in found.note
    for row in range(2):
        for kind in (UP, DOWN):
            assert area(found, row, kind) == pytest.approx(float(carried[kind, row]), rel=1e-6)


def test_means_say_so() -> None:
    """Each side has half of the room; series whose means would be too few are left out."""
    tape = Tape(2, 1_000)
    for start in range(0, 1_000, 10):
        tape.send(SERVER, 0, "model", start, start + 5, weights=10)
    assert len(counters(tape.columns, 1_000)) == 400
    assert counters(tape.columns, 1_000).note == ""
    assert counters(tape.columns, 102).note == (
        "counters of the server are means over 2e-08 s each; counters of devices are means over 2e-08 s each"
    )
    values = counters(tape.columns, 102).value
    assert values == pytest.approx([10 / 10e-9, 0.0] * 2), "which change nothing up to the end"
    few = counters(tape.columns, 20)
    assert few.note.startswith("counters of the server are left out, since 200 values are too many")
    assert len(few) == 0


def test_nothing_that_has_no_rate_or_was_lost_is_counted() -> None:
    """What arrives at once, and what does not arrive."""
    tape = Tape(1, 10)
    tape.send(SERVER, 0, "model", 5, 5, weights=100)
    tape.send(SERVER, 0, "model", 2, 5, weights=100, started=5)
    tape.send(SERVER, 0, "model", 2, 8, weights=100, outcome="receiver left")
    assert len(counters(tape.columns, 100)) == 0
    assert KINDS[WAITING] == "waiting"
