"""Whether a host can carry a run, and how slow it has to go: by the spec's formula, with sentences that help."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.emulation.dilation import BUSY, STEPS, Need, Timed, chosen, host_need, network_need, pace_need, projected
from fedsim.errors import UserError
from fedsim.script import SERVER


def fleet(*ratios: float, threads: int = 1) -> list[Timed]:
    """Devices whose step takes so many seconds on the host for each of its own."""
    return [Timed(node, f"p{node}", "step, 32 samples", ratio, 1.0, threads) for node, ratio in enumerate(ratios)]


def test_the_load_of_a_host() -> None:
    """Σ threads · t_host / t_target over 0.8 of its cores."""
    assert host_need(fleet(0.1, 0.2, 0.5), 2).dilation == pytest.approx(0.8 / 1.6)
    assert host_need(fleet(0.1, 0.2, 0.5, threads=2), 2).dilation == pytest.approx(1.6 / 1.6)
    assert host_need([], 4) == Need(
        0.0, "in real time the nodes would keep 0 cores of this host busy, and at most 3.2 (80% of 4) may be; "
        "most of it: nothing",
    )  # fmt: skip


def test_works_of_a_node_follow_each_other() -> None:
    """Their times are added up, as often as they are done."""
    works = [
        Timed(0, "pi", "forward", host=0.010, target=0.040, count=9),
        Timed(0, "pi", "backward", host=0.020, target=0.040, count=1),
    ]
    assert host_need(works, 1).dilation == pytest.approx((0.11 / 0.40) / 0.8)


def test_the_worst_profiles_are_named() -> None:
    """By what their nodes take together, three at most; the server is one of the nodes."""
    works = [Timed(node, "pi5", "step", 0.3, 1.0) for node in range(3)]
    works += [Timed(7, "xavier", "step", 0.8, 1.0), Timed(SERVER, "workstation", "step", 2.0, 1.0)]
    works += [Timed(8, "pi3", "step", 0.01, 1.0)]
    assert host_need(works, 2).reason == (
        "in real time the nodes would keep 3.71 cores of this host busy, and at most 1.6 (80% of 2) may be; "
        "most of it: workstation 2 (1 node), pi5 0.9 (3 nodes), xavier 0.8 (1 node)"
    )
    assert "keep 3.71 lanes of this host busy" in host_need(works, 2, what="lanes").reason


def test_a_work_cannot_be_faster_than_its_host() -> None:
    """However many cores there are: the slowest node decides, by its works together or by one long work."""
    works = [
        Timed(0, "pi", "step", host=0.02, target=0.10),
        Timed(1, "orin", "forward", host=0.03, target=0.10, count=99),
        Timed(1, "orin", "mix", host=0.03, target=0.01),
    ]
    need = pace_need(works)
    assert need.dilation == pytest.approx(3.0)
    assert need.reason == (
        "mix takes 30 ms on this host and 10 ms on orin, and a host cannot be slower than what it stands for"
    )
    assert pace_need([]).dilation == 0


def test_short_works_may_be_slower() -> None:
    """What takes a few milliseconds too long is made up for; all works of the node together count."""
    works = [
        Timed(0, "pi", "step", host=0.02, target=0.10, count=10),
        Timed(0, "pi", "load", host=0.004, target=0.0001),
    ]
    need = pace_need(works)
    assert need.dilation == pytest.approx(0.204 / 1.0001 / BUSY)
    assert need.reason.startswith("step takes 20 ms on this host and 100 ms on pi")


def test_links_take_two_fifths_of_loopback() -> None:
    """25 MB/s each, on a host that passes on 100 MB/s to itself."""
    need = network_need([25e6] * 4, 100e6)
    assert need.dilation == pytest.approx(2.5)
    assert need.reason == (
        "the links carry 100 MB/s together, and at most 40 MB/s (40% of what this host passes on to itself) "
        "can be kept to"
    )


def test_what_is_asked_for_is_taken_if_it_suffices() -> None:
    """To the last digit."""
    assert chosen(1, [Need(1.0, ""), Need(0.3, "")]) == 1.0
    assert chosen(3.5, [Need(3.5, "")]) == 3.5
    assert chosen(1, []) == 1.0


@pytest.mark.parametrize(("least", "step"), [(0.0, 1), (1.0, 1), (1.01, 2), (4.9, 5), (5.1, 10), (999.0, 1000)])
def test_auto_takes_the_smallest_step_that_fits(least: float, step: float) -> None:
    """Of 1, 2, 5 times powers of ten up to 1,000."""
    assert chosen("auto", [Need(least, ""), Need(0.1, "")]) == step


def test_a_run_that_does_not_fit_is_refused() -> None:
    """With every reason, the worst first, and the smallest dilation that would do, rounded up."""
    needs = [Need(2.0, "it fits"), Need(3.01, "the host is busy"), Need(7.34, "the links are full")]
    with pytest.raises(UserError) as error:
        chosen(2, needs)
    assert str(error.value) == (
        "this host cannot carry the run at emulation.dilation: 2: the links are full; the host is busy; the smallest "
        "dilation that would do is 7.4: set it, or dilation: auto, take fewer devices or slower profiles, or set "
        "mode: simulate"
    )


def test_a_run_that_auto_cannot_fit_is_refused() -> None:
    """It ends at 1,000."""
    with pytest.raises(UserError) as error:
        chosen("auto", [Need(1234.0, "the host is busy")])
    assert str(error.value) == (
        "this host cannot carry the run even at emulation.dilation: 1,000, where auto ends: the host is busy; take "
        "fewer devices, slower profiles, a smaller model, more hosts, dilation: 1300, or mode: simulate"
    )


def test_a_run_that_takes_too_long_is_refused() -> None:
    """With both numbers; the limit itself is allowed."""
    assert projected(90.0, 20.0, 1800.0) == 1800.0
    with pytest.raises(UserError) as error:
        projected(100.0, 20.0, 1800.0)
    assert str(error.value) == (
        "the run is expected to last 100 s or more, which at a dilation of 20 is 33.3 min on the wall clock, above "
        "emulation.limit (30 min); set the limit to 34 min or more, end the run earlier (until), or set "
        "mode: simulate"
    )


@given(
    st.lists(st.tuples(st.floats(1e-4, 10), st.floats(1e-4, 10), st.integers(1, 4)), min_size=1, max_size=8),
    st.integers(1, 64),
)
def test_what_is_said_to_do_does(works: list[tuple[float, float, int]], cores: int) -> None:
    """The dilation that an error names is accepted, and `auto` accepts no smaller step than it takes."""
    timed = [Timed(node, "p", "step", host, target, threads) for node, (host, target, threads) in enumerate(works)]
    needs = [host_need(timed, cores), pace_need(timed)]
    try:
        chosen(0.001, needs)
    except UserError as error:
        found = re.search(r"the smallest dilation that would do is ([^ ]+):", str(error))
        assert found is not None
        assert chosen(float(found[1]), needs) == float(found[1])
    least = max(need.dilation for need in needs)
    if least <= STEPS[-1]:
        taken = chosen("auto", needs)
        assert least <= taken
        assert all(step < least for step in STEPS if step < taken)
