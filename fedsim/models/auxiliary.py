"""Auxiliary heads: small networks behind a device block that give it a loss of its own.

A head follows from the model, the cut and a seed; its weights are fresh, and it is no part of the final model. Knows
nothing of who trains it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim import seeds
from fedsim.costs import HEAD_PREFIX
from fedsim.errors import UserError
from fedsim.models.building import seeded
from fedsim.models.counting import measure
from fedsim.models.measure import ModelMeasure
from fedsim.models.narrowing import Widths, narrow, scaled
from fedsim.models.options import Auxiliary
from fedsim.models.units import UnitList, check_cut

PREFIX: Final = HEAD_PREFIX
"""Of the names of a head's units: by it their costs are told from the device block's."""

SAMPLED: Final = 1024
"""Tokens that a sampled vocabulary holds."""

_Units = list[tuple[str, nn.Module]]


class Average(nn.Module):
    """The mean over places: maps `batch channels h w`, or with the channels last `batch … channels`."""

    def __init__(self, *, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Activations to `batch channels`."""
        return x.flatten(1, -2).mean(1) if self.channels_last else x.flatten(2).mean(2)


class ClassifyingHead(nn.Module):
    """Activations to classes. `body` holds its units, all that is trained of it."""

    def __init__(self, body: UnitList) -> None:
        super().__init__()
        self.body = body

    def logits(self, z: Tensor, block: nn.Module) -> Tensor:
        """Logits `batch classes` of activations that `block` has made."""
        del block
        out: Tensor = self.body(z)
        return out

    def loss(self, z: Tensor, y: Tensor, block: nn.Module) -> Tensor:
        """Cross entropy of activations and labels `batch`, a scalar."""
        return self.body.loss(self.logits(z, block), y)

    def measure(self, block: nn.Module) -> ModelMeasure:
        """What it costs behind `block`."""
        del block
        return measure(self.body, raw_input=False)


class LanguageHead(nn.Module):
    """Activations to the next token, by the device block's own embedding of the tokens, which it leaves as it is.

    The loss tells the right token from a fixed sample of others (the whole vocabulary, where there is no sample). A
    linear layer to a full vocabulary would cost as much as many blocks.

    Args:
        body: units that keep the shape of activations `batch length width`.
        embedding: name of the embedding in the device block.
        sample: the tokens that the right one is told from.
    """

    def __init__(self, body: UnitList, embedding: str, sample: NDArray[np.int64] | None) -> None:
        super().__init__()
        self.body, self.embedding = body, embedding
        self.sample = sample  # no tensor: it follows from the seed, and does not travel with the weights

    def logits(self, z: Tensor, block: nn.Module) -> Tensor:
        """Logits `batch length tokens` of activations that `block` has made, over the whole vocabulary."""
        out: Tensor = self.body(z) @ self._table(block).T
        return out

    def loss(self, z: Tensor, y: Tensor, block: nn.Module) -> Tensor:
        """Cross entropy per next token of activations and labels `batch length`, a scalar."""
        return self._score(self._table(block), self.body(z), y)

    def measure(self, block: nn.Module) -> ModelMeasure:
        """What it costs behind `block`; the products with the embedding belong to the loss."""
        table = self._table(block)
        return measure(self.body, raw_input=False, loss=partial(self._score, table), beside=[table])

    def _table(self, block: nn.Module) -> Tensor:
        embedding = block.get_submodule(self.embedding)
        assert isinstance(embedding, nn.Embedding)
        return embedding.weight.detach()  # tokens width

    def _score(self, table: Tensor, h: Tensor, y: Tensor) -> Tensor:
        h, y = h.flatten(0, -2), y.flatten()  # positions width; positions
        if self.sample is None:
            return cross_entropy(h @ table.T, y)
        sample = torch.as_tensor(self.sample, device=h.device)
        right = (h[:, None] @ table[y][:, :, None]).flatten(1)  # positions 1
        others = (h @ table[sample].T).masked_fill(sample == y[:, None], -torch.inf)  # positions SAMPLED
        return cross_entropy(torch.cat([right, others], 1), torch.zeros_like(y))


Head = ClassifyingHead | LanguageHead


def build_head(model: UnitList, cut: int, options: Auxiliary, seed: int) -> Head:
    """The head of a model that is cut after `cut` units, on the model's device, with weights drawn from `seed`.

    Where the server has the last unit alone there is nothing to scale, and the head is the `linear` one.

    Raises:
        UserError: no such cut; a unit that cannot be narrowed; fewer server units than are to be mirrored; a language
            model without an embedding of its tokens, or one that is to be flattened.
    """
    check_cut(model.name, [name for name, _ in model.named_children()], cut)
    where, dtype = next(model.parameters()).device, getattr(torch, model.dtype)
    with torch.device(where), torch.no_grad(), seeded(seeds.derive(seed, -1, "auxiliary", cut)):
        x = torch.zeros(1, *model.input, dtype=torch.int64 if model.tokens else dtype)
        z = _shown(model.block(0, cut), x)
        copies = nn.Sequential(OrderedDict(_copies(model, cut, options))).to(dtype)
        end = _predictor if model.tokens else _classifier
        units = [*copies.named_children(), *end(model, cut, options, tuple(_shown(copies, z).shape[1:]))]
        shape = tuple(z.shape[1:])
        body = UnitList(model.name, units, input=shape, classes=model.classes, dtype=model.dtype).to(dtype)
        if not model.tokens:
            return ClassifyingHead(body)
        name, table = _embedding(model, cut, shape[-1])
        _even_out(body[-1], table)
    sampled = options.vocabulary == "sampled" and model.classes > SAMPLED
    return LanguageHead(body, name, _sample(model.classes, seed) if sampled else None)


def _shown(module: nn.Module, x: Tensor) -> Tensor:
    """What a module makes of `x` outside training; every part is left in the mode in which it was."""
    modes = [(part, part.training) for part in module.modules()]
    out: Tensor = module.eval()(x)
    for part, training in modes:
        part.training = training
    return out


def _copies(model: UnitList, cut: int, options: Auxiliary) -> _Units:
    """The server units that the head begins with, narrowed."""
    server = list(model.named_children())[cut:-1]  # all but the one that gives the model's own outputs
    wanted = {"scaled_layer": min(1, len(server)), "mirror": options.units}.get(options.kind, 0)
    if wanted > len(server):
        raise UserError(
            f"an auxiliary head cannot mirror {wanted} units behind unit {cut} of {model.name}: the server has "
            f"{len(server)} before its last one; choose {f'units 1-{len(server)}, ' if server else ''}an earlier cut, "
            "or kind: linear"
        )
    units: _Units = []
    widths: Widths | None = None
    for name, unit in server[:wanted]:
        try:
            made, widths = narrow(unit, options.ratio, widths)
        except UserError as error:
            raise UserError(
                f"no auxiliary head of kind {options.kind} for {model.name} behind unit {cut}, since unit {name} "
                f"cannot be narrowed: {error}; or choose kind: linear, which copies no unit"
            ) from error
        units.append((f"{PREFIX}{name}", made))
    return units


def _classifier(model: UnitList, cut: int, options: Auxiliary, shape: tuple[int, ...]) -> _Units:
    """Pooling, where there are places to average over, and linear layers to the classes."""
    layers: list[nn.Module] = []
    if options.kind == "flat_linear":
        layers.append(nn.Flatten())
        features = math.prod(shape)
    else:
        last = len(shape) < 3 or any(_channels_last(unit) for unit in (model[cut - 1], model[cut]))
        features = shape[-1] if last else shape[0]
        if len(shape) > 1:
            layers.append(Average(channels_last=last))
    if options.kind == "mlp":
        hidden = scaled(features, options.ratio)
        layers += [nn.Linear(features, hidden), nn.ReLU()]
        features = hidden
    return [(f"{PREFIX}head", nn.Sequential(*layers, nn.Linear(features, model.classes)))]


def _channels_last(unit: nn.Module) -> bool:
    """Whether maps are `h w channels` on its sides; `channels h w` is the rule."""
    return type(unit).__module__ == "torchvision.models.swin_transformer"


def _predictor(model: UnitList, cut: int, options: Auxiliary, shape: tuple[int, ...]) -> _Units:
    """What stands before the products with the embedding: a norm, with a hidden layer before it for `mlp`."""
    if options.kind == "flat_linear":
        raise UserError(
            f"an auxiliary head of kind flat_linear for {model.name} behind unit {cut} would mix positions that are to "
            "be predicted from one another; choose scaled_layer, linear, mlp or mirror"
        )
    width = shape[-1]
    units: _Units = []
    if options.kind == "mlp":
        hidden = scaled(width, options.ratio)
        units.append((f"{PREFIX}hidden", nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))))
    return [*units, (f"{PREFIX}norm", nn.LayerNorm(width))]


def _embedding(model: UnitList, cut: int, width: int) -> tuple[str, Tensor]:
    """The device block's embedding of the model's tokens: its name and its weights."""
    for name, part in model.block(0, cut).named_modules():
        if isinstance(part, nn.Embedding) and (part.num_embeddings, part.embedding_dim) == (model.classes, width):
            return name, part.weight
    raise UserError(
        f"no auxiliary head for {model.name} behind unit {cut}: it predicts tokens by the device block's own "
        f"embedding, but there is no nn.Embedding({model.classes}, {width}) in it; give the first unit one"
    )


def _even_out(norm: nn.Module, table: Tensor) -> None:
    """Scale a norm so that logits begin with a variance of about one, however the embedding is scaled."""
    assert isinstance(norm, nn.LayerNorm)
    if not table.is_meta:
        norm.weight.div_(torch.linalg.vector_norm(table) / len(table) ** 0.5)  # the mean length of a token's vector


def _sample(tokens: int, seed: int) -> NDArray[np.int64]:
    drawn = seeds.generator(seed, -1, "auxiliary vocabulary").choice(tokens, SAMPLED, replace=False)
    return np.sort(drawn).astype(np.int64)
