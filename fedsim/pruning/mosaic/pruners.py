"""Setting weights of one matrix to zero: the seam `Pruner`, and three of them. Knows nothing of models.

SparseGPT (arXiv 2301.00774) chooses by what an error costs, and lets the columns to the right make up for it; Wanda
(arXiv 2306.11695) compares within rows; magnitude within the matrix. Counts are exact: as many zeros as the share
says, to the nearest weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedsim.data.custom import resolve
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.outliers import metric
from fedsim.pruning.mosaic.streaming import Inputs

Pattern = tuple[int, int]
"""n zeros among every m consecutive weights of a row."""


class Pruner(Protocol):
    """A rule for zeros."""

    @property
    def hessian(self) -> bool:
        """Whether it needs products of features, not only their norms."""
        ...

    def __call__(self, weight: Tensor, inputs: Inputs, sparsity: float, /) -> tuple[Tensor, Tensor]:
        """New weights in float32, `rows columns`, and a mask: true where a weight may be other than zero.

        Args:
            weight: in float32, to be left as it is.
            inputs: what the matrix has seen of the calibration windows.
            sparsity: the share of weights that become zero.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SparseGpt:
    """One threshold over all rows of some columns; errors go to the columns to the right."""

    columns: int = 128
    damping: float = 0.01
    pattern: Pattern | None = None
    hessian: bool = True

    def __call__(self, weight: Tensor, inputs: Inputs, sparsity: float, /) -> tuple[Tensor, Tensor]:
        """See `Pruner`. Inputs that are never other than zero lose their weights first, whatever the share."""
        upper = factor(inputs.hessian.to(weight.dtype), self.damping)
        dead = inputs.dead
        turned = weight.T.clone(memory_format=torch.contiguous_format)  # a column lies in one piece: twice as fast
        turned[dead] = 0
        mask = torch.ones_like(turned, dtype=torch.bool)
        total, rows = turned.shape
        gone = 0
        for first in range(0, total, self.columns):
            last = min(first + self.columns, total)
            part, inner = turned[first:last], upper[first:last, first:last]
            keep = mask[first:last]
            if self.pattern is None:
                zeros = round(sparsity * rows * last) - gone
                scores = (part / inner.diagonal()[:, None]).square()
                scores[dead[first:last]] = -1.0
                keep &= ~lowest(scores, max(zeros, 0))
            keep[dead[first:last]] = False
            errors = self._column_by_column(part, inner, keep)
            gone += int((~keep).sum())
            turned[last:].addmm_(upper[first:last, last:].T, errors, alpha=-1)
        return turned.T.contiguous(), mask.T.contiguous()

    def _column_by_column(self, part: Tensor, inner: Tensor, keep: Tensor) -> Tensor:
        """Set what is not kept to zero, pushing errors to the right, in place; returns the errors.

        All are `columns rows`.
        """
        errors = torch.empty_like(part)
        diagonal: list[float] = inner.diagonal().tolist()
        for column, scale in enumerate(diagonal):
            if self.pattern is not None and column % self.pattern[1] == 0:
                group = slice(column, column + self.pattern[1])
                keep[group] = ~_of_each((part[group] / inner.diagonal()[group, None]).T, self.pattern).T
            kept = torch.where(keep[column], part[column], 0)
            errors[column] = (part[column] - kept) / scale
            part[column + 1 :].addr_(inner[column, column + 1 :], errors[column], alpha=-1)
            part[column] = kept
        return errors


def factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of a damped Hessian. Features that are always zero count as 1."""
    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper


@dataclass(frozen=True, kw_only=True)
class Wanda:
    """The lowest of the metric within each row."""

    pattern: Pattern | None = None
    hessian: bool = False

    def __call__(self, weight: Tensor, inputs: Inputs, sparsity: float, /) -> tuple[Tensor, Tensor]:
        """See `Pruner`. Rows lose the share rounded down, and some one more, those to whom it means least."""
        scores = metric(weight, inputs.norms)
        if self.pattern is not None:
            groups = scores.reshape(-1, self.pattern[1])
            gone = _of_each(groups, self.pattern).reshape(scores.shape)
        else:
            gone = _in_each_row(scores, sparsity)
        return weight.masked_fill(gone, 0), ~gone


def _in_each_row(scores: Tensor, sparsity: float) -> Tensor:
    """The lowest of every row, and of the next lowest ones the lowest."""
    zeros = round(sparsity * scores.numel())
    each, more = divmod(zeros, len(scores))
    order = scores.argsort(dim=1, stable=True)
    gone = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :each], value=True)
    if more:
        following = order[:, each]
        rest = scores.gather(1, following[:, None])[:, 0].argsort(stable=True)[:more]
        gone[rest, following[rest]] = True
    return gone


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """The smallest of the matrix."""

    hessian: bool = False

    def __call__(self, weight: Tensor, inputs: Inputs, sparsity: float, /) -> tuple[Tensor, Tensor]:
        """See `Pruner`."""
        del inputs
        gone = lowest(weight.abs(), round(sparsity * weight.numel()))
        return weight.masked_fill(gone, 0), ~gone


def lowest(scores: Tensor, count: int) -> Tensor:
    """True for so many of the lowest scores; of equal ones the first."""
    flat = scores.flatten()
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if count >= flat.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(count).values
    gone = flat < threshold
    ties = (flat == threshold).nonzero()[:, 0]
    gone[ties[: count - int(gone.sum())]] = True
    return gone.reshape(scores.shape)


def _of_each(scores: Tensor, pattern: Pattern) -> Tensor:
    """True for the n smallest magnitudes of every row."""
    order = scores.abs().argsort(dim=1, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, : pattern[0]], value=True)


def pruner(options: Mosaic) -> Pruner:
    """The pruner that options ask for; `module:Class` is called without arguments for one.

    Raises:
        UserError: there is none of that name.
    """
    pattern = options.zeros_of if options.pattern is not None else None
    match options.pruner:
        case "sparsegpt":
            return SparseGpt(columns=options.columns, damping=options.damping, pattern=pattern)
        case "wanda":
            return Wanda(pattern=pattern)
        case "magnitude":
            return Magnitude()
        case named:
            made: Pruner = resolve(named, "pruner")()
            return made
