"""Barriers of rounds: whose contribution they take, and when they are complete."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.learning.context import Server
from fedsim.learning.rounds import Barrier
from fedsim.script import SERVER, Disconnected, Message, Recv, Role, Timeout
from tests.learning.test_handles import FakePort, job


@dataclass(frozen=True, slots=True)
class Done(Message):
    """A contribution."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    round: int


class Collected(list[Done]):
    """What a round has taken in."""

    def add(self, message: Done) -> None:
        """One more."""
        self.append(message)

    @property
    def senders(self) -> list[int]:
        """Who they are of, in order."""
        return [message.sender for message in self]


def gathering(barrier: Barrier) -> tuple[Coroutine[Any, Any, bool], Collected, Recv[Any] | bool]:
    """A gather under way: what it has, and what it waits for or answers."""
    into = Collected()
    script = barrier.gather(Done, into)
    return script, into, told(script, None)


def told(script: Coroutine[Any, Any, bool], message: Message | Timeout | None) -> Recv[Any] | bool:
    """Its next wait, or its answer."""
    try:
        effect = script.send(message)
    except StopIteration as stop:
        answer: bool = stop.value
        return answer
    assert isinstance(effect, Recv)
    return effect


def test_a_round_takes_one_contribution_of_each_that_was_asked() -> None:
    """Not of others, not twice, not of another round; it is complete with the last one."""
    script, into, effect = gathering(Barrier(4, [1, 3], need=2, until=None))
    assert effect == Recv((Done, Disconnected), None, None, None)
    for message in (Done(3, sender=1), Done(4, sender=2), Done(5, sender=3), Done(4, sender=3), Done(4, sender=3)):
        assert isinstance(told(script, message), Recv)
    assert into.senders == [3]
    assert told(script, Done(4, sender=1)) is True
    assert into.senders == [3, 1]


def test_enough_contributions_complete_it() -> None:
    """Two of four: the first two, whoever they are."""
    script, into, _ = gathering(Barrier(0, range(4), need=2, until=None))
    assert isinstance(told(script, Done(0, sender=2)), Recv)
    assert told(script, Done(0, sender=0)) is True
    assert into.senders == [2, 0]


def test_who_leaves_is_not_waited_for() -> None:
    """Of three one delivers, one leaves, and one that is not of the round leaves; the third one is waited for."""
    barrier = Barrier(0, [0, 1, 2], need=3, until=None)
    script, into, _ = gathering(barrier)
    for message in (Disconnected(7), Done(0, sender=1), Disconnected(0)):
        assert isinstance(told(script, message), Recv)
    assert isinstance(told(script, Done(0, sender=0)), Recv), "what comes of it afterwards is not counted"
    assert told(script, Disconnected(2)) is True
    assert into.senders == [1]
    assert barrier.leave(1) is False, "it had delivered"


def test_a_round_of_which_all_leave_is_empty() -> None:
    """And says so."""
    script, into, _ = gathering(Barrier(0, [0, 1], need=1, until=None))
    assert isinstance(told(script, Disconnected(0)), Recv)
    assert told(script, Disconnected(1)) is False
    assert into == []


def test_those_who_leave_are_made_up_for() -> None:
    """While there are enough others: two of three are needed, one leaves, both others complete it."""
    script, into, _ = gathering(Barrier(0, [0, 1, 2], need=2, until=None))
    assert isinstance(told(script, Disconnected(1)), Recv)
    assert isinstance(told(script, Done(0, sender=2)), Recv)
    assert told(script, Done(0, sender=0)) is True
    assert into.senders == [2, 0]


@pytest.mark.parametrize("come", [[], [1]])
def test_time_ends_it_with_those_who_came(come: list[int]) -> None:
    """Its waits end at a moment of the run's clock."""
    barrier = Barrier(0, [0, 1], need=2, until=2.5)
    script, into, effect = gathering(barrier)
    for sender in come:
        effect = told(script, Done(0, sender=sender))
    assert effect == Recv((Done, Disconnected), None, None, 2.5)
    assert told(script, Timeout()) is bool(come)
    assert into.senders == come
    assert barrier.expects(Done(0, sender=0)), "the caller closes the round; nothing is asked any more"
    assert not barrier.waiting


def test_a_round_of_nobody_is_over_at_once() -> None:
    """Nobody is asked, nobody is waited for."""
    assert gathering(Barrier(0, [], need=0, until=None))[2] is False


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["done", "stale", "leave", "over"]), st.integers(0, 5)), max_size=20),
)
def test_it_waits_as_long_as_it_has_to(devices: int, need: int, events: list[tuple[str, int]]) -> None:
    """Against sets: while some that were asked are neither here nor gone, fewer than needed came, and time is left."""
    need = min(need, devices)
    barrier = Barrier(1, range(devices), need=need, until=None)
    here: list[int] = []
    gone: set[int] = set()
    over = False
    for event, k in events:
        missing = set(range(devices)) - set(here) - gone
        assert barrier.missing == missing
        assert barrier.delivered == here
        assert barrier.waiting == (bool(missing) and len(here) < need and not over)
        match event:
            case "done":
                assert barrier.expects(Done(1, sender=k)) == (k in missing)
                assert barrier.deliver(Done(1, sender=k)) == (k in missing)
                here += [k] if k in missing else []
            case "stale":
                assert not barrier.deliver(Done(0, sender=k))
            case "leave":
                assert barrier.leave(k) == (k in missing)
                gone |= {k}
            case _:
                barrier.over()
                over = True


@pytest.mark.parametrize(
    ("need", "chosen", "expected"), [(None, (0, 1, 2), 3), (2, (0, 1, 2), 2), (2, (1,), 1), (3, (0, 1, 2), 3)]
)
def test_the_scenario_says_how_many_complete_a_round(need: int | None, chosen: tuple[int, ...], expected: int) -> None:
    """All, or so many, or as many as were asked; the mark that opens it says so, one closes it."""
    port = FakePort(SERVER)
    me = Server(port, replace(job(), need=need), 3)
    with me.round(7, chosen) as barrier:
        assert (barrier.number, barrier.chosen, barrier.need) == (7, chosen, expected)
        assert port.marks == [("round.open", 7, {"nodes": list(chosen), "need": expected})]
    assert port.marks[1:] == [("round.close", 7, None)]


def test_a_window_begins_with_its_round() -> None:
    """Seconds from then on; without one waits have no end."""
    port = FakePort(SERVER)
    port.now = 10.0
    for window, until in ((2.5, 12.5), (None, None)):
        me = Server(port, replace(job(), window=window), 3)
        with me.round(0, (0, 1)) as barrier:
            effect: Any = barrier.recv(Done, source=1)
            assert effect == Recv((Done, Disconnected), 1, None, until)
