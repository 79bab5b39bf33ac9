"""Who trains at the same time: places are filled, nobody is forgotten, and marks tell who sits out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.learning.crew import Crew
from fedsim.script import SERVER, Connected, Disconnected
from tests.learning.test_handles import FakePort


def crew(present: Sequence[int], places: int, seed: int = 0) -> tuple[Crew, FakePort]:
    """A crew, and what it marks."""
    port = FakePort(SERVER)
    return Crew(port, present, places, np.random.default_rng(seed)), port


def marked(port: FakePort) -> list[tuple[str, float]]:
    """The marks so far; forgets them."""
    found = [(name, value) for name, value, _ in port.marks]
    port.marks.clear()
    return found


@pytest.mark.parametrize("places", [3, 7])
def test_with_places_for_all_everyone_goes_on(places: int) -> None:
    """Nobody sits out, and nothing is marked."""
    one, port = crew(range(3), places)
    assert [one.turn(k) for k in (1, 0, 1, 2)] == [1, 0, 1, 2]
    active = [list(one.active)]
    assert one.heed(Disconnected(1)) is None
    active.append(list(one.active))
    assert one.heed(Connected(1)) == 1
    active.append(list(one.active))
    assert active == [[0, 1, 2], [0, 2], [0, 1, 2]]
    assert marked(port) == []


def test_who_is_done_makes_room_for_one_who_sits_out() -> None:
    """The one that has just come is never called at once; both are marked."""
    one, port = crew(range(4), 2)
    first = one.active
    benched = [k for k in range(4) if k not in first]
    assert sorted(marked(port)) == [("benched", k) for k in benched]
    called = one.turn(first[0])
    assert called in benched
    assert marked(port) == [("benched", first[0]), ("called", called)]
    assert one.active == tuple(sorted((first[1], called)))


def test_one_place_for_two_is_taken_in_turns() -> None:
    """Whoever sits out is next, always."""
    one, _ = crew(range(2), 1)
    (now,) = one.active
    for _ in range(10):
        after = one.turn(now)
        assert after == 1 - now
        now = after


def test_who_begins_and_who_is_next_is_drawn_from_the_generator() -> None:
    """The same for the same seed; over many turns everybody has a fair share."""
    runs = []
    for seed in (1, 1, 2):
        one, _ = crew(range(20), 5, seed)
        now, order = list(one.active), list(one.active)
        for _ in range(400):
            now.append(one.turn(now.pop(0)))
            order.append(now[-1])
        runs.append(order)
    assert runs[0] == runs[1] != runs[2]
    shares = Counter(runs[0])
    assert len(shares) == 20
    assert min(shares.values()) > 10
    assert max(shares.values()) < 40


def test_a_place_that_becomes_free_is_filled() -> None:
    """A device that leaves while it trains makes room; one that leaves while it sits out does not."""
    one, port = crew(range(4), 2)
    benched = [k for k in range(4) if k not in one.active]
    marked(port)
    assert one.heed(Disconnected(benched[0])) is None
    leaver = one.active[0]
    assert one.heed(Disconnected(leaver)) == benched[1]
    assert marked(port) == [("called", benched[1])]
    last = one.active[0]
    assert one.heed(Disconnected(last)) is None, "nobody sits out"
    assert len(one.active) == 1


def test_a_device_that_is_back_trains_or_sits_out() -> None:
    """As there is a place or not; one that was away from the start is as good as any."""
    one, port = crew((0, 1), 2)
    assert one.heed(Connected(2)) is None
    assert marked(port) == [("benched", 2)]
    assert one.heed(Disconnected(0)) == 2
    assert one.heed(Disconnected(1)) is None
    assert one.heed(Connected(0)) == 0
    assert one.active == (0, 2)


def test_a_notice_of_one_that_was_away_from_the_start_gives_no_place_away() -> None:
    """It had none."""
    one, _ = crew((0, 1, 2), 2)
    assert one.heed(Disconnected(7)) is None
    assert len(one.active) == 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 9), st.lists(st.integers(0, 99), max_size=60))
def test_places_are_never_exceeded_and_never_wasted(devices: int, places: int, seed: int, events: list[int]) -> None:
    """Whatever happens: as many train as there are places, or as are there; whoever begins is told so exactly once."""
    one, _ = crew(range(devices), places, seed)
    present, training = set(range(devices)), set(one.active)
    for event in events:
        k = event % devices
        if k in training and event < 50:
            training.remove(k)
            training.add(one.turn(k))
        elif k in present:
            present.remove(k)
            training.discard(k)
            if (begins := one.heed(Disconnected(k))) is not None:
                assert begins not in training
                training.add(begins)
        else:
            present.add(k)
            if (begins := one.heed(Connected(k))) is not None:
                assert begins not in training
                training.add(begins)
        assert set(one.active) == training <= present
        assert len(training) == min(places, len(present))
