"""The server's clock, as another process tells it: offset, bound, drift, and never back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.emulation import alignment
from fedsim.emulation.alignment import PROBES, Alignment, same_host
from fedsim.emulation.clock import WallClock

MS = 1_000_000
SECOND = 1_000_000_000
WAY = st.integers(0, 50 * MS)
Ways = Callable[[], tuple[int, int]]


class Pair:
    """The clock of a device, set by hand, and the server's, ahead and faster or slower."""

    def __init__(self, ahead: int = 0, drift: float = 0.0) -> None:
        self.own = 5 * SECOND
        self._ahead = ahead
        self._drift = drift
        self.alignment = Alignment(lambda: self.own)

    def server(self) -> int:
        return self.own + self._ahead + round(self._drift * self.own)

    @property
    def error(self) -> int:
        """What is told, less what is so."""
        return self.own + self.alignment.offset_at(self.own) - self.server()

    def probe(self, there: int, back: int, held: int = 20_000) -> None:
        asked = self.own
        self.own += there
        received = self.server()
        self.own += held
        answered = self.server()
        self.own += back
        self.alignment.add(asked, received, answered, self.own)

    def round(self, ways: Ways) -> None:
        for _ in range(PROBES):
            self.probe(*ways())


def jittery(seed: int, least: int = 50_000, mean: int = MS) -> Ways:
    """The way to the server is slow and uneven, the way back is quick."""
    random = Random(seed)
    return lambda: (least + round(random.expovariate(1 / mean)), least)


@pytest.mark.parametrize("seed", range(5))
def test_an_offset_is_known_within_its_bound(seed: int) -> None:
    """However lopsided the ways are; and the bound is half of the quickest round trip, not of any."""
    pair, ways = Pair(ahead=-(10**15) + 7), jittery(seed)
    for _ in range(12):
        pair.round(ways)
        assert abs(pair.error) <= pair.alignment.bound < MS // 2
        pair.own += 30 * SECOND


def test_the_bound_is_half_the_quickest_round_trip() -> None:
    """Of a round, in which the server's own time does not count."""
    pair = Pair(ahead=3 * SECOND)
    for index in range(PROBES):
        pair.probe(there=(9 if index != 5 else 1) * MS, back=2 * MS, held=50 * MS)
    assert pair.alignment.bound == pytest.approx(1.5 * MS, rel=1e-9)
    assert pair.error == -MS // 2


def test_the_first_probe_counts_at_once_and_later_ones_with_their_round() -> None:
    """A device need not wait for a round to know roughly."""
    pair = Pair(ahead=SECOND)
    with pytest.raises(AssertionError, match="before the first probe"):
        pair.alignment.now()
    pair.probe(4 * MS, 4 * MS)
    assert pair.alignment.bound == 4 * MS
    pair.probe(1 * MS, 1 * MS)
    assert pair.alignment.bound == MS
    for _ in range(PROBES - 2):
        pair.probe(4 * MS, 4 * MS)
    pair.probe(1000, 1000)
    assert pair.alignment.bound == MS  # its round is not complete


@pytest.mark.parametrize("drift", [50e-6, -50e-6])
def test_a_drift_is_followed(drift: float) -> None:
    """50 ppm over ten minutes: half a minute after a round, a constant offset would be 1.5 ms off."""
    pair, ways = Pair(ahead=SECOND, drift=drift), jittery(3)
    for index in range(20):
        pair.round(ways)
        if index >= 3:
            assert abs(pair.error) <= pair.alignment.bound
            assert pair.alignment.drift == pytest.approx(drift, rel=0.1)
        pair.own += 30 * SECOND
        if index >= 3:
            assert abs(pair.error) < 0.2 * MS


def test_what_jitter_explains_is_no_drift() -> None:
    """An offset within the bounds of all rounds is the same offset."""
    pair, ways = Pair(ahead=SECOND), jittery(4, mean=5 * MS)
    for _ in range(10):
        pair.round(ways)
        assert pair.alignment.drift == 0
        pair.own += 30 * SECOND


@pytest.mark.parametrize("drift", [0.0, 50e-6])
@pytest.mark.parametrize("when", [1, 5, 9])
def test_a_bad_round_does_not_spoil_it(drift: float, when: int) -> None:
    """One whose quickest probe took 200 ms, all of it on the way there."""
    pair, ways = Pair(ahead=SECOND, drift=drift), jittery(5, mean=100_000)
    for index in range(10):
        pair.round((lambda: (200 * MS, 50_000)) if index == when else ways)
        if index >= 3:
            assert abs(pair.error) <= pair.alignment.bound < MS
        pair.own += 30 * SECOND


@given(
    st.lists(
        st.tuples(st.integers(0, 50 * MS), st.integers(0, 50 * MS), st.integers(0, 40 * SECOND)),
        min_size=1,
        max_size=80,
    ),
    st.floats(-2e-4, 2e-4),
    st.integers(-(10**18), 10**18),
)
def test_time_never_goes_back(ways: list[tuple[int, int, int]], drift: float, ahead: int) -> None:
    """Whatever the probes say, and it goes on within what they say."""
    pair = Pair(ahead, drift)
    last = -(2**63)
    for there, back, pause in ways:
        pair.probe(there, back)
        for _ in range(3):
            now = pair.alignment.now()
            assert now >= last
            assert now >= pair.own + pair.alignment.offset_at(pair.own)
            last = now
            pair.own += pause // 3


@pytest.mark.slow
def test_many_threads_ask_while_one_adds() -> None:
    """None of them is told a moment before one that any of them was told earlier."""
    aligned = Alignment()
    aligned.add(0, 0, 0, 2 * MS)
    latest, lock, over, wrong = [0], threading.Lock(), threading.Event(), list[int]()

    def ask() -> None:
        while not over.is_set():
            with lock:
                before = latest[0]
            now = aligned.now()
            with lock:
                if now < before:
                    wrong.append(before - now)
                latest[0] = max(latest[0], now)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    random = Random(1)
    for _ in range(100):
        own = time.monotonic_ns()
        error = random.randrange(-10 * MS, 10 * MS)
        aligned.add(own, own + error, own + error, own + random.randrange(1, MS))
        time.sleep(0.0002)
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_drives_the_scenario_clock() -> None:
    """A device's clock shows what the server's does, from the origin that the server names."""
    pair = Pair(ahead=1000 * SECOND)
    pair.round(lambda: (MS, MS))
    origin = pair.server() + SECOND
    clock = WallClock(origin, 2.0, source=pair.alignment.now)
    assert clock.now() == -SECOND // 2
    pair.own += 3 * SECOND
    assert clock.now() == SECOND


def test_an_exact_alignment_is_this_clock() -> None:
    """Nothing is added, and nothing is off."""
    exact = Alignment.exact(lambda: 77)
    assert (exact.now(), exact.bound, exact.offset_at(10**18), exact.drift) == (77, 0, 0, 0.0)
    with pytest.raises(AssertionError, match="takes no probes"):
        exact.add(1, 2, 3, 4)


def test_processes_of_a_host_know_that_they_share_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process says the same; a host without such files says nothing."""
    code = "from fedsim.emulation.alignment import same_host; print(same_host())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert told == str(same_host())
    monkeypatch.setattr(alignment, "_BOOT", alignment._BOOT.with_name("none"))
    assert same_host() is None
