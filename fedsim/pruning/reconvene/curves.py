"""The curve of unstructured pruning: by density, how much of each layer and of each filter is left.

One run of an iterated score passes through all densities on its way to the lowest; what it leaves after t of T
iterations is what a run of t iterations would have left. One-shot scores are taken once. Knows nothing of widths.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from time import process_time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.conv import _ConvTransposeNd

from fedsim.errors import RunError, UserError
from fedsim.models.building import seeded
from fedsim.pruning.pruned import fingerprint
from fedsim.pruning.reconvene.options import Reconvene
from fedsim.pruning.reconvene.scores import Batch, Loss, score_type, scored

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """Densities and filter scores at every step from the whole model (step 0) to the lowest density."""

    score: str
    parent: str
    """Fingerprint of the model."""
    seed: int
    data: bool
    """Whether the scores depend on a batch."""
    layers: tuple[str, ...]
    """Whose weights were scored: convolutions and linear layers."""
    sizes: tuple[int, ...]
    """Their weights."""
    lowest: float
    """The density of all weights together that was asked for at the last step."""
    kept: NDArray[np.int64]
    """(steps + 1, layers): weights that are left."""
    filters: Mapping[str, Floats]
    """By layer (steps + 1, outputs): the summed scores of the weights that are left in each filter."""
    seconds: float
    """CPU time that it took."""

    @property
    def steps(self) -> int:
        """Where the lowest density is."""
        return len(self.kept) - 1

    @cached_property
    def digest(self) -> str:
        """A hash of what it says, in hexadecimal digits."""
        made = hashlib.sha256(f"{self.score} {self.parent} {self.seed} {self.sizes} {self.lowest}\n".encode())
        made.update(np.ascontiguousarray(self.kept, "<i8").tobytes())
        for name in self.layers:
            made.update(f"{name}\n".encode() + np.ascontiguousarray(self.filters[name], "<f8").tobytes())
        return made.hexdigest()

    @cached_property
    def _logs(self) -> Floats:
        """Logarithms of the densities; half a weight stands for none."""
        densities: Floats = np.log(np.maximum(self.kept, 0.5) / np.array(self.sizes))
        return densities

    def at(self, step: float) -> dict[str, float]:
        """The density of each layer's mask; between steps, and beyond the last, its logarithm goes on evenly."""
        if step >= self.steps:
            logs = self._logs[-1] * (step / self.steps)
        else:
            below = int(step)
            logs = self._logs[below] + (step - below) * (self._logs[below + 1] - self._logs[below])
        return dict(zip(self.layers, np.exp(logs).tolist(), strict=True))

    def ranking(self, layer: str, step: float) -> Floats:
        """The filters' scores at the nearest step that is not denser."""
        found: Floats = self.filters[layer][min(math.ceil(step), self.steps)]
        return found

    def collapsed(self, step: float) -> tuple[str, ...]:
        """Layers without any weight left at that step."""
        row = self.kept[min(math.ceil(step), self.steps)]
        return tuple(name for name, kept in zip(self.layers, row, strict=True) if kept == 0)

    def step_of(self, density: float) -> float:
        """The step at which a density was asked for."""
        return self.steps * math.log(density) / math.log(self.lowest)


def score(
    model: nn.Module,
    options: Reconvene,
    example: Tensor,
    labels: Tensor | None = None,
    loss: Loss = cross_entropy,
    *,
    seed: int = 0,
) -> Curve:
    """Score a model, which stays as it is, and see what pruning by that score leaves.

    Args:
        example: inputs, the batch first; without labels only its shape and type count.
        labels: for scores that need data, best ten samples of every class.
        loss: from outputs and labels, a scalar.
        seed: of scores that are drawn.

    Raises:
        UserError: nothing to score, no such score, or it needs labels.
        RunError: scores that are not finite.
    """
    start = process_time()
    run = _Run(model, options, Batch(example=example, labels=labels, loss=loss, seed=seed))
    kept, filters = run.curve(options.lowest_density, options.iterations)
    return Curve(
        score=options.score,
        parent=fingerprint(model),
        seed=seed,
        data=run.kind.data,
        layers=tuple(run.weights),
        sizes=tuple(weight.numel() for weight in run.weights.values()),
        lowest=options.lowest_density,
        kept=np.array(kept, np.int64),
        filters={name: np.array(rows, np.float64) for name, rows in filters.items()},
        seconds=process_time() - start,
    )


def masks(
    model: nn.Module,
    options: Reconvene,
    weights: int,
    example: Tensor,
    labels: Tensor | None = None,
    loss: Loss = cross_entropy,
    *,
    seed: int = 0,
    iterations: int = 100,
) -> dict[str, Tensor]:
    """The masks of unstructured pruning that keep exactly so many weights, by name of the tensor.

    Args:
        weights: how many of those that are scored stay.
        iterations: of an iterated score; 100 is usual. At 20, a fifth of the weights that stay are others.

    Raises:
        UserError, RunError: as `score`.
    """
    run = _Run(model, options, Batch(example=example, labels=labels, loss=loss, seed=seed))
    if not 0 < weights <= run.total:
        raise UserError(f"{weights} weights cannot be kept of {run.total}; ask for 1 to {run.total}")
    if run.kind.iterated:
        for step in range(1, iterations):
            run.cut_off(run.scores(), round(run.total * (weights / run.total) ** (step / iterations)))
    return run.exact(weights)


class _Run:
    """A score at work on a copy of a model; masks are set as zeros in the copy's weights."""

    def __init__(self, model: nn.Module, options: Reconvene, batch: Batch) -> None:
        if not scored(model):
            raise UserError("the model has neither convolutions nor linear layers, so there is nothing to prune")
        self.kind = score_type(options.score)
        copy = deepcopy(model)
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in copy.parameters()):
            copy.float()
        for parameter in copy.parameters():
            parameter.grad = None
        self.weights = scored(copy)
        self._axes = {name: output_axis(copy.get_submodule(name)) for name in self.weights}
        self.total = sum(weight.numel() for weight in self.weights.values())
        self._name, self._seed = options.score, batch.seed
        self._score = self.kind(copy, self.weights, batch)

    def scores(self) -> dict[str, Tensor]:
        """The scores now.

        Raises:
            RunError: they are not finite.
        """
        with seeded(self._seed), torch.enable_grad():
            scores = self._score()
        for name, values in scores.items():
            least, most = values.aminmax()  # both are NaN where any is
            if not (bool(least.isfinite()) and bool(most.isfinite())):
                raise RunError(f"score {self._name} of {name} is not finite; scale the weights down, or take another")
        return scores

    def curve(self, lowest: float, iterations: int) -> tuple[list[list[int]], dict[str, list[Floats]]]:
        """By step, what is left in each layer and in each filter."""
        kept = [[weight.numel() for weight in self.weights.values()]]
        filters: dict[str, list[Floats]] = {name: [] for name in self.weights}
        scores = self.scores()
        thresholds = None
        if not self.kind.iterated:
            counts = [round(self.total * lowest ** (step / iterations)) for step in range(1, iterations + 1)]
            thresholds = _exact_thresholds(scores, counts)
        for step in range(iterations + 1):
            if step == 0:
                left = scores
            elif thresholds is not None:
                left = {name: values * (values > thresholds[step - 1]) for name, values in scores.items()}
                kept.append([int((values > thresholds[step - 1]).sum()) for values in scores.values()])
            else:
                scores = scores if step == 1 else self.scores()
                left = self.cut_off(scores, round(self.total * lowest ** (step / iterations)))
                kept.append([int(np.count_nonzero(values.numpy())) for values in left.values()])
            for name, values in left.items():
                filters[name].append(_by_filter(values, self._axes[name]))
        return kept, filters

    def cut_off(self, scores: dict[str, Tensor], count: int) -> dict[str, Tensor]:
        """Set all but about the `count` highest scores to zero, and the weights with them."""
        threshold = _histogram_threshold(list(scores.values()), count)
        with torch.no_grad():
            for name, values in scores.items():
                torch.threshold_(values, threshold, 0)
                self.weights[name].mul_(values.sign())
        return scores

    def exact(self, count: int) -> dict[str, Tensor]:
        """Masks of exactly the `count` highest scores; of equal ones the first."""
        scores = self.scores()
        flat = torch.cat([values.flatten() for values in scores.values()])
        chosen = torch.zeros(len(flat), dtype=torch.bool)
        chosen[torch.sort(flat, descending=True, stable=True).indices[:count]] = True
        parts = torch.split(chosen, [values.numel() for values in scores.values()])
        return {f"{name}.weight": part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def output_axis(part: nn.Module) -> int:
    """The axis of a layer's weight along which its outputs lie."""
    return 1 if isinstance(part, _ConvTransposeNd) and part.groups == 1 else 0


def _by_filter(scores: Tensor, axis: int) -> Floats:
    """Summed over all axes but that of the outputs, in float64 at the end."""
    summed: Floats = scores.transpose(0, axis).flatten(1).sum(1).double().numpy()
    return summed


def _exact_thresholds(scores: Mapping[str, Tensor], counts: list[int]) -> list[float]:
    """Scores that exactly so many are above of; equal ones are above together, or not, whichever is nearer."""
    flat = np.concatenate([values.numpy().ravel() for values in scores.values()])
    places = [len(flat) - 1 - count for count in counts]
    ordered = np.partition(flat, sorted({place for place in places if place >= 0}))
    thresholds = []
    for place, count in zip(places, counts, strict=True):
        threshold = ordered[place] if place >= 0 else -np.inf
        above, with_equal = np.count_nonzero(flat > threshold), np.count_nonzero(flat >= threshold)
        nearer = count - above > with_equal - count
        thresholds.append(float(np.nextafter(threshold, flat.dtype.type(-np.inf)) if nearer else threshold))
    return thresholds


def _histogram_threshold(scores: list[Tensor], count: int) -> float:
    """A score that about `count` positive ones are above of: an edge of a histogram over their logarithms.

    The leading bits of a float, its exponent and seven bits more, are 128 bins for every factor of two, of nearly
    equal width in the logarithm; to count them takes a sixth of the time of log2 and a histogram.
    """
    wide = scores[0].dtype == torch.float64
    bits, drop, bins = (torch.int64, 45, 1 << 18) if wide else (torch.int32, 16, 1 << 15)
    counts = torch.zeros(bins, dtype=torch.int64)
    for values in scores:
        counts += torch.bincount((values.flatten().view(bits) >> drop), minlength=bins)
    counts[0] -= sum(int((values == 0).sum()) for values in scores if not bool(values.all()))
    above = counts.flip(0).cumsum(0)  # of the highest bins
    highest = int((above <= count).sum())  # the most of them that hold no more
    if highest < bins and above[highest] - count < count - (above[highest - 1] if highest else 0):
        highest += 1  # one more bin comes nearer
    if highest == bins:
        return 0.0
    edge = torch.tensor(((bins - highest) << drop) - 1, dtype=bits)  # the last float below
    return float(edge.view(scores[0].dtype))
