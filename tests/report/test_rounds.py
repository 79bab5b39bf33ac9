"""Barriers: when they close, when they are full, and which round a contribution belongs to."""

from __future__ import annotations

import pytest

from fedsim.script import SERVER
from tests.report.hand_made_traces import Tape, idle_of, pieces_of


def deliver(tape: Tape, device: int, sent: int, arrived: int, outcome: str = "delivered") -> None:
    """A contribution."""
    tape.send(device, SERVER, "contribution", sent, arrived, outcome=outcome)


def test_a_barrier_that_is_full_holds_nobody_until_it_closes() -> None:
    """A server that aggregates inside the round: straggling ends with the last delivery."""
    tape = Tape(2, 100)
    tape.round(0, 0, 60, [0, 1])
    deliver(tape, 0, 10, 20)
    deliver(tape, 1, 30, 40)
    tape.wait(0, 10, 100, "model")
    tape.wait(SERVER, 0, 40, "contribution")
    assert pieces_of(tape.trace, 0) == [(10, 20, "model"), (20, 40, "straggler"), (40, 100, "model")]
    assert idle_of(tape.trace, SERVER) == {"dependency": 20, "straggler": 20}


@pytest.mark.parametrize("sent", [30, 40])
def test_a_late_contribution_belongs_to_the_round_in_which_it_was_sent(sent: int) -> None:
    """The instant of closing included: it does not fill the barrier of the round in which it arrives."""
    tape = Tape(2, 120)
    tape.round(1, 0, 40, [0, 1], need=1)
    tape.round(2, 50, 100, [0, 1])
    deliver(tape, 0, 30, 40)
    deliver(tape, 1, sent, 60)
    deliver(tape, 0, 60, 70)
    tape.wait(0, 60, 100, "model")
    assert idle_of(tape.trace, 0) == {"model": 10, "straggler": 30}


def test_what_was_sent_before_any_round_belongs_to_the_one_in_which_it_arrives() -> None:
    """At a seam of two rounds to the earlier one."""
    tape = Tape(2, 100)
    tape.round(1, 10, 40, [0, 1])
    tape.round(2, 40, 80, [0, 1])
    deliver(tape, 0, 15, 20)
    deliver(tape, 1, 5, 40)
    deliver(tape, 0, 50, 60)
    tape.wait(0, 15, 40, "model")
    tape.wait(0, 50, 80, "model")
    assert pieces_of(tape.trace, 0) == [
        (15, 20, "model"),
        (20, 40, "straggler"),
        (50, 60, "model"),
        (60, 80, "straggler"),
    ]


def test_a_contribution_that_was_lost_fills_no_barrier() -> None:
    """Whoever delivered waits until the round closes."""
    tape = Tape(2, 100)
    tape.round(0, 0, 50, [0, 1])
    deliver(tape, 0, 10, 20)
    deliver(tape, 1, 20, 30, outcome="sender left")
    tape.wait(0, 10, 100, "model")
    assert idle_of(tape.trace, 0) == {"model": 60, "straggler": 30}


def test_a_round_without_any_contribution_has_no_stragglers() -> None:
    """Nobody waits for others where nobody was first; the rounds after it are as they would be without it."""
    tape = Tape(2, 100)
    tape.round(0, 0, 50, [0, 1])
    tape.round(1, 50, 90, [0, 1])
    deliver(tape, 0, 60, 70)
    deliver(tape, 1, 70, 85)
    tape.wait(0, 0, 50, "model")
    tape.wait(SERVER, 0, 100, "contribution")
    assert idle_of(tape.trace, SERVER) == {"dependency": 85, "straggler": 15}
    assert idle_of(tape.trace, 0) == {"model": 50}


def test_the_next_opening_closes_a_round_that_was_left_open() -> None:
    """Rounds do not overlap; a number that is used again is another round, and its mark closes the last one."""
    for second in (2, 1):
        tape = Tape(3, 100)
        tape.round(1, 0, None, [0])
        tape.round(second, 50, 90, [1])
        for device in (0, 1, 2):
            tape.wait(device, 0, 100, "model")
        assert pieces_of(tape.trace, 0) == [(0, 50, "model"), (50, 90, "unselected"), (90, 100, "model")]
        assert pieces_of(tape.trace, 1) == [(0, 50, "unselected"), (50, 100, "model")]
        assert idle_of(tape.trace, 2) == {"unselected": 90, "model": 10}
