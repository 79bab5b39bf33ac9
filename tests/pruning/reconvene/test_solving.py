"""The widest model on a path within limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.pruning.reconvene.solving import Limits, Mask, Path, solve
from fedsim.pruning.reconvene.tracing import Ints

UNITS = np.array([100, 100, 10])


def total(kept: Ints) -> float:
    """Size."""
    return float(kept.sum())


def limits(most: float, *, dear: bool = False) -> Limits:
    """Of the size alone."""
    return Limits(amounts={"size": total}, most={"size": most}, dear=dear)


def smooth(position: float, cut: Mask | None) -> tuple[Ints, Mask]:
    """The first two sets shrink alike."""
    del cut
    return np.maximum(1, np.ceil(UNITS * np.array([0.8**position, 0.8**position, 1.0]))).astype(int), np.array(
        [1, 1, 0], bool
    )


def jumping(position: float, cut: Mask | None) -> tuple[Ints, Mask]:
    """The second set joins the first at position 3, with what it would have lost by then."""
    chosen = np.array([position >= 0, position >= 3, False]) if cut is None else cut
    shares = np.where(chosen, 0.8**position, 1.0)
    return np.maximum(1, np.ceil(UNITS * shares)).astype(int), chosen


POSITIONS = [x / 2 for x in range(21)]


@given(st.integers(40, 210), st.booleans())
def test_a_smooth_path(most: int, dear: bool) -> None:
    """To the unit; where questions are dear, to what the path gives."""
    found = solve(smooth, limits(most, dear=dear), POSITIONS, UNITS, 1)
    assert found is not None
    assert not found.frozen
    assert total(found.kept) == most if not dear else most - 2 <= total(found.kept) <= most


@given(st.integers(120, 165))
def test_a_jump_is_filled_with_the_set_held(most: int) -> None:
    """Between 162 units, where the second set joins, and 114 after it, the first set goes on alone."""
    found = solve(jumping, limits(most), POSITIONS, UNITS, 1)
    assert found is not None
    assert total(found.kept) == most
    assert found.kept.tolist() == [most - 110, 100, 10]
    assert found.frozen == (most < 162)


def test_beyond_what_the_held_set_can_give() -> None:
    """The next sets are cut, and widened again as far as the limit allows."""

    def path(position: float, cut: Mask | None) -> tuple[Ints, Mask]:
        kept, chosen = jumping(position, cut)
        return np.maximum(kept, np.where(chosen, [50, 1, 1], kept)), chosen  # the first set keeps 50

    found = solve(path, limits(155), POSITIONS, UNITS, 1)
    assert found is not None
    assert not found.frozen
    assert total(found.kept) == 155
    assert found.cut.tolist() == [True, True, False]


def test_what_cannot_be_reached() -> None:
    """Not even far beyond the positions."""
    assert solve(smooth, limits(11), POSITIONS, UNITS, 1) is None
    found = solve(smooth, limits(12), POSITIONS[:4], UNITS, 1)
    assert found is not None
    assert found.kept.tolist() == [1, 1, 10]


def test_a_limit_that_holds_already() -> None:
    """Nothing is cut."""
    found = solve(smooth, limits(210), POSITIONS, UNITS, 1)
    assert found is not None
    assert found.kept.tolist() == UNITS.tolist()
    assert found.position == 0


@pytest.mark.parametrize("step", [1, 8])
def test_widths_are_refined_by_steps(step: int) -> None:
    """No width leaves its multiples, unless it is the parent's."""

    def path(position: float, cut: Mask | None) -> tuple[Ints, Mask]:
        kept, chosen = smooth(position, cut)
        return np.where(kept < UNITS, -(-kept // step) * step, kept), chosen

    found = solve(path, limits(117), POSITIONS, UNITS, step)
    assert found is not None
    assert 117 - step < total(found.kept) <= 117
    assert all(kept % step == 0 or kept == of for kept, of in zip(found.kept, UNITS, strict=True))


def test_dear_questions_are_few() -> None:
    """A bisection asks, not a search along the path."""
    asked = []

    def size(kept: Ints) -> float:
        asked.append(kept)
        return total(kept)

    path: Path = smooth
    assert solve(path, Limits(amounts={"size": size}, most={"size": 99}, dear=True), POSITIONS, UNITS, 1) is not None
    assert len(asked) <= 16


def test_all_limits_hold() -> None:
    """The narrower one decides."""
    both = Limits(amounts={"size": total, "first": lambda kept: float(kept[0])}, most={"size": 150, "first": 20})
    found = solve(smooth, both, POSITIONS, UNITS, 1)
    assert found is not None
    assert found.kept[0] == 20
    assert total(found.kept) <= 150
