"""Figures of a run so far, worked out on paper."""

from __future__ import annotations

import math

import pytest

from fedsim.runtime.sofar import Tally
from fedsim.script import SERVER
from fedsim.trace import Span
from tests.report.hand_made_traces import Tape, fedavg


def under_way(node: int, start: int, end: int, kind: str = "step", lane: int = 0) -> Span:
    """A span that has not ended yet."""
    return Span(node, lane, kind, start, end, macs=0, forward_macs=0, samples=0, wasted=False, head_macs=0)


def test_a_round_by_hand() -> None:
    """Two devices of 10 and 30 ns of work in 80, an aggregation of 10; 208 bytes each way; each record counts once."""
    tape, tally = fedavg(), Tally(2, {})
    for _ in range(2):
        found = tally.look(tape.trace, 80)
        assert (found.up, found.down, found.rounds, found.present, found.devices) == (208, 208, 1, 2, 2)
        assert found.devices_idle == pytest.approx(0.75)
        assert found.server_idle == pytest.approx(0.875)
        assert (found.accuracy, found.loss) == (0.6, 1.5)


def test_up_is_what_has_arrived_at_the_server() -> None:
    """And nothing that was lost."""
    tape, tally = Tape(1, 100), Tally(1, {})
    tape.send(0, SERVER, "activations", 0, 10, activations=30, control=4)
    assert (tally.look(tape.trace, 20).up, tally.look(tape.trace, 20).down) == (34, 0)
    tape.send(SERVER, 0, "model", 20, 30, weights=7)
    tape.send(0, SERVER, "activations", 20, 30, activations=1000, outcome="sender left")
    found = tally.look(tape.trace, 40)
    assert (found.up, found.down) == (34, 7)


def test_every_lane_of_a_server_may_be_idle() -> None:
    """Two lanes for 20 ns, 15 of these 40 computed in."""
    tape = Tape(1, 20, lanes=2)
    tape.span(SERVER, 0, 10, lane=0)
    tape.span(SERVER, 5, 10, lane=1)
    assert Tally(1, {SERVER: 2}).look(tape.trace, 20).server_idle == pytest.approx(1 - 15 / 40)


def test_a_device_is_idle_in_the_time_in_which_it_is_there() -> None:
    """Away from 40 to 60: 80 ns, of which it works 20; loading is no work; lanes that overlap are one time."""
    tape = Tape(2, 100)
    tape.trace.mark(0, 40, "leave")
    tape.trace.mark(0, 60, "return")
    tape.span(0, 0, 20)
    tape.span(0, 20, 30, "load")
    tape.span(1, 0, 30)
    tape.span(1, 10, 40, lane=1)
    found = Tally(2, {1: 2}).look(tape.trace, 100)
    assert found.devices_idle == pytest.approx((0.75 + 0.6) / 2)
    assert found.present == 2
    tape.trace.mark(1, 100, "leave")
    assert Tally(2, {1: 2}).look(tape.trace, 100).present == 1


def test_whoever_joins_late_is_there_from_then_on() -> None:
    """40 of its 50 ns are idle; one that never comes is in no mean."""
    tape = Tape(1, 100)
    tape.trace.mark(0, 50, "join")
    tape.span(0, 60, 70)
    assert Tally(1, {}).look(tape.trace, 100).devices_idle == pytest.approx(0.8)
    gone = Tape(1, 100)
    gone.trace.mark(0, 0, "leave")
    found = Tally(1, {}).look(gone.trace, 100)
    assert (found.present, found.devices_idle) == (0, None)


def test_what_is_under_way_counts_up_to_now() -> None:
    """And is counted again, as a record, once it has ended, not twice; data that are waited for are no work."""
    tape, tally = Tape(1, 100), Tally(1, {})
    tape.span(0, 0, 20)
    rows = [under_way(0, 10, 90, lane=1), under_way(0, 0, 90, "load"), under_way(SERVER, 30, 80)]
    found = tally.look(tape.trace, 50, rows)
    assert found.devices_idle == pytest.approx(0.0)
    assert found.server_idle == pytest.approx(0.6)
    tape.span(0, 10, 90, lane=1)
    tape.span(SERVER, 30, 80)
    found = tally.look(tape.trace, 100)
    assert found.devices_idle == pytest.approx(0.1)
    assert found.server_idle == pytest.approx(0.5)


def test_loading_that_is_under_way_is_no_work() -> None:
    """As loading that is over."""
    found = Tally(1, {}).look(Tape(1, 100).trace, 50, [under_way(0, 0, 90, "load")])
    assert found.devices_idle == 1.0


def test_a_device_may_go_more_than_once() -> None:
    """There from 0 to 40 and from 60 to 80, so 60 ns, of which it works 15."""
    tape = Tape(1, 100)
    for moment, name in ((40, "leave"), (60, "return"), (80, "leave")):
        tape.trace.mark(0, moment, name)
    tape.span(0, 0, 15)
    assert Tally(1, {}).look(tape.trace, 100).devices_idle == pytest.approx(0.75)


def test_what_was_busy_already_is_not_busy_again() -> None:
    """Lanes whose spans come later and lie within what has been counted."""
    tape, tally = Tape(1, 100), Tally(1, {0: 3})
    tape.span(0, 0, 50)
    assert tally.look(tape.trace, 50).devices_idle == pytest.approx(0.0)
    tape.span(0, 10, 20, lane=1)
    tape.span(0, 15, 60, lane=2)
    assert tally.look(tape.trace, 100).devices_idle == pytest.approx(0.4)
    tape.span(0, 15, 30, lane=1)
    tape.span(0, 20, 55, lane=2)
    assert tally.look(tape.trace, 100).devices_idle == pytest.approx(0.4)


def test_the_best_is_the_best_of_all_numbers() -> None:
    """The highest accuracy and the lowest loss, whichever models they are of; the last one may be no number."""
    tape = Tape(1, 100)
    for moment, accuracy, loss in ((10, 0.5, 2.0), (20, 0.75, 1.0), (30, 0.25, 0.5), (40, 0.125, math.nan)):
        tape.evaluate(moment, accuracy, loss, 1, version=7)
    tape.trace.mark(SERVER, 40, "publish", 4)
    found = Tally(1, {}).look(tape.trace, 50)
    assert (found.accuracy, found.best_accuracy, found.best_loss, found.version) == (0.125, 0.75, 0.5, 4)
    assert found.loss is not None
    assert math.isnan(found.loss)
    tally = Tally(1, {})
    tally.measured(math.nan, 1.0)
    tally.measured(0.5, math.nan)
    found = tally.so_far(10)
    assert (found.best_accuracy, found.best_loss) == (0.5, 1.0)
