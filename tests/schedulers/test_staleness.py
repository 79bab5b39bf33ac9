"""Staleness functions by the table of their paper, and mixing weights that no update changes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from fedsim.schedulers.staleness import Staleness, check_mixing, factor, mixing


@pytest.mark.parametrize(
    ("staleness", "options", "expected"),
    [
        ("constant", {}, {0: 1, 1: 1, 7: 1, 1000: 1}),
        ("polynomial", {}, {0: 1, 1: 2**-0.5, 3: 1 / 2, 8: 1 / 3, 99: 1 / 10}),
        ("polynomial", {"a": 1.0}, {0: 1, 1: 1 / 2, 3: 1 / 4}),
        ("hinge", {}, {0: 1, 1: 1, 4: 1, 5: 1 / 11, 6: 1 / 21, 14: 1 / 101}),
        ("hinge", {"a": 0.5, "b": 2}, {0: 1, 2: 1, 3: 1 / 1.5, 6: 1 / 3}),
        ("hinge", {"b": 0}, {0: 1, 1: 1 / 11}),
    ],
    ids=str,
)
def test_the_table_of_staleness(staleness: Staleness, options: dict[str, Any], expected: dict[int, float]) -> None:
    """s(τ) = 1; (τ+1)^−a with a = 0.5; 1 up to b, then 1/(a(τ−b)+1) with (a, b) = (10, 4)."""
    found = {tau: factor(staleness, tau, **options) for tau in expected}
    assert found == pytest.approx(expected, rel=1e-12)
    assert {tau: mixing(0.6, staleness, tau, **options) for tau in expected} == pytest.approx(
        {tau: 0.6 * s for tau, s in expected.items()}, rel=1e-12
    )


@pytest.mark.parametrize("staleness", ["polynomial", "constant", "hinge"])
def test_fresh_models_weigh_alpha_and_older_ones_never_more(staleness: Staleness) -> None:
    """s(0) = 1 exactly, and s falls, or stays, but never reaches 0."""
    table = [mixing(0.6, staleness, tau) for tau in range(200)]
    assert table[0] == 0.6
    assert all(0 < later <= earlier for earlier, later in pairwise(table))


def test_a_staleness_below_zero_is_a_mistake() -> None:
    """No device can have a version that does not exist yet."""
    with pytest.raises(AssertionError, match="staleness -1"):
        factor("constant", -1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, "constant", None, 4), r"alpha 0.0 must be above 0 and at most 1"),
        ((1.1, "constant", None, 4), r"alpha 1.1 must be above 0 and at most 1"),
        ((float("nan"), "constant", None, 4), r"alpha nan must be above 0 and at most 1"),
        ((0.6, "polynomial", 0.0, 4), r"a 0.0 must be above 0"),
        ((0.6, "hinge", float("nan"), 4), r"a nan must be above 0"),
        ((0.6, "constant", 0.5, 4), r"a 0.5 is for staleness: polynomial or hinge; leave it out"),
        ((0.6, "hinge", None, -1), r"b -1 must be 0 or more"),
        ((0.6, "polynomial", None, 3), r"b 3 is for staleness: hinge; leave it out"),
    ],
    ids=str,
)
def test_weights_that_are_none_are_refused(arguments: Any, message: str) -> None:
    """Each with its rule."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_mixing(*arguments)


def test_weights_at_their_limits_are_taken() -> None:
    """alpha 1 is the last writer's; b 0 is late at once."""
    check_mixing(1.0, "hinge", 1e-3, 0)
