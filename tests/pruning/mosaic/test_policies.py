"""Allocation policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fedsim.errors import UserError
from fedsim.pruning.mosaic.policies import (
    Profile,
    allocated,
    exact,
    layer,
    policy,
    projection,
    projection_own,
    projection_released,
    spread,
    uniform,
)

OUTLIERS = np.array([[1.0, 4.0], [3.0, 5.0], [5.0, 6.0]])
ALL = np.array([2.0, 4.0, 3.0])
ELEMENTS = np.array([[10, 30], [10, 30], [10, 30]])
PROFILE = Profile(outliers=OUTLIERS, all_outliers=ALL, elements=ELEMENTS, strength=0.08, most=0.95)


def mean(shares: Any, elements: Any = ELEMENTS) -> float:
    """The share of all weights."""
    return float((shares * elements).sum() / elements.sum())


def profiles() -> st.SearchStrategy[Profile]:
    """Profiles of one to six blocks and seven projections of any sizes."""

    def made(blocks: int) -> st.SearchStrategy[Profile]:
        percent = st.floats(0, 100)
        return st.builds(
            Profile,
            outliers=npst.arrays(np.float64, (blocks, 7), elements=percent),
            all_outliers=npst.arrays(np.float64, (blocks,), elements=percent),
            elements=npst.arrays(np.int64, (blocks, 7), elements=st.integers(1, 10**8)),
            strength=st.floats(0, 0.49),
            most=st.floats(0.5, 0.99),
        )

    return st.integers(1, 6).flatmap(made)


@pytest.mark.slow
@given(
    npst.arrays(np.float64, (4, 7), elements=st.floats(-10, 10)),
    npst.arrays(np.int64, (4, 7), elements=st.integers(1, 10**9)),
    st.floats(0, 1),
    st.floats(0.01, 0.99),
)
def test_budgets_are_exact_for_any_profile(shares: Any, elements: Any, part: float, most: float) -> None:
    """The weighted mean is the target to 1e-9, within the limits, in the profile's order."""
    target = part * most
    made = exact(shares, elements, target, most)
    assert abs(mean(made, elements) - target) < 1e-9
    assert made.min() >= 0
    assert made.max() <= most
    order = shares.argsort(axis=None)
    assert (np.diff(made.reshape(-1)[order]) >= -1e-9).all()


@given(st.floats(0.0, 0.5))
def test_nothing_falls_below_its_least(target: float) -> None:
    """Zeros that are there already stay, and others make up for them."""
    least = np.array([[0.4, 0.0], [0.0, 0.1]])
    elements = np.array([[1, 2], [3, 4]])
    lowest = mean(least, elements)
    made = exact(np.zeros((2, 2)), elements, max(target, lowest), 0.9, least)
    assert (made >= least).all()
    assert abs(mean(made, elements) - max(target, lowest)) < 1e-9


def test_a_budget_above_the_limit_is_refused() -> None:
    """What any projection may lose bounds what all lose."""
    with pytest.raises(UserError, match=r"sparsity 0.97 is above most 0.95, what any projection may lose; raise most"):
        exact(np.zeros((1, 2)), np.ones((1, 2), np.int64), 0.97, 0.95)


@pytest.mark.slow
@given(profiles(), st.sampled_from([uniform, layer, projection, projection_own]), st.floats(0.01, 0.5))
def test_policies_keep_to_the_budget(profile: Profile, chosen: Any, sparsity: float) -> None:
    """All but the released one, whatever the outliers; also where all blocks are alike."""
    shares = allocated(chosen, profile, sparsity)
    assert abs(mean(shares, profile.elements) - sparsity) < 1e-9


def test_spans_by_hand() -> None:
    """From 0 for the fewest outliers to twice the strength for the most; nothing where all are alike."""
    assert spread(ALL, 0.08) == pytest.approx([0.0, 0.16, 0.08])
    assert (spread(np.full((3, 2), 4.0), 0.08) == 0).all()


def test_layer_by_hand() -> None:
    """One share a block: target minus its span plus the mean span."""
    expected = np.array([0.58, 0.42, 0.50])
    assert layer(PROFILE, 0.5) == pytest.approx(np.repeat(expected[:, None], 2, 1))


def test_the_released_policy_by_hand() -> None:
    """The block's span over depth; the projections' own outliers only by their mean; a floor and no ceiling."""
    expected = 0.5 - np.array([[0.0], [0.16], [0.08]]) + np.array([[0.08, 0.08]])
    assert projection_released(PROFILE, 0.5) == pytest.approx(expected)
    assert projection_released(PROFILE, 0.05).min() == 0.01
    assert projection_released(PROFILE, 0.99).max() > 1


def test_the_released_budget_drifts_and_the_default_does_not() -> None:
    """By the mean of the projections' spans less that of the blocks'; the default moves the same profile back."""
    skewed = Profile(
        outliers=np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]),
        all_outliers=np.array([0.0, 0.0, 1.0]),
        elements=ELEMENTS,
        strength=0.08,
        most=0.95,
    )
    released, moved = projection_released(skewed, 0.5), projection(skewed, 0.5)
    assert mean(released) == pytest.approx(0.5 + 0.16 * (2 / 3 - 1 / 3))
    assert mean(moved) == pytest.approx(0.5, abs=1e-12)
    assert (released - moved) == pytest.approx(np.full((3, 2), 0.16 / 3))


def test_own_outliers_by_hand() -> None:
    """Each projection keeps its own mean over blocks."""
    made = projection_own(PROFILE, 0.5)
    assert made == pytest.approx(np.array([[0.58, 0.58], [0.5, 0.5], [0.42, 0.42]]))


class Half:
    """A policy of somebody's own."""

    def __call__(self, profile: Profile, sparsity: float) -> Any:
        return np.full(profile.outliers.shape, sparsity / 2)


class Wrong:
    """One that gives a number too few."""

    def __call__(self, profile: Profile, sparsity: float) -> Any:
        return np.full(len(profile.outliers), sparsity)


def test_policies_of_ones_own() -> None:
    """By name, and checked."""
    named = f"{__name__}:Half"
    assert (allocated(policy(named), PROFILE, 0.5) == 0.25).all()
    with pytest.raises(UserError, match=r"policy Wrong gives shape \(3,\), from 0.5 to 0.5; a policy gives shares"):
        allocated(Wrong(), PROFILE, 0.5)
    with pytest.raises(UserError, match="not all of it finite"):
        allocated(lambda profile, _: profile.outliers * np.nan, PROFILE, 0.5)
