"""Prices: the scalar cost model by hand, and the refusal to let work be free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import RunError
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.pricing import nanoseconds, seconds
from fedsim.hardware.profiles import Profile, load_profile
from fedsim.hardware.rounding import whole_nanoseconds

TIER = machine(load_profile("pi-tier-1"))  # 2.2 GMAC/s, backward ratio 2


def tier(**changes: object) -> Machine:
    """The first tier with some fields changed."""
    return machine(Profile.model_validate(TIER.profile.model_dump(mode="json", by_alias=True) | changes))


def forward(macs: int, count: int = 1) -> Operator:
    """A forward convolution."""
    return Operator(OpClass.CONV, Phase.FORWARD, macs, 64, count, forward_macs=macs)


def backward(macs: int, forward_macs: int, count: int = 1) -> Operator:
    """The backward pass of a convolution."""
    return Operator(OpClass.CONV, Phase.BACKWARD, macs, 64, count, forward_macs=forward_macs)


OPTIMIZER = Operator(OpClass.OPTIMIZER, Phase.OPTIMIZER, 0, 1000)


def test_forward_is_macs_over_speed() -> None:
    """VGG-5's 8,488,192 MACs at 2.2 GMAC/s take 3.858… ms."""
    cost = Cost((forward(8_488_192),))
    assert seconds(TIER, cost) == pytest.approx(8_488_192 / 2.2e9)
    assert nanoseconds(TIER, cost) == 3_858_270


def test_a_training_step_costs_three_forward_passes() -> None:
    """With ratio 2 a step is 3m, whatever the counted backward MACs: the first unit has no input gradient."""
    step = Cost((forward(600), forward(400), backward(800, 400), backward(600, 600), OPTIMIZER))
    assert seconds(tier(speed="1 kMAC/s"), step) == pytest.approx(3.0)


def test_the_ratio_is_the_profiles() -> None:
    """Ratio 1.5: 1 s forward, 1.5 s backward."""
    step = Cost((forward(1000), backward(2000, 1000)))
    assert seconds(tier(speed="1 kMAC/s", backward_ratio=1.5), step) == pytest.approx(2.5)


def test_equal_operators_count() -> None:
    """`count` operators take `count` times as long, forward and backward."""
    step = Cost((forward(100, count=3), backward(200, 100, count=3)))
    assert seconds(tier(speed="1 kMAC/s"), step) == pytest.approx(0.9)


def test_aggregation_is_macs_over_speed() -> None:
    """Averaging five models of 200 parameters is 1,000 MACs."""
    mean = Cost((Operator(OpClass.COPY, Phase.AGGREGATE, 1000, 4800),))
    assert seconds(tier(speed="1 kMAC/s"), mean) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (Cost(()), "work without a cost: it has no operators on pi-tier-1"),
        (Cost((OPTIMIZER,)), "work without a cost: its 1 operators cost nothing on pi-tier-1"),
        (Cost((backward(100, 0),)), "work without a cost: its 1 operators cost nothing"),
    ],
)
def test_work_without_a_cost_is_an_error(cost: Cost, message: str) -> None:
    """Never zero seconds: computing that is free makes a run pure communication."""
    with pytest.raises(RunError, match=message):
        seconds(TIER, cost)
    with pytest.raises(RunError, match=message):
        nanoseconds(TIER, cost)


def test_a_price_is_never_less_than_one_nanosecond() -> None:
    """One MAC on 3 TMAC/s takes a third of a picosecond: one tick of the clock."""
    assert nanoseconds(machine(load_profile("gpu-3t")), Cost((forward(1),))) == 1


def test_a_price_follows_from_profile_and_cost_alone() -> None:
    """Two profiles of one id have their own prices; equal costs have equal ones."""
    cost = Cost((forward(1000),))
    assert nanoseconds(tier(speed="1 kMAC/s"), cost) == 10**9
    assert nanoseconds(tier(speed="2 kMAC/s"), cost) == 5 * 10**8
    assert nanoseconds(tier(speed="1 kMAC/s"), Cost((forward(1000),))) == 10**9
    assert nanoseconds(tier(speed="1 kMAC/s"), Cost((forward(2000),))) == 2 * 10**9


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=8), st.integers(1, 10**6))
def test_prices_add_up_and_more_work_is_never_shorter(macs: list[int], extra: int) -> None:
    """The price of a sum is the sum of the prices; one more operator never saves time."""
    costs = [Cost((forward(m),)) for m in macs]
    whole = Cost(tuple(op for cost in costs for op in cost.operators))
    assert seconds(TIER, whole) == pytest.approx(sum(seconds(TIER, cost) for cost in costs))
    assert nanoseconds(TIER, whole + Cost((forward(extra),))) >= nanoseconds(TIER, whole)


@given(st.integers(0, 10**15))
def test_whole_nanoseconds_stay_whole(ns: int) -> None:
    """A duration that is whole but for floating-point noise is not pushed to the next nanosecond."""
    assert whole_nanoseconds(ns / 1e9) == ns


@given(st.floats(0, 1e6))
def test_durations_are_rounded_up(duration: float) -> None:
    """Up, and by at most one nanosecond (beyond a double's own precision)."""
    exact = duration * 1e9
    assert -2e-15 * exact <= whole_nanoseconds(duration) - exact <= 1


def test_noise_of_additions_is_not_rounded_up() -> None:
    """0.1 s + 0.2 s is 0.3 s."""
    assert whole_nanoseconds(0.1 + 0.2) == 300_000_000
    assert whole_nanoseconds(1.5e-9) == 2
