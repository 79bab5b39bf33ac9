"""How soon and how evenly a system gets good: time to a target accuracy, and the spread over ways to deal the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from fedsim.errors import UserError
from fedsim.report.measures import Measures


def time_to(measures: Measures, target: float) -> float:
    """Seconds to the first evaluation with an accuracy of at least `target`; infinite where there is none.

    Evaluations are ticks; nothing is interpolated between them. Give `evaluate.every` where systems are compared, so
    that all are looked at equally often.
    """
    return next((point.time for point in measures.curve if point.accuracy >= target), math.inf)


def spread(finals: Mapping[float, Sequence[float]]) -> float:
    """How much a system depends on how unlike its devices' data are: the spread of its accuracy over alphas.

    Of every alpha, the final accuracies of its seeds (three or more are needed to say much) are averaged; the spread is
    the standard deviation of these means, dividing by their number: the alphas are all that is looked at, no sample.

    Args:
        finals: final accuracies by alpha, one a seed.

    Raises:
        UserError: there are fewer than two alphas, or one has no finite accuracy or an infinite one.
    """
    if len(finals) < 2:
        raise UserError(f"a spread over {len(finals)} alphas; it takes at least two, such as 0.1 and 1.0")
    for alpha, accuracies in finals.items():
        if not accuracies or not all(map(math.isfinite, accuracies)):
            raise UserError(
                f"alpha {alpha:g} has the final accuracies {list(accuracies)}; give one finite number for each seed, "
                "and at least one"
            )
    return pstdev(map(fmean, finals.values()))
