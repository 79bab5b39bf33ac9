"""Activations drawn from running statistics by label, and gradients by logits that a label's share corrects (GAS).

Yang, Liu, arXiv 2409.01251, sections on activation generation and on logit adjustment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fedsim import seeds
from fedsim.learning.core import Core, Operation
from fedsim.script import Payload

_BUFFER: Final = "buffer"
_LEAST_SHARE: Final = 1e-12  # of a label that a device lacks, in the authors' code
_RIDGE: Final = 1e-6  # of a covariance's mean variance; times ten until the matrix can be factorised


@dataclass(slots=True)
class Gaussian:
    """Weighted mean and covariance of all that it was given: (values,), and (values, values) or (values,)."""

    weight: float
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, rows: Tensor, weights: Tensor, *, whole: bool) -> Gaussian:
        """Of some rows, each of which counts by its weight."""
        total = weights.sum()
        mean = (rows * weights[:, None]).sum(0) / total
        centred = rows - mean
        weighted = centred * weights[:, None]
        spread = weighted.T @ centred if whole else (weighted * centred).sum(0)
        return cls(float(total), mean, spread / total)

    def joined(self, other: Gaussian) -> Gaussian:
        """Of all rows of both: spreads add up to that between the two means."""
        weight = self.weight + other.weight
        share = other.weight / weight
        apart = other.mean - self.mean
        between = torch.outer(apart, apart) if self.spread.dim() == 2 else apart * apart
        spread = torch.lerp(self.spread, other.spread, share) + share * (1 - share) * between
        return Gaussian(weight, self.mean + share * apart, spread)

    def drawn(self, normal: Tensor) -> Tensor:
        """Rows of it from rows of standard normal numbers."""
        if self.spread.dim() == 1:
            return self.mean + normal * self.spread.clamp_min(0).sqrt()
        diagonal = torch.eye(len(self.mean), dtype=self.mean.dtype)
        ridge = _RIDGE * float(self.spread.diagonal().mean()) + torch.finfo(self.mean.dtype).tiny
        while True:  # fewer samples than values give a matrix that is not definite
            factor, failed = torch.linalg.cholesky_ex(self.spread + ridge * diagonal)
            if not failed:
                product: Tensor = normal @ factor.T
                return self.mean + product
            ridge *= 10


@dataclass(slots=True)
class _Held:
    """Batches with the weights of their samples, what is known of each label, and labels that are asked for next."""

    batches: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    known: dict[int, Gaussian] = field(default_factory=dict)
    labels: Tensor | None = None

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All activations and labels."""
        z, y, _ = zip(*self.batches, strict=True)
        return (z[0], y[0]) if len(z) == 1 else (torch.cat(z), torch.cat(y))


def _open(core: Core, node: int, number: int) -> None:
    core.memory[_BUFFER, node, number] = _Held()


def _add(core: Core, node: int, number: int, activations: Payload, labels: Payload, weight: int) -> None:
    held: _Held = core.memory[_BUFFER, node, number]
    held.batches.append((core.tensor(activations), core.tensor(labels), weight))


def _join(core: Core, node: int, number: int) -> Tensor:
    held: _Held = core.memory[_BUFFER, node, number]
    z, held.labels = held.stacked()
    return core.arranged(z)


def _replenish(core: Core, node: int, number: int, whole: bool, missing: Mapping[int, int], draw: int) -> Tensor:
    held: _Held = core.memory[_BUFFER, node, number]
    z, y = held.stacked()
    _learn(held, z.flatten(1), y, whole=whole)
    rng = seeds.generator(core.seed, node, f"generated {number}", draw)
    rows, labels = [z], [y]
    for label, count in missing.items():
        gaussian = held.known[label]
        normal = torch.from_numpy(rng.standard_normal((count, len(gaussian.mean)))).to(z.dtype)
        rows.append(gaussian.drawn(normal).reshape(count, *z.shape[1:]))
        labels.append(torch.full((count,), label, dtype=y.dtype))
    held.labels = torch.cat(labels)
    return core.arranged(torch.cat(rows))


def _learn(held: _Held, rows: Tensor, y: Tensor, *, whole: bool) -> None:
    """Take what is in the buffer into the statistics."""
    weights = torch.cat([torch.full((len(z),), weight, dtype=rows.dtype) for z, _, weight in held.batches])
    for label in y.unique().tolist():
        mine = y == label
        fresh = Gaussian.of(rows[mine], weights[mine], whole=whole)
        held.known[label] = held.known[label].joined(fresh) if label in held.known else fresh


def _labels(core: Core, node: int, number: int) -> Tensor:
    held: _Held = core.memory[_BUFFER, node, number]
    y, held.labels = held.labels, None
    held.batches.clear()
    assert y is not None, "labels of nothing"
    return y


def _gradient(
    core: Core, node: int, learner: int, activations: Payload, labels: Payload, shares: Sequence[float]
) -> Tensor:
    trainee, instance, module = core.ready(node, learner)
    before = [buffer.clone() for buffer in module.buffers()]
    z, y = core.here(core.tensor(activations)).detach().requires_grad_(), core.here(core.tensor(labels))
    with core.noise(node, learner, trainee):
        logits: Tensor = module(z)
        if shares:
            logits = logits + core.here(torch.from_numpy(np.log(np.asarray(shares) + _LEAST_SHARE)).to(logits.dtype))
        # Gradients of the weights are computed and dropped, as in the authors' code; the cost counts them.
        gradient, *_ = torch.autograd.grad(core.model.loss(logits, y), [z, *instance.parameters], allow_unused=True)
    with torch.no_grad():
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)
    return core.arranged(gradient)


METHODS: Final[Mapping[str, Operation]] = {
    "buffer.open": _open,
    "buffer.add": _add,
    "buffer.join": _join,
    "buffer.replenish": _replenish,
    "buffer.labels": _labels,
    "gradient": _gradient,
}
