"""What Reconvene can be told."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.pruning.reconvene.options import Budget, Reconvene, limit


@pytest.mark.parametrize(
    ("name", "value", "parent", "most"),
    [
        ("params", 0.25, 1000, 250),
        ("params", 1, 1000, 1000),
        ("params", "0.25", 1000, 250),
        ("params", "6.17 %", 1000, 61.7),
        ("params", 300, 1000, 300),
        ("params", "900 k", 1e9, 9e5),
        ("macs", "60 MMAC", 1e9, 6e7),
        ("memory", "256 MiB", 1e9, 2**28),
        ("latency", "20 ms", 1, 0.02),
        ("latency", 0.5, 3, 1.5),
    ],
)
def test_budgets(name: str, value: float | str, parent: float, most: float) -> None:
    """Shares up to 1 and percentages, else amounts with their units."""
    assert limit(name, value, parent) == pytest.approx(most, rel=1e-12)
    assert Budget(**{name: value}).given == {name: value}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"params": 0}, "^params: 0 must be above 0"),
        ({"params": "120 %"}, "^params: 120 % is more than the whole model; write at most 100 %"),
        ({"params": "3 MB"}, "^params: '3 MB' has the unit 'MB', but a number of parameters is given in"),
        ({"latency": "20"}, None),
        ({"latency": "fast"}, "^latency: 'fast' is not a duration; write it like 30 s"),
        ({"memory": "-1 MiB"}, "^memory: -1 MiB must be above 0"),
    ],
)
def test_bad_budgets(keywords: dict[str, Any], message: str | None) -> None:
    """Refused with what would be right."""
    if message is None:
        Budget(**keywords)
        return
    with pytest.raises(ValueError, match=message):
        Budget(**keywords)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"iterations": 0}, "^iterations 0 must be 1 or more"),
        ({"lowest_density": 1.0}, "^lowest_density 1.0 must be above 0 and below 1"),
        ({"tau": "median"}, "^tau median must be mean, global, a quantile"),
        ({"tau": "quantile:2"}, "^tau quantile:2 must be"),
        ({"tau": 0.0}, "^tau 0.0 must be"),
        ({"gamma": 0.0}, "^gamma 0.0 must be above 0"),
        ({"min_channels": 0}, "^min_channels 0 must be 1 or more"),
        ({"round_to": 0}, "^round_to 0 must be 1 or more"),
        ({"density": 0.0}, "^density 0.0 must be above 0"),
        ({"density": 0.1, "budget": Budget(params=0.1, macs=0.2)}, "^density and budget.params and budget.macs would"),
        ({"score": "sinflow"}, "^score sinflow is not one of random, magnitude, snip, grasp, synflow"),
    ],
)
def test_bad_options(keywords: dict[str, Any], message: str) -> None:
    """Refused with what would be right."""
    with pytest.raises(ValueError, match=message):
        Reconvene(**keywords)


@pytest.mark.parametrize("tau", ["mean", "global", "quantile:0.5", 0.3, 1])
def test_ways_to_say_tau(tau: Any) -> None:
    """All are taken."""
    assert Reconvene(tau=tau).tau == tau
