"""Devices that take turns: from `benched` to `called` they are unselected. Worked out by hand."""

from __future__ import annotations

from fedsim.report.identity import check_identity
from fedsim.report.idle import account
from fedsim.script import SERVER
from tests.report.hand_made_traces import Tape, idle_of, pieces_of


def turn(tape: Tape, device: int, called: int | None, update: int) -> None:
    """A device works from its call to its update (10 down, 10 up), and waits for the model before and after."""
    start = 0 if called is None else called
    tape.wait(device, 0, start + 10, "model", tape.send(SERVER, device, "model", start, start + 10))
    tape.span(device, start + 10, update - 10)
    tape.send(device, SERVER, "contribution", update - 10, update)


def test_a_device_sits_out_from_benched_to_called() -> None:
    """Two devices take turns: device 0 until its update arrives at 40, device 1 from 40 to 90, then device 0 again.

    Device 0: down 10, up 10 (model), benched 40-90 (unselected), down 10 (model), computing to the end at 110.
    Device 1: benched from the start to 40, then down and up, benched from 90 to the end.
    """
    tape = Tape(2, 110)
    tape.trace.mark(SERVER, 0, "benched", 1)
    turn(tape, 0, None, 40)
    tape.trace.mark(SERVER, 40, "benched", 0)
    tape.trace.mark(SERVER, 40, "called", 1)
    turn(tape, 1, 40, 90)
    tape.trace.mark(SERVER, 90, "benched", 1)
    tape.trace.mark(SERVER, 90, "called", 0)
    tape.wait(0, 30, 100, "model", tape.send(SERVER, 0, "model", 90, 100))
    tape.span(0, 100, 110)
    tape.wait(1, 80, 110, "model")
    tape.wait(SERVER, 0, 110, "contribution")
    check_identity(tape.trace)
    assert pieces_of(tape.trace, 0) == [(0, 10, "model"), (30, 40, "model"), (40, 90, "unselected"), (90, 100, "model")]
    assert pieces_of(tape.trace, 1) == [
        *((0, 40, "unselected"), (40, 50, "model")),
        *((80, 90, "model"), (90, 110, "unselected")),
    ]
    assert idle_of(tape.trace, 0) == {"model": 30, "unselected": 50}
    assert idle_of(tape.trace, 1) == {"model": 20, "unselected": 60}
    assert account(tape.columns).busy.tolist() == [0, 30, 30]


def test_leaving_ends_sitting_out() -> None:
    """A device that comes back goes on at once where there is a place for it, without being called."""
    tape = Tape(1, 100)
    tape.trace.mark(SERVER, 10, "benched", 0)
    tape.wait(0, 0, 30, "model")
    tape.trace.mark(0, 30, "leave")
    tape.trace.mark(0, 50, "return")
    tape.wait(0, 50, 70, "model", tape.send(SERVER, 0, "model", 60, 70))
    tape.span(0, 70, 100)
    tape.wait(SERVER, 0, 100, "contribution")
    check_identity(tape.trace)
    assert pieces_of(tape.trace, 0) == [(0, 10, "model"), (10, 30, "unselected"), (50, 70, "model")]
    assert idle_of(tape.trace, 0) == {"model": 30, "unselected": 20}


def test_what_a_device_waits_for_by_name_keeps_its_name() -> None:
    """A gradient, a credit, sleep and load are what they are, whoever's turn it is."""
    tape = Tape(1, 60)
    tape.trace.mark(SERVER, 0, "benched", 0)
    for start, awaited in ((0, "gradient"), (10, "credit"), (20, "sleep"), (30, "load"), (40, "model")):
        tape.wait(0, start, start + 10, awaited)
    tape.trace.mark(SERVER, 45, "called", 0)
    tape.span(0, 50, 60)
    tape.wait(SERVER, 0, 60, "contribution")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {
        **{"dependency": 10, "flow": 10, "sleep": 10, "load": 10},
        **{"unselected": 5, "model": 5},
    }


def test_a_bench_goes_before_a_round() -> None:
    """A device on the bench is unselected, also within a round of its own."""
    tape = Tape(2, 60)
    tape.round(0, 10, 50, [0, 1])
    tape.send(0, SERVER, "contribution", 5, 15)
    tape.send(1, SERVER, "contribution", 30, 40)
    tape.wait(0, 0, 60, "model")
    tape.trace.mark(SERVER, 20, "benched", 0)
    tape.trace.mark(SERVER, 30, "called", 0)
    assert pieces_of(tape.trace, 0) == [
        *((0, 15, "model"), (15, 20, "straggler"), (20, 30, "unselected")),
        *((30, 40, "straggler"), (40, 60, "model")),
    ]
    assert idle_of(tape.trace, 0) == {"model": 35, "straggler": 15, "unselected": 10}


def test_marks_that_say_nothing_new_change_nothing() -> None:
    """Benched twice is benched from the first on; called without having sat out is nothing; nor is an empty stretch."""
    tape = Tape(2, 60)
    for time, name, device in ((5, "called", 1), (10, "benched", 0), (20, "benched", 0), (30, "called", 0)):
        tape.trace.mark(SERVER, time, name, device)
    for name in ("benched", "called"):
        tape.trace.mark(SERVER, 40, name, 1)
    for device in (0, 1):
        tape.wait(device, 0, 60, "model")
    assert idle_of(tape.trace, 0) == {"unselected": 20, "model": 40}
    assert idle_of(tape.trace, 1) == {"model": 60}


def test_moments_of_long_runs_do_not_overflow() -> None:
    """A hundred days in nanoseconds, times a thousand nodes, is more than 64 bits hold."""
    end = 100 * 24 * 3600 * 10**9
    tape = Tape(1100, end)
    tape.trace.mark(SERVER, end // 4, "benched", 1099)
    tape.trace.mark(SERVER, end // 2, "called", 1099)
    tape.wait(1099, 0, end, "model")
    assert idle_of(tape.trace, 1099) == {"unselected": end // 4, "model": end - end // 4}
