"""Variation: seeded factors with mean 1, heat by hand, and nothing at all where a profile gives none."""

from __future__ import annotations

import math
import statistics
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import RunError
from fedsim.hardware import variation
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.pricing import nanoseconds
from fedsim.hardware.profiles import Profile, load_profile
from fedsim.hardware.variation import Clockwork, Heat, factor

SERVER = -1
COST = Cost((Operator(OpClass.CONV, Phase.FORWARD, 10**9, 64),))


def board(**changes: Any) -> Machine:
    """A machine of 1 GMAC/s, so that `COST` takes a second."""
    data = load_profile("pi-tier-1").model_dump(mode="json", by_alias=True) | {"speed": "1 GMAC/s"}
    return machine(Profile.model_validate(data | changes))


STEADY, UNEQUAL = board(), board(variation={"spread": "10 %"})
SHAKY, BOTH = board(variation={"jitter": "3 %"}), board(variation={"spread": "10 %", "jitter": "3 %"})
HOT = board(thermal={"factor": "50 %", "after": "10 s"})
S = 10**9


@pytest.mark.parametrize("coefficient", [0.03, 0.3, 1.0])
def test_factors_are_log_normal_with_mean_one(coefficient: float) -> None:
    """Mean 1, standard deviation as asked; the logarithm's is sqrt(ln(1 + c²)), its mean minus half of the square."""
    draws = [factor(1, node, "spread", 0, coefficient) for node in range(20_000)]
    assert statistics.fmean(draws) == pytest.approx(1.0, abs=4 * coefficient / math.sqrt(20_000))
    assert statistics.stdev(draws) == pytest.approx(coefficient, rel=0.1)
    logs = [math.log(draw) for draw in draws]
    assert statistics.stdev(logs) == pytest.approx(math.sqrt(math.log(1 + coefficient**2)), rel=0.02)
    assert statistics.fmean(logs) == pytest.approx(-math.log(1 + coefficient**2) / 2, abs=0.03 * coefficient)


@given(st.integers(0, 2**63), st.integers(-1, 10**6), st.integers(0, 10**9), st.floats(0, 1))
def test_a_factor_follows_from_its_key_alone(seed: int, node: int, number: int, coefficient: float) -> None:
    """The same each time, positive and finite; without variation it is 1."""
    first = factor(seed, node, "jitter", number, coefficient)
    assert first == factor(seed, node, "jitter", number, coefficient)
    assert 0 < first < math.inf
    assert factor(seed, node, "jitter", number, 0.0) == 1.0


def test_extreme_seeds_give_finite_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bits off or on: seven to eight standard deviations, never infinity."""
    for bits in (0, 2**63 - 1):
        monkeypatch.setattr("fedsim.seeds.derive", lambda *_, bits=bits: bits)
        assert 1e-4 < factor(0, 0, "spread", 0, 1.0) < 1e4


def test_without_variation_prices_are_those_of_the_machine() -> None:
    """To the nanosecond, at any moment, with nothing kept by node."""
    work = Clockwork([(STEADY, 3), (board(speed="3 GMAC/s"), 2)], board(speed="7 GMAC/s"), seed=1)
    assert [work.price(node, COST, node * S) for node in (0, 2, 3, 4, SERVER)] == [
        *(S, S, 333_333_334, 333_333_334, 142_857_143)
    ]
    assert work._nodes == {}


def test_a_cost_is_priced_once_for_all_nodes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the cost's identity; groups that share a machine share its prices."""
    asked: list[Cost] = []

    def counted(of: Machine, cost: Cost) -> int:
        asked.append(cost)
        return nanoseconds(of, cost)

    monkeypatch.setattr(variation, "nanoseconds", counted)
    work = Clockwork([(BOTH, 2), (STEADY, 2), (BOTH, 2)], STEADY, seed=1)
    equal = Cost(COST.operators)
    for cost in (COST, COST, equal):
        for node in range(SERVER, 6):
            assert work.nominal(node, cost) == S
            work.price(node, cost, 0)
    assert asked == [COST, COST, equal, equal]


def test_a_million_nodes_take_a_word_each() -> None:
    """A node takes memory of its own when it is first priced, and only if its machine varies."""
    tracemalloc.start()
    try:
        work = Clockwork([(BOTH, 500_000), (STEADY, 500_000)], STEADY, seed=1)
        assert tracemalloc.get_traced_memory()[0] < 12e6
    finally:
        tracemalloc.stop()
    for node in (0, 0, 7, 600_000, SERVER):
        work.price(node, COST, 0)
    assert list(work._nodes) == [0, 7]


def test_spread_is_drawn_once_a_device() -> None:
    """A slow device stays slow; its like are different, and so is the server."""
    work = Clockwork([(UNEQUAL, 3)], UNEQUAL, seed=5)
    prices = [[work.price(node, COST, 0) for _ in range(3)] for node in range(SERVER, 3)]
    assert all(len(set(several)) == 1 for several in prices)
    assert len({several[0] for several in prices}) == 4
    twice = Cost(COST.operators * 2)
    assert work.price(0, twice, 0) == pytest.approx(2 * work.price(0, COST, 0), abs=1)
    assert work.price(0, COST, 0) == math.ceil(S * factor(5, 0, "spread", 0, 0.1))


def test_jitter_is_drawn_once_a_work() -> None:
    """The n-th work of a node has its n-th draw, whatever other nodes do in between."""
    alone = Clockwork([(SHAKY, 2)], STEADY, seed=5)
    prices = [alone.price(1, COST, 0) for _ in range(4)]
    assert prices == [math.ceil(S * factor(5, 1, "jitter", n, 0.03)) for n in range(4)]
    assert len(set(prices)) == 4
    crowd = Clockwork([(SHAKY, 2)], STEADY, seed=5)
    mixed = [crowd.price(node, COST, 0) for _ in range(4) for node in (0, SERVER, 1)]
    assert mixed[2::3] == prices


def test_the_same_seed_draws_the_same() -> None:
    """And another seed draws another run; means stay close to the price without variation."""

    def prices(seed: int) -> list[int]:
        work = Clockwork([(BOTH, 200)], STEADY, seed=seed)
        return [work.price(node, COST, 0) for node in range(200) for _ in range(5)]

    assert prices(1) == prices(1)
    assert prices(1) != prices(2)
    assert statistics.fmean(prices(1)) == pytest.approx(S, rel=0.03)


def test_the_nominal_price_is_without_variation_and_draws_nothing() -> None:
    """Predictions do not change what a run draws."""
    work, other = (Clockwork([(BOTH, 1)], HOT, seed=1) for _ in range(2))
    assert work.nominal(0, COST) == work.nominal(SERVER, COST) == S
    assert work.price(0, COST, 0) == other.price(0, COST, 0)


def test_a_price_with_variation_is_never_zero() -> None:
    """One MAC takes a nanosecond at least, and work without a cost stays an error."""
    work = Clockwork([(BOTH, 50)], HOT, seed=1)
    one = Cost((Operator(OpClass.CONV, Phase.FORWARD, 1, 64),))
    assert min(work.price(node, one, 0) for node in range(50)) >= 1
    with pytest.raises(RunError, match="work without a cost"):
        work.price(0, Cost(()), 0)


def test_a_machine_slows_down_after_computing_for_long() -> None:
    """Half of the rates after 10 units on end: by hand, within a work, until as many units without work."""
    heat = Heat(factor=0.5, after=10)
    assert heat.slowed(0, 4) == 4
    assert heat.slowed(4, 10) == 14  # 6 units cold, the other 4 take 8
    assert heat.slowed(18, 3) == 6
    assert heat.slowed(29, 3) == 6  # 5 units of rest were not enough
    assert heat.slowed(45, 3) == 3  # 10 are
    assert (heat.end, heat.amount, heat.hot) == (48, 3, False)


def test_a_machine_is_hot_at_the_end_of_the_work_that_makes_it_so() -> None:
    """Exactly `after` units are cold, the next one is not."""
    heat = Heat(factor=0.5, after=10)
    assert heat.slowed(7, 10) == 10
    assert heat.slowed(17, 1) == 2


def test_idle_time_takes_back_heat_at_the_same_pace() -> None:
    """Computing half of the time, a machine stays cold; with short breaks it gets hot later than without."""
    heat = Heat(factor=0.5, after=10)
    assert [heat.slowed(start, 5) for start in range(0, 100, 10)] == [5] * 10
    heat = Heat(factor=0.5, after=10)
    assert heat.slowed(0, 8) == 8
    assert heat.slowed(12, 8) == 10  # 4 of 8 units are left; 6 more are cold, 2 take 4
    assert heat.slowed(21, 2) == 4  # one unit later


def test_rest_beyond_the_heat_counts_for_nothing() -> None:
    """A machine cannot get colder than cold."""
    heat = Heat(factor=0.5, after=10)
    assert heat.slowed(0, 2) == 2
    assert heat.slowed(1000, 10) == 10
    assert heat.hot


def test_works_side_by_side_heat_a_machine_once() -> None:
    """Two lanes for 8 units make 8 units of heat, not 16; who is told later finds the heat of its own moments."""
    heat = Heat(factor=0.5, after=10)
    assert [heat.slowed(0, 8), heat.slowed(0, 12)] == [8, 14]  # the second lane is hot from 10 on
    assert (heat.amount, heat.end, heat.hot, heat.since) == (10, 14, True, 10)
    assert heat.slowed(8, 4) == 6  # the first lane goes on: 2 units cold, 2 hot
    assert heat.slowed(14, 2) == 4


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=20), st.floats(0.1, 1), st.integers(1, 40))
def test_heat_slows_down_between_nothing_and_its_factor(works: list[tuple[int, int]], rate: float, after: int) -> None:
    """Whatever the works and breaks: never faster than cold, never slower than hot, never more heat than `after`."""
    heat, now = Heat(rate, after), 0
    for rest, duration in works:
        now += rest
        lasts = heat.slowed(now, duration)
        assert duration <= lasts <= math.ceil(duration / rate)
        now += lasts
        assert 0 <= heat.amount <= after
        assert heat.end == now


def test_a_profiles_heat_reaches_its_prices() -> None:
    """50 % after 10 s: ten works of a second, then two seconds each, and a second again after 10 s of rest."""
    work = Clockwork([(HOT, 2)], STEADY, seed=1)
    now, prices = 0, []
    for _ in range(12):
        prices.append(work.price(0, COST, now))
        now += prices[-1]
    assert prices == [S] * 10 + [2 * S] * 2
    assert work.price(0, COST, now + 10 * S - 1) == 2 * S
    assert work.price(0, COST, now + 40 * S) == S
    assert work.price(1, COST, now) == S, "another device is cold"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=20), st.integers(1, 40))
def test_heat_equals_a_walk_through_every_unit_of_time(works: list[tuple[int, int]], after: int) -> None:
    """One more a busy unit, one less an idle one; hot from `after` down to none, and half as fast meanwhile."""
    heat, now = Heat(0.5, after), 0
    amount, hot = 0, False
    for rest, duration in works:
        for _ in range(rest):
            amount = max(0, amount - 1)
            hot = hot and amount > 0
        done, lasts = 0.0, 0
        while done < duration:
            done += 0.5 if hot else 1.0
            amount, lasts = min(after, amount + 1), lasts + 1
            hot = hot or amount == after
        now += rest
        assert heat.slowed(now, duration) == lasts
        now += lasts
