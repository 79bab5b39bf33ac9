"""The allocators against the published figures, against brute force and against one another."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.network.flow import FOREVER, Allocator, Capacity, Flow, moment
from fedsim.network.general import General
from fedsim.network.single import Single
from fedsim.network.solved import Solved
from fedsim.network.tree import Tree, level
from tests.network.brute import Sent, check_fair, play

MBIT = 125_000.0  # bytes per second
SIZE = 12.5e6  # 100 Mbit

Paths = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Start:
    """A flow to be: when, how much, its cap, weight, and the capacities that it crosses."""

    at: float
    size: float = SIZE
    cap: float = FOREVER
    weight: float = 1.0
    crosses: tuple[str, ...] = ("ingress",)


def single(capacities: dict[str, Capacity], weighted: bool) -> Allocator:
    """The lazy one."""
    return Single(capacities["ingress"])


def tree(capacities: dict[str, Capacity], weighted: bool) -> Allocator:
    """Branches under one root."""
    branches = [capacity for name, capacity in capacities.items() if name != "ingress"]
    return Solved(Tree(capacities["ingress"], branches), weighted=weighted)


def general(capacities: dict[str, Capacity], weighted: bool) -> Allocator:
    """Anything."""
    return Solved(General(), weighted=weighted)


Maker = Callable[[dict[str, Capacity], bool], Allocator]
EVERY: list[Maker] = [single, tree, general]


Changes = Sequence[tuple[float, int | str, float]]


def run(make: Maker, starts: Sequence[Start], rates: dict[str, float], changes: Changes = ()) -> list[float]:
    """When each flow ends; `changes` are moments at which a flow's cap or a capacity's rate becomes another."""
    capacities = {name: Capacity(rate) for name, rate in rates.items()}
    allocator = make(capacities, any(s.weight != 1 for s in starts))
    flows = [
        Flow(s.size, s.cap, tuple((capacities[name], 1.0) for name in s.crosses), s.weight, number)
        for number, s in enumerate(starts)
    ]
    ends = [math.nan] * len(starts)
    waiting = sorted(range(len(starts)), key=lambda number: starts[number].at)
    later = sorted(changes, key=lambda change: change[0])
    flowing: list[Flow] = []
    due = FOREVER
    while waiting or flowing:
        nexts = [due] + [starts[number].at for number in waiting[:1]] + [at for at, *_ in later[:1]]
        now = min(nexts)
        assert now < FOREVER
        for flow in allocator.finished(now):
            ends[flow.number] = now
            flowing.remove(flow)
        while later and later[0][0] <= now:
            _, what, value = later.pop(0)
            if isinstance(what, str):
                allocator.resize(now, capacities[what], value)
            elif flows[what].home is not None:
                allocator.change(now, flows[what], value)
            else:
                flows[what].cap = value
        while waiting and starts[waiting[0]].at <= now:
            flow = flows[waiting.pop(0)]
            allocator.start(now, flow)
            flowing.append(flow)
        due = allocator.settle(now)
    return ends


def by_force(starts: Sequence[Start], rates: dict[str, float], changes: Changes = ()) -> list[float]:
    """The same from the oracle."""
    sent = [Sent(n, s.at, s.size, s.cap, s.weight, dict.fromkeys(s.crosses, 1.0)) for n, s in enumerate(starts)]
    play(sent, dict(rates), changes=changes)
    return [one.end for one in sent]


# --------------------------------------------------------------------------------- published figures

FOUR = (10, 20, 100, 100)
LATENCIES = (0.05, 0.05, 0.01, 0.02)
HUNDRED = {"ingress": 100 * MBIT}


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize(
    ("starts", "rates", "expected"),
    [
        ([Start(0, cap=c * MBIT) for c in FOUR], HUNDRED, (10.0, 5.0, 2.8571, 2.8571)),
        ([Start(0, cap=0.97 * c * MBIT) for c in FOUR], {"ingress": 97 * MBIT}, (10.3093, 5.1546, 2.9455, 2.9455)),
        ([Start(t, cap=c * MBIT) for t, c in ((0, 100), (0.25, 100), (0.5, 20))], HUNDRED, (2.0625, 2.375, 5.5)),
        (
            [Start(t, cap=c * MBIT) for t, c in zip(LATENCIES, FOUR, strict=True)],
            HUNDRED,
            (10.05, 5.05, 2.8357, 2.85),
        ),
        (
            [Start(t, cap=c * MBIT, weight=1 / t) for t, c in zip(LATENCIES, FOUR, strict=True)],
            HUNDRED,
            (10.05, 5.9122, 1.8822, 2.6037),
        ),
    ],
    ids=["four flows", "efficiency 0.97", "staggered", "latencies", "rtt_bias"],
)
def test_flows_into_one_ingress(
    make: Maker, starts: list[Start], rates: dict[str, float], expected: tuple[float, ...]
) -> None:
    """12.5 MB a flow; the figures are those of SimGrid 3.32 to their four digits."""
    assert [round(end, 4) for end in run(make, starts, rates)] == list(expected)


@pytest.mark.parametrize("make", EVERY[1:])
def test_flows_behind_an_access_point(make: Maker) -> None:
    """Flows 3 and 4 behind 30 Mbit/s get 15 each, and leave the others the rest of 100."""
    starts = [
        Start(0, cap=c * MBIT, crosses=("cell", "ingress") if k in (2, 3) else ("ingress",))
        for k, c in enumerate((10, 20, 100, 100, 100, 100))
    ]
    ends = run(make, starts, {"cell": 30 * MBIT, "ingress": 100 * MBIT})
    assert [round(end, 4) for end in ends] == [10.0, 5.0, 6.6667, 6.6667, 5.0, 5.0]


# --------------------------------------------------------------------------------- random instances

caps = st.sampled_from([1.0, 2.0, 5.0, FOREVER]) | st.floats(0.1, 20)
times = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 3)
flat = st.builds(Start, times, st.sampled_from([1.0, 4.0]) | st.floats(0.01, 30), caps)
weighted = st.builds(replace, flat, weight=st.sampled_from([1.0, 2.0]) | st.floats(0.1, 10))
branched = st.builds(replace, flat, crosses=st.sampled_from([("ingress",), ("a", "ingress"), ("b", "ingress")]))
tangled = st.builds(replace, weighted, crosses=st.sets(st.sampled_from("abcd"), min_size=1).map(sorted).map(tuple))
widths = st.sampled_from([1.0, 4.0, 10.0]) | st.floats(0.5, 50)


def many(one: st.SearchStrategy[Start]) -> st.SearchStrategy[list[Start]]:
    """Some of them."""
    return st.lists(one, min_size=1, max_size=12)


def agree(found: Sequence[float], expected: Sequence[float]) -> None:
    """To 1e-9 of themselves."""
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(many(flat) | many(weighted), widths)
def test_all_allocators_agree_with_brute_force_on_one_capacity(starts: list[Start], width: float) -> None:
    """Lazy, tree and general: the same ends."""
    expected = by_force(starts, {"ingress": width})
    for make in EVERY:
        agree(run(make, starts, {"ingress": width}), expected)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(many(branched), widths, widths, widths)
def test_trees_agree_with_brute_force(starts: list[Start], root: float, a: float, b: float) -> None:
    """Branches that are full and branches that are not."""
    rates = {"a": a, "b": b, "ingress": root}
    expected = by_force(starts, rates)
    for make in EVERY[1:]:
        agree(run(make, starts, rates), expected)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(many(tangled), st.lists(widths, min_size=4, max_size=4))
def test_any_tangle_agrees_with_brute_force(starts: list[Start], rates: list[float]) -> None:
    """Flows over any of four capacities, weighted."""
    named = dict(zip("abcd", rates, strict=True))
    agree(run(general, starts, named), by_force(starts, named))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_changes_under_way_agree_with_brute_force(data: st.DataObject) -> None:
    """Caps and capacities that become others, up to nothing for a while."""
    one, rates, makers = data.draw(
        st.sampled_from(
            [
                (weighted, {"ingress": 10.0}, EVERY),
                (branched, {"a": 4.0, "b": 7.0, "ingress": 10.0}, EVERY[1:]),
                (tangled, {"a": 4.0, "b": 7.0, "c": 10.0, "d": 20.0}, EVERY[2:]),
            ]
        )
    )
    starts = data.draw(many(one))
    flow = st.tuples(times, st.integers(0, len(starts) - 1), st.just(0.0) | caps)
    changes = data.draw(st.lists(flow | st.tuples(times, st.sampled_from(sorted(rates)), st.just(0.0) | widths)))
    changes += [(5.0, number, 1.0) for number in range(len(starts))] + [(5.0, name, 8.0) for name in rates]
    expected = by_force(starts, rates, changes)
    for make in makers:
        agree(run(make, starts, rates, changes), expected)


def brute_of(flows: Sequence[Flow], capacities: dict[int, str]) -> list[Sent]:
    """The oracle's view of flows."""
    return [
        Sent(f.number, 0.0, 1.0, f.cap, f.weight, {capacities[id(c)]: share for c, share in f.crosses}) for f in flows
    ]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(many(tangled) | many(branched) | many(weighted), st.lists(widths, min_size=5, max_size=5))
def test_rates_are_fair_and_bytes_are_conserved(starts: list[Start], widths_: list[float]) -> None:
    """At every solving: no capacity is exceeded, and nobody could have more; in the end every byte has flowed."""
    rates = dict(zip((*"abcd", "ingress"), widths_, strict=True))
    plain = all(s.crosses == ("ingress",) for s in starts)
    flat_tree = all(s.crosses[-1] == "ingress" and s.weight == 1 for s in starts)
    for make in [general] + [tree] * flat_tree + [single] * plain:
        capacities = {name: Capacity(rate) for name, rate in rates.items()}
        names = {id(capacity): name for name, capacity in capacities.items()}
        given_capacities = {n: c for n, c in capacities.items() if n in "ab" or n == "ingress"}
        allocator = make(capacities if make is general else given_capacities, True)
        flows = [
            Flow(s.size, s.cap, tuple((capacities[name], 1.0) for name in s.crosses), s.weight, number)
            for number, s in enumerate(starts)
        ]
        carried = [0.0] * len(flows)
        for flow in flows:
            allocator.start(0.0, flow)
        now, due, flowing = 0.0, allocator.settle(0.0), list(flows)
        while flowing:
            shares = [allocator.rate(flow) for flow in flowing]
            check_fair(brute_of(flowing, names), shares, rates)
            for flow, share in zip(flowing, shares, strict=True):
                carried[flow.number] += share * (due - now)
            now = due
            for flow in allocator.finished(now):
                flowing.remove(flow)
            due = allocator.settle(now)
        agree(carried, [s.size for s in starts])


@settings(max_examples=20, deadline=None)
@given(many(flat), widths, st.sampled_from([0.25, 2.0, 3.0, 1000.0]))
def test_scaling_every_rate_scales_every_time(starts: list[Start], width: float, factor: float) -> None:
    """Twice as fast, and sent twice as early: over in half the time."""
    faster = [replace(s, at=s.at / factor, cap=s.cap * factor) for s in starts]
    for make in EVERY:
        slow = run(make, starts, {"ingress": width})
        agree([end * factor for end in run(make, faster, {"ingress": width * factor})], slow)


@settings(max_examples=20, deadline=None)
@given(many(flat), widths, st.floats(1, 10))
def test_a_wider_bottleneck_delays_no_flow(starts: list[Start], width: float, factor: float) -> None:
    """Of one capacity that all share; a wider private link may well delay others."""
    for make in EVERY:
        narrow, wide = run(make, starts, {"ingress": width}), run(make, starts, {"ingress": width * factor})
        assert all(b <= a * (1 + 1e-9) for a, b in zip(narrow, wide, strict=True))


@settings(max_examples=20, deadline=None)
@given(many(branched), st.randoms(use_true_random=False))
def test_order_of_insertion_does_not_matter(starts: list[Start], rng: random.Random) -> None:
    """Flows that start at one moment may be named in any order."""
    rates = {"a": 3.0, "b": 7.0, "ingress": 11.0}
    shuffled = rng.sample(range(len(starts)), len(starts))
    for make in EVERY[1:]:
        expected = run(make, starts, rates)
        found = run(make, [starts[number] for number in shuffled], rates)
        agree([found[shuffled.index(number)] for number in range(len(starts))], expected)


@pytest.mark.slow
def test_the_lazy_allocator_equals_the_general_one_on_many_flows() -> None:
    """1,000 flows of caps over four decades that come and go; 2,000 changes."""
    rng = random.Random(3)
    starts = [Start(rng.uniform(0, 50), rng.uniform(1, 100), 10 ** rng.uniform(-2, 2)) for _ in range(1000)]
    agree(run(single, starts, {"ingress": 400.0}), run(general, starts, {"ingress": 400.0}))


# ----------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("make", EVERY)
def test_a_flow_that_is_stopped_leaves_its_share_and_knows_what_was_left(make: Maker) -> None:
    """Two flows of 10 bytes at 5 B/s each; one stops after 1 s, the other has 10 B/s from then on."""
    capacity = {"ingress": Capacity(10.0)}
    allocator = make(capacity, False)
    one, other = (Flow(10.0, crosses=((capacity["ingress"], 1.0),), number=n) for n in (0, 1))
    allocator.start(0.0, one)
    allocator.start(0.0, other)
    assert allocator.settle(0.0) == 2.0
    allocator.stop(1.0, one)
    assert one.left == 5.0
    assert allocator.settle(1.0) == 1.5
    assert allocator.rate(other) == 10.0
    assert allocator.finished(1.5) == [other]
    assert allocator.settle(1.5) == FOREVER


@pytest.mark.parametrize("make", EVERY)
def test_caps_and_capacities_change_under_way(make: Maker) -> None:
    """100 bytes: 1 s at 4 (its cap), 1 s at 2, 1 s at 0, 1 s at 10 (all there is), then all there is is 14."""
    capacity = {"ingress": Capacity(10.0)}
    allocator = make(capacity, False)
    flow = Flow(100.0, 4.0, ((capacity["ingress"], 1.0),))
    allocator.start(0.0, flow)
    assert allocator.settle(0.0) == 25.0
    allocator.change(1.0, flow, 2.0)
    assert allocator.settle(1.0) == 49.0
    allocator.change(2.0, flow, 0.0)
    assert allocator.settle(2.0) == FOREVER
    assert (allocator.rate(flow), allocator.finished(2.5)) == (0.0, [])
    allocator.change(3.0, flow, FOREVER)
    assert allocator.settle(3.0) == pytest.approx(12.4)
    allocator.resize(4.0, capacity["ingress"], 14.0)
    assert allocator.settle(4.0) == pytest.approx(10.0)
    assert allocator.finished(allocator.settle(4.0)) == [flow]


@pytest.mark.parametrize("make", EVERY[1:])
def test_branches_change_under_way(make: Maker) -> None:
    """Two flows in a cell of 4, one outside, under 10: 2, 2 and 6; with a cell of 8: a third each."""
    capacity = {"cell": Capacity(4.0), "ingress": Capacity(10.0)}
    allocator = make(capacity, False)
    way = tuple((one, 1.0) for one in capacity.values())
    flows = [Flow(100.0, crosses=crosses) for crosses in (way, way, way[1:])]
    for flow in flows:
        allocator.start(0.0, flow)
    allocator.settle(0.0)
    assert [allocator.rate(flow) for flow in flows] == [2.0, 2.0, 6.0]
    allocator.resize(1.0, capacity["cell"], 8.0)
    allocator.resize(1.0, capacity["ingress"], 12.0)
    allocator.settle(1.0)
    assert [allocator.rate(flow) for flow in flows] == [4.0, 4.0, 4.0]
    allocator.change(2.0, flows[0], 1.0)
    allocator.settle(2.0)
    assert [allocator.rate(flow) for flow in flows] == [1.0, 5.5, 5.5]


@pytest.mark.parametrize("make", EVERY)
def test_flows_that_end_together_are_solved_for_once(make: Maker) -> None:
    """A thousand equal flows end at one moment, and so do a hundred of odd sizes at their caps."""
    capacity = {"ingress": Capacity(1000.0)}
    allocator = make(capacity, False)
    for number in range(1000):
        allocator.start(0.0, Flow(3.0, crosses=((capacity["ingress"], 1.0),), number=number))
    due = allocator.settle(0.0)
    assert (due, len(allocator.finished(due))) == (3.0, 1000)
    assert allocator.settle(due) == FOREVER
    for number in range(100):
        size = 0.1 * (number + 1)
        allocator.start(due, Flow(size, size / 0.7, ((capacity["ingress"], 1.0),), number=number))
    due = allocator.settle(due)
    assert due == pytest.approx(3.7)
    assert len(allocator.finished(due)) == 100


def test_equal_caps_turn_together() -> None:
    """Ten thousand equal flows are one tier: the flow that is too many for all to be at their caps moves one thing."""
    allocator = Single(Capacity(10_000.0))
    for number in range(10_000):
        allocator.start(0.0, Flow(1e6, 1.0, number=number))
        allocator.settle(0.0)
    for number in range(100):
        extra = Flow(1e6, 1.0, number=number)
        allocator.start(0.0, extra)
        allocator.settle(0.0)
        assert allocator.rate(extra) == 10_000 / 10_001
        allocator.stop(0.0, extra)
        allocator.settle(0.0)
    assert len(allocator._tiers) == 1
    assert max(map(len, (allocator._ends, allocator._marks, allocator._highest, allocator._lowest))) < 1000


def test_the_lazy_allocator_forgets_what_is_over() -> None:
    """After 20,000 flows of different caps its heaps hold few entries, and its sums no trace of them."""
    rng = random.Random(5)
    allocator = Single(Capacity(10.0))
    now = 0.0
    stays = Flow(1e9, 0.3)
    allocator.start(now, stays)
    for _ in range(20_000):
        flow = Flow(1.0, rng.uniform(0.1, 20))
        allocator.start(now, flow)
        now = allocator.settle(now)
        assert allocator.finished(now) == [flow]
        allocator.settle(now)
    assert max(map(len, (allocator._ends, allocator._marks, allocator._highest, allocator._lowest))) < 1000
    assert allocator.rate(stays) == 0.3
    assert allocator._taken == pytest.approx(0.3, rel=1e-12)


def test_numbers_of_capacities_are_used_again() -> None:
    """A thousand capacities, two at a time, take a handful of numbers."""
    filling = General()
    allocator = Solved(filling)
    for number in range(1000):
        flow = Flow(1.0, crosses=((Capacity(1.0), 1.0), (Capacity(2.0), 0.5)))
        allocator.start(float(number), flow)
        assert allocator.settle(float(number)) == number + 1
        assert allocator.finished(number + 1.0) == [flow]
    assert len(filling._rates) <= 4


def test_the_level_of_flows_that_just_fit_is_infinite() -> None:
    """Also where their sum exceeds the rate by rounding only."""
    import numpy as np

    assert level(np.full(10, 0.1), None, 1.0) == FOREVER
    assert level(np.full(3, 0.1), None, math.nextafter(0.1 + 0.1 + 0.1, 0)) == pytest.approx(0.1)
    assert level(np.array([1.0, 5.0, 5.0]), None, 7.0) == 3.0
    assert level(np.array([1.0, 5.0, 5.0]), np.array([1.0, 1.0, 2.0]), 7.0) == 2.0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, 0), (1e-10, 1), (0.1 + 0.2, 300_000_000), (1.0000000011, 1_000_000_002), (1e5, 10**14)],
)
def test_moments_are_rounded_up_but_not_for_noise(seconds: float, expected: int) -> None:
    """One rounding, at the end."""
    assert moment(seconds) == expected


def test_a_capacity_that_nobody_uses_may_change_without_any_effect() -> None:
    """Its place has been given to another."""
    old, new, world = Capacity(1.0), Capacity(2.0), Solved(General(), weighted=False)
    first, second = Flow(10.0, crosses=((old, 1.0),)), Flow(10.0, crosses=((new, 1.0),))
    world.start(0.0, first)
    world.settle(0.0)
    world.stop(0.0, first)
    world.start(0.0, second)
    world.resize(0.0, old, 50.0)
    world.settle(0.0)
    assert world.rate(second) == 2.0
