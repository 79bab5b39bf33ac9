"""Scores of pruning at initialisation: how much each weight matters to an untrained network.

A score is made from a copy of the model that it may change as it likes, and gives a tensor for each weight that is
scored. Iterated scores are taken again and again, with the weights that ranked lowest set to zero in between. Knows
nothing of thresholds and widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fedsim import seeds
from fedsim.errors import UserError, unknown
from fedsim.pruning.reconvene.options import SCORES

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a score may look at beside the weights."""

    example: Tensor
    """Inputs, the batch first; of those that need no data, only the shape counts."""
    labels: Tensor | None = None
    loss: Loss = cross_entropy
    seed: int = 0

    def labelled(self, score: str) -> tuple[Tensor, Tensor]:
        """Inputs and labels.

        Raises:
            UserError: there are no labels.
        """
        if self.labels is None:
            raise UserError(f"score {score} needs a batch with labels, ten samples a class; or take synflow")
        return self.example, self.labels


class Score(Protocol):
    """A score: made from a copy of the model, its weights by layer (those of the copy), and a batch."""

    iterated: ClassVar[bool]
    """Whether it is taken anew after some weights are gone, and not negative then; else once for all densities."""
    data: ClassVar[bool]
    """Whether it depends on the batch."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> None: ...

    def __call__(self) -> dict[str, Tensor]:
        """By layer, a score for each weight as the weights are now: the highest are kept."""
        ...


def scored(model: nn.Module) -> dict[str, Tensor]:
    """The weights that scores rank, by layer: of convolutions and linear layers."""
    kinds = (_ConvNd, nn.Linear)
    return {name: part.weight for name, part in model.named_modules() if isinstance(part, kinds)}


def score_type(name: str) -> type[Score]:
    """A score by its name, or a user's own as `module:Class`.

    Raises:
        UserError: there is no such score.
    """
    if name in _SCORES:
        return _SCORES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(unknown("score", name, SCORES))
    try:
        found: type[Score] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"score {name} cannot be loaded: {error}; write it as module:Class") from error
    for wanted in ("iterated", "data", "__call__"):
        if not hasattr(found, wanted):
            raise UserError(f"score {name} has no {wanted}; fedsim.pruning.reconvene.scores.Score says what one has")
    return found


# --------------------------------------------------------------------------------------------- without data


class Random:
    """Noise: layers keep the same density, but for chance."""

    iterated: ClassVar[bool] = False
    data: ClassVar[bool] = False

    def __init__(self, _model: nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> None:
        self._weights, self._seed = weights, batch.seed

    def __call__(self) -> dict[str, Tensor]:
        """Uniform from 0 to 1, by a generator a layer."""
        scores = {}
        for name, weight in self._weights.items():
            draw = torch.Generator().manual_seed(seeds.derive(self._seed, -1, f"random score of {name}"))
            scores[name] = torch.rand(weight.shape, generator=draw)
        return scores


class Magnitude:
    """Absolute values."""

    iterated: ClassVar[bool] = False
    data: ClassVar[bool] = False

    def __init__(self, _model: nn.Module, weights: Mapping[str, Tensor], _batch: Batch) -> None:
        self._weights = weights

    def __call__(self) -> dict[str, Tensor]:
        """|w|."""
        return {name: weight.detach().abs() for name, weight in self._weights.items()}


class SynFlow:
    """How much of the flow of ones through the network goes through a weight (arXiv 2006.05467).

    |w dR/dw| with R the sum of the outputs of ones, all weights made absolute, biases zero and norms neutral. Divided
    by R, so that the scores of each layer of a chain add up to 1.

    R may be far beyond float32. With inputs and output gradients each divided by the root of R everything is within
    its range, and R is known well enough from the round before, and at first from a float64 forward. That holds for
    networks that map a multiple of an input to that multiple of the output; others are scored in float64.
    """

    iterated: ClassVar[bool] = True
    data: ClassVar[bool] = False

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> None:
        _linearise(model, weights)
        self._model, self._weights = model, weights
        self._ones = torch.ones_like(batch.example[:1])
        precise = next(iter(weights.values())).dtype == torch.float64
        self._double = precise or not self._homogeneous()
        if self._double:
            self._model.double()
            self._root = 1.0

    def __call__(self) -> dict[str, Tensor]:
        """|w dR/dw| / R."""
        for _ in range(2):
            flow, scores = self._scores()
            if self._double or _LEAST < flow < 1 / _LEAST:
                break
            self._root = self._root_of_flow()  # it has changed too much since the round before
        if not 0 < flow < math.inf:
            return scores if flow == 0 else {name: score * math.nan for name, score in scores.items()}
        if not self._double:
            self._root *= math.sqrt(flow)
        return {name: score.div_(flow) for name, score in scores.items()}

    def flow(self) -> float:
        """R, in float64."""
        flow = self._flow(1.0)
        if not self._double:
            self._model.float()
        return flow

    def _scores(self) -> tuple[float, dict[str, Tensor]]:
        """R over the square of the root, and the scores over the same."""
        dtype = torch.float64 if self._double else torch.float32
        parameters = list(self._weights.values())
        flow = self._model(self._ones.to(dtype) / self._root).sum()
        gradients = torch.autograd.grad(flow / self._root, parameters, allow_unused=True, materialize_grads=True)
        named = zip(self._weights, parameters, gradients, strict=True)
        return float(flow.detach()) / self._root, {name: (w.detach() * g).abs_() for name, w, g in named}

    def _flow(self, scale: float) -> float:
        """R in float64, of ones times `scale`."""
        self._model.double()
        with torch.no_grad():
            flow = float(self._model(self._ones.double() * scale).sum())
        return flow

    def _root_of_flow(self) -> float:
        flow = self._flow(1.0)
        self._model.float()
        return math.sqrt(flow) if 0 < flow < math.inf else 1.0

    def _homogeneous(self) -> bool:
        """Whether an input that is scaled scales the output; sets the root, and the model to float32."""
        flow = self._flow(1.0)
        self._root = math.sqrt(flow) if 0 < flow < math.inf else 1.0
        scaled = self._flow(1 / self._root) * self._root
        self._model.float()
        return abs(scaled - flow) <= 1e-6 * abs(flow) < math.inf


_LEAST: Final = 1e-12
"""How far R may have moved between two rounds, as a factor, before it is taken anew."""


def _linearise(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Eval mode, absolute weights, no biases, neutral norms; those that mix channels pass their inputs on."""
    model.eval()
    for part in model.modules():
        if isinstance(part, _BatchNorm) and part.track_running_stats:
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.zero_()
            part.running_var.fill_(1)
        elif is_norm(part):
            part.register_forward_hook(lambda _part, inputs, _output: inputs[0])
    scored = {id(weight) for weight in weights.values()}
    norms = {id(part.weight) for part in model.modules() if is_norm(part) and part.weight is not None}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) in scored:
                parameter.abs_()
            elif id(parameter) in norms:
                parameter.fill_(1)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.abs_()


def is_norm(part: nn.Module) -> Any:
    """Whether a layer normalises; typed loosely, since its `weight` may be None."""
    return isinstance(part, _BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d)


# ------------------------------------------------------------------------------------------------ with data


class Snip:
    """How much the loss changes when a weight goes, to first order: |w dL/dw| (arXiv 1810.02340)."""

    iterated: ClassVar[bool] = False
    data: ClassVar[bool] = True

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> None:
        model.train()  # batch norm by the batch
        self._model, self._weights, self._batch = model, weights, batch

    def __call__(self) -> dict[str, Tensor]:
        """Of the loss on the batch."""
        inputs, labels = self._batch.labelled("snip")
        parameters = list(self._weights.values())
        loss = self._batch.loss(self._model(inputs), labels)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        named = zip(self._weights, parameters, gradients, strict=True)
        return {name: (w.detach() * g).abs_() for name, w, g in named}


class Grasp:
    """How much the norm of the gradient suffers when a weight goes: w Hg, the highest kept (arXiv 2002.07376).

    The published code computes -w Hg and removes what is highest there.
    """

    iterated: ClassVar[bool] = False
    data: ClassVar[bool] = True
    temperature: ClassVar[float] = 200.0
    """What the logits are divided by, as in the paper."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> None:
        model.train()
        self._model, self._weights, self._batch = model, weights, batch

    def __call__(self) -> dict[str, Tensor]:
        """Of the loss on the batch, by two gradient passes."""
        inputs, labels = self._batch.labelled("grasp")
        parameters = list(self._weights.values())
        loss = self._batch.loss(self._model(inputs) / self.temperature, labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        product = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
        turned = torch.autograd.grad(product, parameters, allow_unused=True, materialize_grads=True)
        return {name: w.detach() * h for name, w, h in zip(self._weights, parameters, turned, strict=True)}


_SCORES: Final[Mapping[str, type[Score]]] = {
    "random": Random,
    "magnitude": Magnitude,
    "snip": Snip,
    "grasp": Grasp,
    "synflow": SynFlow,
}
