"""Machines: what a power mode and a clock make of a profile, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import UserError
from fedsim.hardware.machines import machine
from fedsim.hardware.pricing import seconds
from fedsim.hardware.profiles import CostModel, Profile, load_profile

CPU = {
    "cores": 4,
    "clock": "1.5 GHz",
    "peak": "24 GMAC/s",
    "gemm": "20 GMAC/s",
    "bandwidth": "7.5 GB/s",
    "overhead": "60 us",
}
GPU = {"cores": 128, "clock": "0.8 GHz", "gemm": "70 GMAC/s", "bandwidth": "19 GB/s", "overhead": "50 us"}
MODES: dict[str, dict[str, Any]] = {
    "full": {},
    "low": {"cpu.cores": 2, "cpu.clock": "0.75 GHz", "gpu.clock": "0.4 GHz"},
    "stated": {"gpu.clock": "0.4 GHz", "gpu.gemm": "60 GMAC/s", "gpu.bandwidth": "10 GB/s", "power.busy": "5 W"},
    "host": {"use": "cpu", "cpu.clock": "0.75 GHz"},
    "warm": {"power.idle": "3 W"},
    "ready": {"power.ready": "2 W", "gpu.clock": "0.4 GHz"},
    "thrifty": {"power.busy": "2.5 W"},
}


def board(**changes: Any) -> Profile:
    """A board with a CPU and a GPU, several modes, and 2, 3 and 10 W."""
    data: dict[str, Any] = {
        "schema": 1,
        "id": "board",
        "name": "A board",
        "kind": "jetson",
        "cost_model": "roofline",
        "processors": {"cpu": CPU, "gpu": GPU},
        "use": "gpu",
        "memory": {"capacity": "4 GB", "usable": "3 GB", "runtime": "250 MB"},
        "power": {"idle": "2 W", "busy": "10 W", "ready": "3 W"},
        "modes": MODES,
    }
    return Profile.model_validate(data | changes)


def watts(mode: str | None, clock: float | None = None) -> tuple[float, float, float]:
    """Idle, ready and busy watts of the board."""
    found = machine(board(), mode, clock)
    return found.idle_watts, found.ready_watts, found.busy_watts


def test_without_mode_and_clock_a_machine_is_its_profile() -> None:
    """Every figure to the last bit; an empty mode changes nothing but the name."""
    profile = board(lanes=3)
    for mode, name in ((None, "board"), ("full", "board@full")):
        found = machine(profile, mode)
        assert profile.processors is not None
        assert (found.id, found.processor) == (name, profile.processors.gpu)
        assert (found.idle_watts, found.ready_watts, found.busy_watts) == (2.0, 3.0, 10.0)
        assert (found.lanes, found.memory, found.cost_model) == (3, profile.memory, CostModel.ROOFLINE)
        assert (found.variation, found.thermal) == (profile.variation, None)


def test_speeds_follow_cores_and_clock_and_overhead_the_clock_inversely() -> None:
    """Half of the cores at half of the clock: a quarter of peak and gemm, twice the overhead, all of the bandwidth."""
    cpu = machine(board(use="cpu"), "low").processor
    assert cpu is not None
    assert (cpu.cores, cpu.clock, cpu.peak, cpu.gemm, cpu.bandwidth) == (2, 0.75e9, 6e9, 5e9, 7.5e9)
    assert cpu.overhead == pytest.approx(120e-6)


def test_overheads_by_class_follow_the_clock_inversely_too() -> None:
    """Half of the clock: twice as long; classes without one of their own stay so."""
    cpu = CPU | {"overheads": {"conv": "150 us"}}
    slow = machine(board(use="cpu", processors={"cpu": cpu, "gpu": GPU}), "low").processor
    assert slow is not None
    assert slow.overheads.conv == pytest.approx(300e-6)
    assert slow.overheads.linear is None


def test_what_a_mode_says_counts() -> None:
    """Stated gemm, bandwidth and watts are taken as they are; the rest follows the clock."""
    gpu = machine(board(), "stated").processor
    assert gpu is not None
    assert (gpu.clock, gpu.gemm, gpu.bandwidth, gpu.peak) == (0.4e9, 60e9, 10e9, None)
    assert gpu.overhead == pytest.approx(100e-6)
    assert watts("stated") == (2.0, 2.25, 5.0)


def test_power_above_idle_follows_the_square_of_the_clock() -> None:
    """At half of its clock the GPU draws a quarter: 2 + 8/4 W at work, 2 + 1/4 W between two works."""
    assert watts("low") == (2.0, 2.25, 4.0)
    assert watts("ready") == (2.0, 2.0, 4.0)
    assert watts(None, 0.4e9) == (2.0, 2.25, 4.0)


def test_power_above_idle_stays_on_another_idle() -> None:
    """A mode that draws 1 W more when idle draws 1 W more at work, unless it says otherwise."""
    assert watts("warm") == (3.0, 4.0, 11.0)


def test_a_machine_draws_no_more_between_two_works_than_at_work() -> None:
    """A mode with 2.5 W at work has 2.5 W between, not the 3 W of the profile."""
    assert watts("thrifty") == (2.0, 2.5, 2.5)


def test_a_mode_may_choose_the_processor() -> None:
    """On the CPU at half of its clock; the GPU's clock does not matter."""
    found = machine(board(), "host")
    assert found.processor is not None
    assert found.processor.gemm == 10e9
    assert watts("host") == (2.0, 2.25, 4.0)


def test_a_clock_is_that_of_the_processor_in_use_and_comes_on_top_of_the_mode() -> None:
    """The mode's 60 GMAC/s are at 0.4 GHz, so 0.2 GHz give 30; its 5 W become 2 + 3/4 W."""
    found = machine(board(), "stated", 0.2e9)
    assert found.id == "board@stated@0.2GHz"
    assert found.processor is not None
    assert (found.processor.clock, found.processor.gemm, found.processor.bandwidth) == (0.2e9, 30e9, 10e9)
    assert watts("stated", 0.2e9) == (2.0, 2.0625, 2.75)
    alone = machine(board(use="cpu"), clock=3e9)
    assert alone.processor is not None
    assert (alone.id, alone.processor.gemm, alone.processor.overhead) == ("board@3GHz", 40e9, 30e-6)


@pytest.mark.parametrize(
    ("changes", "mode", "clock", "message"),
    [
        (
            {},
            "lwo",
            None,
            r"^unknown power mode of board 'lwo'; did you mean low\? there are: full, .*; or leave power_mode",
        ),
        ({"modes": {}}, "low", None, r"^unknown power mode of board 'low'; there are none; or leave power_mode out$"),
        ({}, None, 0.0, r"^clock 0.0 Hz for board; a clock is greater than zero, like 1.2 GHz$"),
        (
            {"processors": {"cpu": {k: v for k, v in CPU.items() if k != "clock"}}, "use": "cpu", "modes": {}},
            None,
            1e9,
            r"^clock 1000000000 Hz for board, but the profile does not say the clock of its cpu, so there is nothing "
            r"to compare it with; add processors.cpu.clock to the profile, or remove clock$",
        ),
    ],
)
def test_a_mode_or_clock_that_means_nothing_is_refused(
    changes: dict[str, Any], mode: str | None, clock: float | None, message: str
) -> None:
    """What, the value, what there is, the way out."""
    with pytest.raises(UserError, match=message):
        machine(board(**changes), mode, clock)


def test_a_profile_without_processors_has_no_clock() -> None:
    """One speed for everything cannot be scaled by what is not known."""
    with pytest.raises(
        UserError, match=r"^power_mode is given for pi-tier-1, whose cost model \(scalar\) has no clock"
    ):
        machine(load_profile("pi-tier-1"), "low")
    message = r"^clock is given for pi-tier-1, .*; remove clock, or take a profile with cost model roofline$"
    with pytest.raises(UserError, match=message):
        machine(load_profile("pi-tier-1"), clock=1e9)


def test_a_machine_says_its_speed_in_a_few_words() -> None:
    """Rates, one speed, the models of a table, or a time a sample."""
    common = {key: value for key, value in board().model_dump(mode="json", by_alias=True).items() if key in COMMON}
    units = {"a": {"forward": ["1 ms"]}}
    table = common | {"cost_model": "table", "times": {name: {"batches": [8], "units": units} for name in ("m", "n")}}
    sample = common | {"cost_model": "fedscale_scalar", "sample_time": "5 ms"}
    assert machine(board(), "low").summary == "gemm 35 GMAC/s, 19 GB/s"
    assert machine(load_profile("pi-tier-1")).summary == "2.2 GMAC/s"
    assert machine(Profile.model_validate(table)).summary == "measured times of m, n"
    assert machine(Profile.model_validate(sample)).summary == "5 ms a sample"


COMMON = ("schema", "id", "name", "kind", "memory", "power")


def test_watts_of_a_machine_without_modes_are_those_of_the_file() -> None:
    """To the last bit: 2.7 + (6.4 - 2.7) would be another number."""
    profile = load_profile("pi-tier-1")
    found = machine(profile)
    assert (found.idle_watts, found.ready_watts, found.busy_watts) == (2.7, 2.7, 6.4)
    assert found.processor is None


def test_machines_are_compared_by_identity() -> None:
    """Two of one profile are two keys: their prices are their own."""
    profile = board()
    assert len({machine(profile), machine(profile)}) == 2


POWER_SOURCES = [
    {"field": "power.idle", "confidence": "measured", "ref": "a meter"},
    {"field": "power.busy", "confidence": "specification", "ref": "a data sheet"},
    {"field": "modes.stated", "confidence": "derived", "ref": "a data sheet"},
]


@pytest.mark.parametrize(
    ("mode", "clock", "origins"),
    [
        (None, None, [("power.idle", "measured"), ("power.busy", "specification"), ("power.idle", "measured")]),
        (
            "low",
            None,
            [("power.idle", "measured"), ("power.busy, scaled", "unverified"), ("power.idle", "measured")],
        ),
        (
            "stated",
            None,
            [("power.idle", "measured"), ("modes.stated.power.busy", "derived"), ("power.idle", "measured")],
        ),
        (
            "stated",
            1e8,
            [
                ("power.idle", "measured"),
                ("modes.stated.power.busy, scaled", "unverified"),
                ("power.idle", "measured"),
            ],
        ),
        (
            "warm",
            None,
            [
                ("modes.warm.power.idle", "unverified"),
                ("power.busy, scaled", "unverified"),
                ("power.idle, scaled", "unverified"),
            ],
        ),
    ],
)
def test_watts_know_where_they_come_from(mode: str | None, clock: float | None, origins: list[tuple[str, str]]) -> None:
    """Idle, busy and ready: a mode's own figure, the profile's, or one that was computed from it and is unverified."""
    profile = board(power={"idle": "2 W", "busy": "10 W"}, sources=POWER_SOURCES)
    assert machine(profile, mode, clock).power_origins == origins


@given(st.floats(1e8, 1e10), st.floats(1e8, 1e10))
def test_a_higher_clock_is_never_slower_and_never_thriftier(one: float, other: float) -> None:
    """In gemm, overhead, price and watts."""
    slow, fast = (machine(board(), clock=clock) for clock in sorted((one, other)))
    cost = Cost((Operator(OpClass.CONV, Phase.FORWARD, 10**9, 10**6),))
    assert seconds(fast, cost) <= seconds(slow, cost)
    assert fast.busy_watts >= slow.busy_watts >= slow.ready_watts >= slow.idle_watts


def test_the_watts_of_a_mode_are_held_against_the_processor_that_it_uses() -> None:
    """With the GPU at half its clock busy is 4 W, so ready cannot be 5; for one that stays on the CPU it can."""
    mode = {"gpu.clock": "0.4 GHz", "power.ready": "5 W"}
    with pytest.raises(ValueError, match=r"5 W, outside idle to busy, 2 to 4 W"):
        board(use="cpu", modes={"mode": mode | {"use": "gpu"}})
    assert machine(board(use="cpu", modes={"mode": mode}), "mode").ready_watts == 5.0
