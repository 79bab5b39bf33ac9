"""Time to accuracy, and its spread over alphas, by hand."""

from __future__ import annotations

import math

import pytest

from fedsim.errors import UserError
from fedsim.report import measure, spread, time_to
from tests.report.hand_made_traces import Tape


def test_the_first_evaluation_at_or_above_the_target_counts() -> None:
    """It falls below again later; between evaluations nothing is interpolated; never is infinite."""
    tape = Tape(1, 10**11)
    for seconds, accuracy in ((10, 0.25), (20, 0.75), (30, 0.5), (40, math.nan), (50, 0.75)):
        tape.evaluate(seconds * 10**9, accuracy, 1.0, 5)
    measures = measure(tape.trace)
    assert [time_to(measures, target) for target in (0.0, 0.25, 0.3, 0.75, 0.76)] == [10, 10, 20, 20, math.inf]
    assert time_to(measure(Tape(1, 10).trace), 0.0) == math.inf, "nothing was ever evaluated"


def test_the_spread_is_the_deviation_of_the_means_over_seeds() -> None:
    """Means 0.4, 0.6 and 0.8: √(0.08/3). Seeds that differ cancel out within their alpha."""
    finals = {0.1: [0.3, 0.4, 0.5], 0.3: [0.6, 0.6, 0.6], 1.0: [0.9, 0.8, 0.7]}
    assert spread(finals) == pytest.approx(math.sqrt(0.08 / 3))
    assert spread({0.1: [0.5], 1.0: [0.5, 0.5]}) == 0


def test_a_spread_of_nothing_is_refused() -> None:
    """One alpha spreads over nothing; a missing or infinite accuracy is no number to average."""
    with pytest.raises(UserError, match=r"a spread over 1 alphas; it takes at least two, such as 0\.1 and 1\.0"):
        spread({0.1: [0.5, 0.6, 0.7]})
    for bad, said in (([], r"\[\]"), ([0.5, math.nan], r"\[0.5, nan\]")):
        with pytest.raises(UserError, match=rf"alpha 0.3 has the final accuracies {said}; give one finite number"):
            spread({0.1: [0.5], 0.3: bad})
