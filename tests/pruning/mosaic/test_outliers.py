"""The metric and its outliers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Block, Projection
from fedsim.pruning.mosaic.outliers import distribution, finite, metric, share_of_outliers

READ: tuple[Projection, ...] = ("q", "o", "gate", "down")
BLOCK = Block(
    name="b",
    attention="b.self_attn",
    projections={p: f"b.{p}_proj" for p in PROJECTIONS},
    heads=2,
    kv_heads=1,
    head_size=2,
    width=3,
    channels=5,
)


def test_the_metric_by_hand() -> None:
    """Magnitude times the root of the mean squared norm of the input."""
    made = metric(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([4.0, 9.0]))
    assert made.tolist() == [[2.0, 6.0], [0.0, 9.0]]


def test_outliers_by_hand() -> None:
    """Those above so many times the mean, in percent; over several matrices the mean is that of all."""
    values = torch.tensor([[1.0, 1.0], [1.0, 5.0]])  # mean 2
    assert share_of_outliers([values], 2.0) == 25.0
    assert share_of_outliers([values], 2.5) == 0.0
    assert share_of_outliers([values, torch.zeros(4)], 2.0) == 12.5
    assert share_of_outliers([values, torch.zeros(4)], 0.5) == 50.0


@given(st.integers(-20, 20), st.sampled_from([1.5, 3.0, 5.0]), st.integers(0, 9))
def test_scaling_changes_no_share(power: int, factor: float, seed: int) -> None:
    """A power of two scales exactly; any other scales by the same rule, up to rounding at the threshold."""
    values = torch.randn(17, 5, generator=torch.Generator().manual_seed(seed)).abs()
    share = share_of_outliers([values], factor)
    assert share_of_outliers([values * 2.0**power], factor) == share
    assert share_of_outliers([values * 0.37], factor) == share


def test_distributions_are_by_projection_and_together() -> None:
    """Each with the norms of its own inputs."""
    rng = torch.Generator().manual_seed(0)
    weights = {p: torch.randn(BLOCK.shape(p), generator=rng) for p in PROJECTIONS}
    norms = {p: torch.rand(BLOCK.shape(p)[1], generator=rng) for p in READ}
    own, together = distribution(BLOCK, lambda p: weights[p], norms, 1.5)
    inputs: dict[Projection, Projection] = {
        "q": "q",
        "k": "q",
        "v": "q",
        "o": "o",
        "gate": "gate",
        "up": "gate",
        "down": "down",
    }
    values = {p: metric(weights[p], norms[inputs[p]]) for p in PROJECTIONS}
    assert own == {p: share_of_outliers([values[p]], 1.5) for p in PROJECTIONS}
    assert together == share_of_outliers(list(values.values()), 1.5)
    assert 0 < together < 100


def test_a_metric_that_is_not_finite_names_its_projection() -> None:
    """NaN in a weight or an input is an error, never a rank."""
    weights = {p: torch.ones(BLOCK.shape(p)) for p in PROJECTIONS}
    weights["up"][0, 1] = torch.nan
    norms = {p: torch.ones(BLOCK.shape(p)[1]) for p in READ}
    with pytest.raises(UserError, match=r"b.up_proj: 1 of 15 weights have a metric that is not finite"):
        distribution(BLOCK, lambda p: weights[p], norms, 5.0)
    with pytest.raises(UserError, match="here: 1 of 2 weights"):
        finite(torch.tensor([1.0, torch.inf]), "here")
