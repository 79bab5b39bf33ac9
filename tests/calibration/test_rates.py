"""Plain rates by a fake clock: what is divided by what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedsim.calibration import rates
from fedsim.calibration.targets import Target, target
from fedsim.calibration.timing import Patience


class Ticks:
    """A clock on which every reading comes a second after the one before."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices and copies of a size for tests."""
    monkeypatch.setattr(rates, "SIDES", (2, 4))
    monkeypatch.setattr(rates, "COPIED", 4000)
    monkeypatch.setattr(rates, "CHAINS", (2, 4))


@pytest.mark.usefixtures("small")
def test_rates_are_work_over_time() -> None:
    """In a second: 8 and 64 MACs; 4,000 bytes read and as many written. Chains that take equally long cost nothing."""
    found = rates.measure_rates(target("cpu"), Patience(most=3), Ticks())
    assert found.products == {2: 8.0, 4: 64.0}
    assert found.gemm == 64.0
    assert (found.copy, found.overhead) == (8000.0, 0.0)


@pytest.mark.usefixtures("small")
def test_the_overhead_is_the_slope_of_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of 2 and 4 operators of half a second each, whatever else they take."""
    clock = Ticks()

    def chain(_x: torch.Tensor, length: int) -> None:
        clock.now += 0.5 * length

    monkeypatch.setattr(rates, "_chain", chain)
    assert rates.measure_rates(target("cpu"), Patience(most=3), clock).overhead == pytest.approx(0.5)


@pytest.mark.usefixtures("small")
def test_the_processor_is_waited_for_before_the_clock_is_read() -> None:
    """Else a GPU would seem to compute in no time: every lap waits between its two readings."""
    log: list[str] = []
    clock = Ticks()

    def read() -> float:
        log.append("read")
        return clock()

    waits: Callable[[], None] = lambda: log.append("wait")  # noqa: E731
    rates.measure_rates(Target("gpu", torch.device("cpu"), waits), Patience(most=3), read)
    text = " ".join(log)
    assert text.count("wait") == 5 * 4, "five measurements of a first lap and three repeats"
    assert "read wait read" in text


def test_warming_up_takes_its_time() -> None:
    """Until the seconds are over by the clock."""
    clock = Ticks()
    rates.warm_up(target("cpu"), clock, seconds=3.0)
    assert clock.now == pytest.approx(4.0)
