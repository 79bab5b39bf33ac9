"""Pacing: works end at their moments, lag is made up for within a budget, waiting earns nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from fedsim.emulation.pacing import BUDGET, Fidelity, Pacer, summarised, unfaithful
from tests.emulation.clocks import FakeClock

MS = 1_000_000

Works = Sequence[tuple[int, int, int]]
"""Arrival of what a work waits for, its target, and how long this host takes for it."""


def run(works: Works, dilation: float = 1.0) -> tuple[list[tuple[int, int]], Pacer]:
    """Begin and end of works one after the other, as a driver does them, in nanoseconds of the scenario."""
    clock, pacer = FakeClock(dilation), Pacer(dilation)
    condition = threading.Condition()
    done: list[tuple[int, int]] = []
    for arrival, target, host in works:
        clock.sleep(arrival)
        pacer.arrived(arrival)
        begin = pacer.begin(clock.now())
        deadline = begin + target
        clock.work(host)
        pacer.done(begin, deadline, clock.now())
        with condition:
            while clock.now() < deadline:
                clock.wait(condition, deadline)
        done.append((begin, clock.now()))
    return done, pacer


def after_each_other(targets: Sequence[int], hosts: Sequence[int], dilation: float = 1.0) -> tuple[list[int], Pacer]:
    """The ends of works that wait for nothing."""
    done, pacer = run([(0, target, host) for target, host in zip(targets, hosts, strict=True)], dilation)
    return [end for _, end in done], pacer


def closed_form(works: Works, dilation: float = 1.0) -> tuple[list[tuple[int, int]], Fidelity]:
    """The spec's four lines in wall-clock nanoseconds, with a dilation that is a whole number."""
    ideal = now = lost = overruns = worst = 0
    short = [target * int(dilation) < 5 * MS for _, target, _ in works]
    found = []
    for index, (arrival, target, host) in enumerate(works):
        arrived = arrival * int(dilation)
        now = max(now, arrived)
        begin = max(ideal, arrived)
        deadline = begin + target * int(dilation)
        now += host * int(dilation)
        if now > deadline:
            lag = now - deadline
            overruns += not short[index]
            worst = max(worst, lag)
            budget = max(2 * target * int(dilation), 50 * MS)
            if lag > budget:
                ideal = now - budget
                lost += lag - budget
            else:
                ideal = deadline
        else:
            now = ideal = deadline
        found.append((begin // int(dilation), now // int(dilation)))
    scale = int(dilation)
    return found, Fidelity(len(works) - sum(short), sum(short), overruns, lost // scale, worst // scale)


def test_a_fast_host_ends_works_on_time() -> None:
    """Each at the sum of the targets so far."""
    ends, pacer = after_each_other([10 * MS] * 5, [3 * MS] * 5)
    assert ends == [10 * MS * n for n in range(1, 6)]
    assert pacer.fidelity == Fidelity(works=5)


def test_a_stall_is_made_up_for() -> None:
    """One work takes 30 ms too long; the following ones end early until the node is on time again."""
    ends, pacer = after_each_other([20 * MS] * 6, [5 * MS, 50 * MS, 5 * MS, 5 * MS, 5 * MS, 5 * MS])
    assert [end // MS for end in ends] == [20, 70, 75, 80, 100, 120]
    assert pacer.fidelity == Fidelity(works=6, overruns=2, lag=0, worst=30 * MS)


def test_lag_beyond_the_budget_is_lost() -> None:
    """A stall of 200 ms in works of 20 ms: 50 ms of it can be made up for."""
    ends, pacer = after_each_other([20 * MS] * 20, [220 * MS] + [5 * MS] * 19)
    assert pacer.fidelity.lag == 150 * MS
    assert ends[-1] == 20 * 20 * MS + 150 * MS


def test_long_works_have_a_larger_budget() -> None:
    """Twice their target."""
    _, pacer = after_each_other([100 * MS], [500 * MS])
    assert pacer.fidelity.lag == 200 * MS


def test_the_budget_is_of_the_wall_clock() -> None:
    """At a dilation of 10, 50 ms of the wall clock are 5 ms of the scenario."""
    _, pacer = after_each_other([MS], [20 * MS], dilation=10.0)
    assert pacer.fidelity.lag == 14 * MS


def test_a_work_begins_when_what_it_waited_for_has_come() -> None:
    """Not when the last work ended, and not before now."""
    pacer = Pacer()
    pacer.done(0, 10 * MS, 5 * MS)
    pacer.arrived(30 * MS)
    assert pacer.begin(31 * MS) == 30 * MS
    pacer.arrived(7 * MS)
    assert pacer.begin(31 * MS) == 30 * MS, "what came meanwhile is no reason to begin earlier"
    assert pacer.begin(29 * MS) == 29 * MS, "nor is a clock that is ahead one to begin later than now"


def test_waiting_earns_no_credit() -> None:
    """After a wait of a second a work of 20 ms takes 20 ms from the arrival on."""
    done, _ = run([(0, 20 * MS, MS), (1000 * MS, 20 * MS, MS)])
    assert done == [(0, 20 * MS), (1000 * MS, 1020 * MS)]


def test_a_node_that_joins_later_begins_then() -> None:
    """`start` is the first moment at which it could work."""
    assert Pacer(start=70 * MS).begin(75 * MS) == 70 * MS


def test_stages_have_deadlines_of_their_own() -> None:
    """Forward of 10 ms, backward of 20: the first one's lag is made up for in the second, which ends on time."""
    clock, pacer = FakeClock(), Pacer()
    ends = []
    for target, host in ((10 * MS, 13 * MS), (20 * MS, 5 * MS)):
        begin = pacer.begin(clock.now())
        clock.work(host)
        pacer.done(begin, begin + target, clock.now())
        clock.sleep(begin + target)
        ends.append(clock.now())
    assert ends == [13 * MS, 30 * MS]
    assert pacer.fidelity == Fidelity(works=2, overruns=1, lag=0, worst=3 * MS)


durations = st.integers(1, 200 * MS)
works_of_a_node = st.lists(st.tuples(st.integers(0, 3000 * MS), durations, st.integers(0, 400 * MS)), max_size=15)


@given(works_of_a_node, st.sampled_from([1, 2, 5, 10]))
@example([(0, 20 * MS, 220 * MS), (0, 20 * MS, 5 * MS)], 1)
def test_the_closed_form(works: Works, dilation: int) -> None:
    """Arrivals in any order and injected overruns: the spec's four lines, to the nanosecond."""
    done, pacer = run(works, float(dilation))
    expected, fidelity = closed_form(works, dilation)
    assert done == expected
    assert pacer.fidelity == fidelity


@given(st.lists(st.tuples(durations, st.integers(0, 400 * MS)), min_size=1, max_size=15))
def test_no_more_is_late_than_is_lost(works: list[tuple[int, int]]) -> None:
    """At the end of every work the node is late by what is lost and by the budget at most, and never early."""
    targets, hosts = [target for target, _ in works], [host for _, host in works]
    for count in range(1, len(works) + 1):
        ends, pacer = after_each_other(targets[:count], hosts[:count])
        late = ends[-1] - sum(targets[:count])
        assert pacer.fidelity.lag <= late <= pacer.fidelity.lag + max(BUDGET, 2 * max(targets[:count]))


@given(st.lists(durations, min_size=1, max_size=15))
def test_a_host_that_is_fast_enough_is_exact(targets: list[int]) -> None:
    """However the targets vary."""
    ends, pacer = after_each_other(targets, [target // 2 for target in targets])
    assert [0, *ends] == [sum(targets[:n]) for n in range(len(targets) + 1)]
    short = sum(target < 5 * MS for target in targets)
    assert pacer.fidelity == Fidelity(works=len(targets) - short, short=short)


def test_short_works_are_no_overruns() -> None:
    """They are late by what a host takes for itself, and the next ones make up for it; what is lost is lost."""
    _, pacer = run([(0, 1 * MS, 2 * MS)] * 4, 2.0)  # 2 ms of the wall clock each
    assert pacer.fidelity == Fidelity(short=4, worst=4 * MS)
    _, pacer = run([(0, 1 * MS, 200 * MS)], 2.0)
    assert pacer.fidelity == Fidelity(short=1, lag=(199 - 25) * MS, worst=199 * MS)


@given(works_of_a_node)
def test_ideal_time_never_goes_back(works: Works) -> None:
    """No work begins before the one before it, or after the moment of its start."""
    done, _ = run(works)
    assert all(one[0] <= other[0] for one, other in pairwise(done))


# ------------------------------------------------------------------------------------------- the summary


def test_a_faithful_run() -> None:
    """Two overruns in a hundred works and 5 ms lost in 10 s; the worst node is the one that lost them."""
    nodes = {-1: Fidelity(works=60), 0: Fidelity(20, 3, 1, 5 * MS, 90 * MS), 1: Fidelity(20, 4, 1, 0, MS)}
    assert summarised(nodes, 10.0) == {
        "works": 100,
        "short_works": 7,
        "overruns": 2,
        "overrun_ratio": 0.02,
        "lag_s": 0.005,
        "worst_node": 0,
        "worst_node_lag_s": 0.005,
        "worst_overrun_s": 0.09,
        "faithful": True,
    }


def test_a_run_that_is_not_faithful() -> None:
    """More than 5 % overruns, or more than 1 % of the run lost by one node; half of each is not."""
    assert not summarised({0: Fidelity(works=100, overruns=6)}, 10.0)["faithful"]
    assert not summarised({0: Fidelity(works=100, overruns=1, lag=101 * MS)}, 10.0)["faithful"]
    nodes = {0: Fidelity(100, 0, 5, 60 * MS), 1: Fidelity(100, 0, 5, 60 * MS)}
    assert summarised(nodes, 10.0)["faithful"], "what several nodes lost is not one node's"


def test_what_a_run_was_not_faithful_in() -> None:
    """Overruns, and what a node lost if it did; nothing of one that was faithful."""
    lost = summarised({0: Fidelity(works=4, overruns=1, lag=200 * MS)}, 10.0)
    assert unfaithful(lost) == "25.0% of its works overran, and node 0 lost 200 ms that could not be made up for"
    assert unfaithful(summarised({0: Fidelity(works=4, overruns=1)}, 10.0)) == "25.0% of its works overran"
    assert unfaithful(summarised({0: Fidelity(works=4)}, 10.0)) is None


def test_a_run_without_works() -> None:
    """Has nothing to be unfaithful to."""
    found = summarised({}, 0.0)
    assert found["faithful"]
    assert found["worst_node"] is None
    assert Fidelity().overrun_ratio == 0.0
