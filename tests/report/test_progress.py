"""What a run had cost by a moment."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.report.columns import tabulate
from fedsim.report.measures import measure
from fedsim.report.progress import bytes_by, joules_by
from fedsim.script import SERVER
from fedsim.trace import Trace
from tests.report.hand_made_traces import Tape, fedavg

RADIO: dict[str, Any] = {"radio_watts": 3.0, "radio_up": 2e-9, "radio_down": 1e-9}


def with_radio(trace: Trace, **more: Any) -> Trace:
    """The same trace on nodes whose radios take power."""
    return dataclasses.replace(trace, nodes=tuple(dataclasses.replace(n, **{**RADIO, **more}) for n in trace.nodes))


def test_bytes_arrive_at_the_end_of_their_transfer() -> None:
    """Two models at 10 ns, updates at 30 and at 60, of 104 bytes each."""
    amounts = bytes_by(fedavg().columns, np.array([0, 9, 10, 29, 30, 60, 80]))
    assert amounts.tolist() == [0, 0, 208, 208, 312, 416, 416]


def test_lost_bytes_never_arrive() -> None:
    """A transfer that its receiver never got is not counted."""
    tape = Tape(1, 10)
    tape.send(SERVER, 0, "model", 0, 5, weights=7, outcome="receiver left")
    assert bytes_by(tape.columns, np.array([10])).tolist() == [0]


def test_joules_follow_what_devices_do() -> None:
    """Two boards idle at 2 W and computing at 6 W: one from 10 to 20, one from 10 to 40 ns; the server is left out."""
    amounts = joules_by(fedavg().columns, np.array([0, 10, 20, 40, 80]))
    assert amounts == pytest.approx([0, 40e-9, 160e-9, 320e-9, 480e-9])


def test_who_waits_for_data_draws_no_more_than_idle() -> None:
    """Loading is no work."""
    tape = Tape(1, 100)
    tape.span(0, 0, 50, "load")
    assert joules_by(tape.columns, np.array([50, 100])) == pytest.approx([100e-9, 200e-9])


def test_a_board_without_power_makes_the_sum_unknown() -> None:
    """NaN rather than a figure that leaves one out."""
    trace = fedavg().trace
    trace.nodes = tuple(dataclasses.replace(n, busy_watts=float("nan")) for n in trace.nodes)
    assert np.isnan(joules_by(tabulate(trace), np.array([80]))).all()


@given(
    spans=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 80), st.integers(1, 20), st.sampled_from(["step", "load"])),
        max_size=12,
    ),
    sends=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 80), st.integers(0, 20)), max_size=12),
    ready=st.sampled_from([None, 2.5]),
)
def test_in_the_end_both_are_the_totals(
    spans: list[tuple[int, int, int, str]], sends: list[tuple[int, bool, int, int]], ready: float | None
) -> None:
    """Whatever overlaps: radios of several transfers, spans of several lanes, lost bytes; and they never fall."""
    tape = Tape(3, 100)
    for node, start, length, kind in spans:
        tape.span(node, start, start + length, kind)
    for node, up, start, length in sends:
        ends = (node, SERVER) if up else (SERVER, node)
        outcome = "delivered" if length % 3 else "receiver left"
        began, end = start + length // 2, start + length
        tape.send(*ends, "model", start, end, started=began, weights=1000 + length, outcome=outcome)
    trace = with_radio(tape.trace, ready_watts=ready)
    found, moments = measure(trace), np.arange(0, 101)
    joules, amounts = joules_by(found.columns, moments), bytes_by(found.columns, moments)
    assert joules[-1] == pytest.approx(found.joules[found.columns.devices].sum())
    assert amounts[-1] == found.traffic.totals(found.columns.server).sum()
    assert (np.diff(joules) >= -1e-18).all()
    assert (np.diff(amounts) >= 0).all()
