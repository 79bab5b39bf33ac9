"""The metric of a projection's weights, and how many of them stand out.

After the public Mosaic code: Wanda's metric (arXiv 2306.11695); the projection outlier distribution (POD); over a
block's seven projections together, the layer outlier distribution of OWL (arXiv 2310.05175).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import PROJECTIONS, READERS, Block, Projection

Norms = Mapping[Projection, Tensor]  # x
"""Mean squared norms of input features by `q`, `o`, `gate` and `down`, each standing for those with its inputs."""


def metric(weight: Tensor, norms: Tensor) -> Tensor:  # A
    """Magnitudes of weights times the root mean squared norms of their inputs, `rows columns`, in float32."""
    return weight.detach().float().abs() * norms.to(weight.device).float().sqrt()


def finite(values: Tensor, name: str) -> Tensor:
    """The metric of a projection, if all of it is finite.

    Raises:
        UserError: naming the projection.
    """
    odd = int((~values.isfinite()).sum())
    if odd:
        raise UserError(
            f"{name}: {odd} of {values.numel()} weights have a metric that is not finite; its weights or its inputs on "
            "the calibration windows are not: check the model in float32, and the windows"
        )
    return values


def share_of_outliers(values: list[Tensor], factor: float) -> float:  # R
    """Of all values together: the percentage above `factor` times their mean. Scaling the values changes nothing."""
    count = sum(part.numel() for part in values)
    mean = sum(float(part.sum(dtype=torch.float64)) for part in values) / count
    return 100 * sum(int((part > factor * mean).sum()) for part in values) / count


def distribution(
    block: Block, weights: Callable[[Projection], Tensor], norms: Norms, factor: float
) -> tuple[dict[Projection, float], float]:
    """Percentage of outliers of each projection of a block, and of all seven together.

    Raises:
        UserError: a metric is not finite.
    """
    each: dict[Projection, Tensor] = {}
    for projection in PROJECTIONS:
        values = metric(weights(projection), norms[READERS[projection]])
        each[projection] = finite(values, block.projections[projection])
    own = {projection: share_of_outliers([values], factor) for projection, values in each.items()}
    return own, share_of_outliers(list(each.values()), factor)
