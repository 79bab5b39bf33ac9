"""Errors of prices, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.calibration.accuracy import accuracy, errors


def test_errors_are_shares_of_the_measured_time() -> None:
    """A price of 3 s for 2 s is half too high, one of 1 s half too low."""
    assert errors([2.0, 2.0, 4.0], np.array([3.0, 1.0, 4.0])).tolist() == [0.5, -0.5, 0.0]


def test_the_figures_of_three_prices() -> None:
    """Mean absolute error 20 %, bias 0, worst 30 %; the two shortest have changed places: rho = 1 - 6 x 2 / (3 x 8)."""
    found = accuracy([1.0, 1.1, 4.0], np.array([1.3, 0.77, 4.0]))
    assert (found.mape, found.bias, found.worst) == pytest.approx((0.2, 0.0, 0.3))
    assert found.rho == pytest.approx(0.5)


def test_equal_times_share_their_rank() -> None:
    """Measured 1, 1, 2 against priced 1, 2, 3: ranks 1.5, 1.5, 3 and 1, 2, 3 correlate by sqrt(3) / 2."""
    assert accuracy([1.0, 1.0, 2.0], np.array([1.0, 2.0, 3.0])).rho == pytest.approx(3**0.5 / 2)


def test_one_price_has_no_ranking_to_be_wrong_about() -> None:
    """Rho of a single observation is 1."""
    assert accuracy([2.0], np.array([1.0])).rho == 1.0
