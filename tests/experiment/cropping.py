"""Pruning methods of a user's own, for tests.

Fewer channels of vgg5's first convolution with a random mask; and a language model without tokens that a text lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fedsim import seeds
from fedsim.errors import UserError
from fedsim.payload.supports import Support
from fedsim.pruning.checks import Checks
from fedsim.pruning.methods import Material
from fedsim.pruning.plans import Kept, Plan
from fedsim.pruning.pruned import Pruned, fingerprint
from fedsim.pruning.resizing import sliced
from fedsim.pruning.verifying import held, verify


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Keeps the channels with the largest weights."""

    keep: int = 16
    """Channels of the first convolution."""
    masked: float = 0.0
    """Share of the second convolution's weights that become zero."""

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= 32:
            raise ValueError(f"keep {self.keep} must be 1 to 32")

    @property
    def studied(self) -> str:
        """The order of channels is the same for all options."""
        return ""

    def study(self, model: nn.Module, material: Material) -> list[int]:
        """The channels, largest first."""
        assert "conv1" in material.scope or not material.scope
        weight = model.get_parameter("conv1.0.weight")
        return [int(channel) for channel in weight.detach().abs().sum((1, 2, 3)).argsort(descending=True)]

    def plan(self, model: nn.Module, study: Any, material: Material, within: Plan | None = None) -> Plan:
        """The first of those that a larger variant keeps."""
        there = set(range(32)) if within is None else set(within.kept[0].indices)
        kept = tuple(sorted([channel for channel in study if channel in there][: self.keep]))
        gone = 32 - len(kept)
        return Plan(
            method="crop",
            parent=fingerprint(model),
            seed=material.seed,
            options=asdict(self),
            source="",
            kept=(Kept(layer="conv1.0", kind="filters", of=32, indices=kept),),
            parameters=held(model) - gone * (model.get_parameter("conv1.0.weight")[0].numel() + 1 + 2 + 64 * 9),
            privacy="data-free",
        )

    def apply(self, model: nn.Module, plan: Plan, material: Material) -> tuple[Pruned, Checks]:
        """Slice."""
        if fingerprint(model) != plan.parent:
            raise UserError("another model")
        index = np.asarray(plan.kept[0].indices, np.int64)
        axes: dict[str, Any] = {
            f"conv1.1.{name}": (index,) for name in ("weight", "bias", "running_mean", "running_var")
        }
        axes |= {"conv1.0.weight": (index, None, None, None), "conv1.0.bias": (index,)}
        axes["conv2.0.weight"] = (None, index, None, None)
        support = Support(axes)
        pruned = Pruned(module=sliced(model, support), plan=plan, support=support)
        return pruned, verify(model, pruned, material.example, nothing=len(index) == 32)

    def finish(self, pruned: Pruned, material: Material) -> Pruned:
        """New values for the first convolution; zeros in the second."""
        self.renew(pruned.module, ["conv1.0"], material)
        if not self.masked:
            return pruned
        weight = pruned.module.get_parameter("conv2.0.weight")
        drawn = seeds.generator(material.seed, -1, "crop").random(tuple(weight.shape))
        mask = drawn >= self.masked
        with torch.no_grad():
            weight.mul_(torch.from_numpy(mask))
        return replace(pruned, support=Support(pruned.support.axes, {"conv2.0.weight": mask}))

    def renew(self, model: nn.Module, layers: Iterable[str], material: Material) -> None:
        """Ones."""
        with torch.no_grad():
            for layer in layers:
                if layer == "conv1.0":
                    model.get_parameter("conv1.0.weight").fill_(0.1)

    def macs(self, model: nn.Module, plan: Plan, material: Material, *, study: bool = True) -> int:
        """Looking at weights multiplies nothing; these are numbers to find again."""
        return 7 + 100 * study

    def sized(self, share: float) -> Crop:
        """As many channels."""
        return replace(self, keep=max(1, round(32 * share)))


@dataclass(frozen=True)
class Forget:
    """Sets a transformer's embeddings of tokens that its text does not have to zero; nothing is cut out."""

    @property
    def studied(self) -> str:
        """There are no options."""
        return ""

    def study(self, model: nn.Module, material: Material) -> list[int]:
        """The tokens of the text."""
        assert material.windows is not None
        windows = material.windows()
        assert isinstance(windows, torch.Tensor)
        return sorted(set(windows.flatten().tolist()))

    def plan(self, model: nn.Module, study: Any, material: Material, within: Plan | None = None) -> Plan:
        """Those stay."""
        return Plan(
            method="forget",
            parent=fingerprint(model),
            seed=material.seed,
            options={"tokens": study},
            source="",
            kept=(),
            parameters=held(model),
            privacy="public",
        )

    def apply(self, model: nn.Module, plan: Plan, material: Material) -> tuple[Pruned, Checks]:
        """All of it."""
        pruned = Pruned(module=sliced(model, Support()), plan=plan, support=Support())
        return pruned, verify(model, pruned, material.example, nothing=True)

    def finish(self, pruned: Pruned, material: Material) -> Pruned:
        """Zeros in the rows of all others."""
        weight = pruned.module.get_parameter("embedding.tokens.weight")
        mask = np.zeros(tuple(weight.shape), np.bool_)
        mask[pruned.plan.options["tokens"]] = True
        with torch.no_grad():
            weight.mul_(torch.from_numpy(mask))
        return replace(pruned, support=Support({}, {"embedding.tokens.weight": mask}))

    def renew(self, model: nn.Module, layers: Iterable[str], material: Material) -> None:
        """Nothing: no layer was cut."""

    def macs(self, model: nn.Module, plan: Plan, material: Material, *, study: bool = True) -> int:
        """Looking at tokens multiplies nothing."""
        return 0

    def sized(self, share: float) -> Forget:
        """It has one size."""
        return self
