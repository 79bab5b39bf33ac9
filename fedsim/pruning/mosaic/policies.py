"""Allocation: how much each projection loses, from the outliers of a ranking. The seam `Policy`, and five of them.

`layer` is OWL's (arXiv 2310.05175), `projection-released` that of the public Mosaic code; an exact budget behind the
others is ours. NumPy only: a target is a number, and models are not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.data.custom import resolve
from fedsim.errors import UserError

Shares = NDArray[np.float64]
"""By block and projection: the share of weights that is removed."""

_LEAST: Final = 0.01
"""The public code removes no less than this from any projection."""


_HALVINGS: Final = 100
"""Of an interval of length 10 or so: far below what a float64 can tell apart."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a policy goes by."""

    outliers: Shares  # R[n, p]
    """Percentage of outliers by block and projection."""
    all_outliers: NDArray[np.float64]  # R_all[n]
    """Percentage by block, over its seven projections."""
    elements: NDArray[np.int64]  # w
    """Weights by block and projection."""
    strength: float  # lambda
    most: float  # s_max


class Policy(Protocol):
    """How a share of all weights is spread over blocks and projections."""

    def __call__(self, profile: Profile, sparsity: float, /) -> Shares:
        """Targets between 0 and 1 by block and projection, whose weighted mean should be `sparsity`."""
        ...


def spread(outliers: NDArray[np.float64], strength: float) -> NDArray[np.float64]:  # sigma
    """Values between 0 and 2 `strength`, by how many outliers there are, along the first axis.

    All zero where all are alike, which the public code would divide by zero.
    """
    low, high = outliers.min(0), outliers.max(0)
    width = np.where(high > low, high - low, 1.0)
    spans: NDArray[np.float64] = 2 * strength * (outliers - low) / width
    return spans


def uniform(profile: Profile, sparsity: float) -> Shares:
    """The same share everywhere."""
    return exact(np.full(profile.outliers.shape, sparsity), profile.elements, sparsity, profile.most)


def layer(profile: Profile, sparsity: float) -> Shares:
    """One share a block: the less, the more of its weights are outliers."""
    by_block = spread(profile.all_outliers, profile.strength)
    shares = np.repeat((sparsity - by_block + by_block.mean())[:, None], profile.outliers.shape[1], axis=1)
    return exact(shares, profile.elements, sparsity, profile.most)


def projection_released(profile: Profile, sparsity: float) -> Shares:
    """As in the public code: a projection's own outliers enter by their mean over blocks alone, and the budget drifts.

    The share of all weights is up to `2 strength` off the target, either way.
    """
    by_block = spread(profile.all_outliers, profile.strength)[:, None]
    own = spread(profile.outliers, profile.strength).mean(0)
    shares: Shares = np.maximum(sparsity - by_block + own, _LEAST)
    return shares


def projection(profile: Profile, sparsity: float) -> Shares:
    """The released profile, moved so that the budget is exact."""
    return exact(projection_released(profile, sparsity), profile.elements, sparsity, profile.most)


def projection_own(profile: Profile, sparsity: float) -> Shares:
    """Each projection by its own outliers: an ablation."""
    own = spread(profile.outliers, profile.strength)
    return exact(sparsity - own + own.mean(0), profile.elements, sparsity, profile.most)


_POLICIES: Final[dict[str, Policy]] = {
    "uniform": uniform,
    "layer": layer,
    "projection-released": projection_released,
    "projection": projection,
    "projection-own": projection_own,
}


def policy(named: str) -> Policy:
    """A policy by its name; `module:Class` is called without arguments for one.

    Raises:
        UserError: there is none of that name.
    """
    if named in _POLICIES:
        return _POLICIES[named]
    made: Policy = resolve(named, "policy")()
    return made


def allocated(chosen: Policy, profile: Profile, sparsity: float) -> Shares:
    """What a policy gives, checked.

    Raises:
        UserError: a policy of the user's gives other shapes, or no shares.
    """
    shares = np.asarray(chosen(profile, sparsity), np.float64)
    wanted = profile.outliers.shape
    if shares.shape != wanted or not np.isfinite(shares).all() or shares.min() < 0 or shares.max() >= 1:
        raise UserError(
            f"policy {getattr(chosen, '__name__', type(chosen).__name__)} gives {_summary(shares)}; a policy gives "
            f"shares of 0 or more and below 1, {wanted[0]} blocks by {wanted[1]} projections"
        )
    return shares


def _summary(shares: Shares) -> str:
    if not shares.size or not np.isfinite(shares).all():
        return f"shape {shares.shape}, not all of it finite"
    return f"shape {shares.shape}, from {shares.min():.3g} to {shares.max():.3g}"


def exact(
    shares: Shares, elements: NDArray[np.int64], sparsity: float, most: float, least: float | Shares = 0.0
) -> Shares:
    """Shares moved by one constant and kept between `least` and `most`, so that their weighted mean is `sparsity`.

    The constant is found by bisection; rounding that is left goes to the shares within the limits.

    Raises:
        UserError: `sparsity` is above `most`.
    """
    weights = elements / elements.sum()
    if sparsity > most:
        raise UserError(f"sparsity {sparsity:g} is above most {most:g}, what any projection may lose; raise most")
    low, high = -float(shares.max()), most - float(shares.min())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float((weights * np.clip(shares + middle, least, most)).sum()) < sparsity:
            low = middle
        else:
            high = middle
    moved = np.clip(shares + high, least, most)
    free = (moved > least) & (moved < most)
    if free.any():
        left = sparsity - float((weights * moved).sum())
        moved = np.where(free, np.clip(moved + left / weights[free].sum(), least, most), moved)
    return moved
