"""Barriers: when they close, when they are full, and which round a contribution belongs to."""

from __future__ import annotations

import pytest

from fedsim.report.columns import tabulate
from fedsim.report.contributions import contributions
from fedsim.report.rounds import rounds
from fedsim.script import SERVER
from tests.report.hand_made_traces import Tape, idle_of, pieces_of


def deliver(tape: Tape, device: int, sent: int, arrived: int, outcome: str = "delivered", number: int = -1) -> None:
    """A contribution, which may name its round."""
    tape.send(device, SERVER, "contribution", sent, arrived, outcome=outcome, round=number)


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


def test_a_contribution_to_an_earlier_round_fills_no_barrier() -> None:
    """It names its round, which is over: whoever waits in the next one waits for those who deliver to that."""
    tape = Tape(3, 120)
    tape.round(1, 0, 40, [0, 1, 2], need=2)
    tape.round(2, 50, 110, [0, 1, 2], need=2)
    deliver(tape, 0, 10, 20, number=1)
    deliver(tape, 1, 30, 40, number=1)
    deliver(tape, 2, 55, 60, number=1)
    deliver(tape, 0, 60, 70, number=2)
    deliver(tape, 1, 80, 90, number=2)
    deliver(tape, 2, 95, 100, number=2)
    tape.wait(0, 60, 110, "model")
    assert pieces_of(tape.trace, 0) == [(60, 70, "model"), (70, 90, "straggler"), (90, 110, "model")]
    found = rounds(tabulate(tape.trace))
    assert (found.first.tolist(), found.full.tolist()) == ([20, 70], [40, 90])
    assert found.late.tolist() == [False, False, True, False, False, True], "to the wrong round, or to a full barrier"
    assert contributions(tabulate(tape.trace)).delivered.tolist() == [0, 2, 2, 0]


def test_a_window_ends_the_waiting_for_others() -> None:
    """Of those who came in time; the server aggregates afterwards, and what comes meanwhile is too late."""
    tape = Tape(3, 100)
    tape.round(1, 0, 60, [0, 1, 2], until=50)
    deliver(tape, 0, 10, 20, number=1)
    deliver(tape, 1, 40, 55, number=1)
    tape.wait(0, 10, 60, "model")
    assert pieces_of(tape.trace, 0) == [(10, 20, "model"), (20, 50, "straggler"), (50, 60, "model")]
    assert rounds(tabulate(tape.trace)).late.tolist() == [False, True]


def test_a_number_that_is_given_twice_means_the_round_that_is_open() -> None:
    """As where a system counts anew; a number that no round has names none, and nothing is late then."""
    tape = Tape(1, 100)
    tape.round(1, 0, 30, [0])
    tape.round(1, 40, 80, [0])
    deliver(tape, 0, 10, 20, number=1)
    deliver(tape, 0, 50, 60, number=1)
    deliver(tape, 0, 61, 70, number=9)
    found = rounds(tabulate(tape.trace))
    assert found.full.tolist() == [20, 70]
    assert not found.late.any()


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
