"""A pruned model of a folder in the coordinates of a network that it is part of: pruning that was done elsewhere.

Behind the seam of all methods, so that whoever asks methods for variants gets it like any other. Language models that
were pruned as transformers has them are parts of fedsim's lists of units, too: of one network, only names differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.payload.supports import Support
from fedsim.pruning.checks import Checks
from fedsim.pruning.manifest import MANIFEST, CatalogueBase, Entry, Manifest, ObjectBase, TransformersBase
from fedsim.pruning.methods import Material
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned, fingerprint
from fedsim.pruning.resizing import sliced
from fedsim.pruning.storing import read, read_manifest

_UNITS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(r"model\.embed_tokens(?=\.|$)"), lambda _: "embedding"),
    (re.compile(r"model\.layers\.(\d+)(?=\.|$)"), lambda found: f"block{int(found[1]) + 1}.layer"),
    (re.compile(r"model\.norm(?=\.|$)"), lambda _: "head.0"),
    (re.compile(r"lm_head(?=\.|$)"), lambda _: "head.1"),
)
"""What the parts of a causal language model of transformers are called in a list of units."""


@dataclass(frozen=True)
class Installed:
    """A variant that is there already: it is neither studied nor planned."""

    plan_: Plan
    """With the names of the network."""
    support: Support
    values: Mapping[str, Tensor]
    """By the network's names; none where only shapes are wanted."""
    manifest: Manifest
    folder: Path

    def study(self, model: nn.Module, material: Material) -> None:
        """Nothing is left to find out."""

    def plan(self, model: nn.Module, study: None, material: Material, within: Plan | None = None) -> Plan:
        """As it was planned, whatever other variants have.

        Raises:
            UserError: something is gone that has to stay.
        """
        self._check(model, material.scope)
        return self.plan_

    def apply(self, model: nn.Module, plan: Plan, material: Material) -> tuple[Pruned, Checks]:
        """What was cut and verified then."""
        module = sliced(model, self.support)
        if self.values:
            module.load_state_dict(dict(self.values))
        said = self.manifest
        made = Pruned(
            module=module,
            plan=plan,
            support=self.support,
            updated=tuple(map(_unit, said.updated)) if _renames(said) else said.updated,
            reinitialised=said.reinitialised,
            realised=said.realised,
            timings=said.timings,
        )
        return made, said.checks

    def finish(self, pruned: Pruned, material: Material) -> Pruned:
        """Nothing is left to do."""
        return pruned

    def renew(self, model: nn.Module, layers: Iterable[str], material: Material) -> None:
        """Its values, in place, in a model that it is part of."""
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name not in self.values:
                    continue
                new, mask = self.values[name], self.support.masks.get(name)
                index = (...,) if new.shape == tensor.shape else self.support.index(name, tuple(tensor.shape))
                tensor[index] = new if mask is None else torch.where(torch.from_numpy(mask), new, tensor[index])

    def macs(self, model: nn.Module, plan: Plan, material: Material, *, study: bool = True) -> int:
        """None of this run: it was made before."""
        return 0

    def sized(self, share: float) -> Installed:
        """Never another size.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.folder} has the size that it has; name a method in place of a manifest to fit a device")

    @property
    def studied(self) -> str:
        """Itself."""
        return self.manifest.weights

    def _check(self, model: nn.Module, scope: tuple[str, ...]) -> None:
        """Refuse to change what lies outside of a scope."""
        if not scope:
            return
        for name, tensor in model.state_dict().items():
            if any(name.startswith(f"{unit}.") for unit in scope):
                continue
            shape = tuple(tensor.shape)
            if self.support.shape(name, shape) != shape or name in self.support.masks:
                raise UserError(
                    f"{self.folder} has less of {name} than the model, but only {', '.join(scope)} may shrink; prune "
                    f"it with scope {list(scope)} and protected [{scope[-1]}], or prune the whole fleet by one section "
                    "with scope: model"
                )


def installed(place: Path, network: nn.Module, *, values: bool = True) -> Installed:
    """The variant of a folder.

    Args:
        place: the folder, or its manifest.json.
        network: what it is to be part of.
        values: whether its tensors are wanted, which are those of the network's own, or made from them. Without, the
            file of tensors stays closed, and masks have the right number of values at any places.

    Raises:
        UserError: there is no such folder, it is damaged, or of another network or other weights.
    """
    folder = place.parent if place.name == MANIFEST else place
    manifest = read_manifest(folder)
    renames = _renames(manifest) and not hasattr(network, "config")
    named = {name: _unit(name) if renames else name for name in manifest.tensors}
    state = network.state_dict()
    _same_network(folder, manifest, {named[name]: entry for name, entry in manifest.tensors.items()}, state)
    if values and manifest.plan.parent != _fingerprint(network, named):
        raise UserError(
            f"{folder} was made of other weights than the model has here; prune a model of the same seed and weights "
            f"(it had seed {manifest.plan.seed}), or let the scenario start from the weights that were pruned"
        )
    given = network if isinstance(manifest.base, ObjectBase) else None
    stored = read(folder, given, device="cpu" if values else "meta")
    masks = stored.support.masks if values else _stand_ins(manifest)
    support = Support(
        {named[name]: axes for name, axes in stored.support.axes.items()},
        {named[name]: mask for name, mask in masks.items()},
        placed=values or not masks,
    )
    found = {named[name]: tensor.detach() for name, tensor in stored.module.state_dict().items()} if values else {}
    plan = manifest.plan
    if renames:
        plan = replace(
            plan,
            kept=tuple(replace(kept, layer=_unit(kept.layer)) for kept in plan.kept),
            sparsity={_unit(name): share for name, share in plan.sparsity.items()},
            protected=tuple(map(_unit, plan.protected)),
            parameters=_parameters(network, support),
        )
    return Installed(plan, support, found, manifest, folder)


def _renames(manifest: Manifest) -> bool:
    """Whether a model was pruned as transformers has it."""
    return isinstance(manifest.base, TransformersBase)


def _unit(name: str) -> str:
    """What a part or a tensor of transformers' is called in a list of units."""
    for pattern, new in _UNITS:
        if found := pattern.match(name):
            return new(found) + name[found.end() :]
    return name


def _same_network(folder: Path, manifest: Manifest, entries: Mapping[str, Entry], state: Mapping[str, Tensor]) -> None:
    """Refuse a folder whose parent has other tensors."""
    base = manifest.base
    what = f"model {base.name}" if isinstance(base, CatalogueBase) else "its model"
    way_out = f"take {what} with the options, input and classes that it had when it was pruned"
    if odd := sorted(entries.keys() ^ state.keys()):
        raise UserError(f"{folder} is of another network: {len(odd)} tensors differ, such as {odd[0]}; {way_out}")
    for name, entry in entries.items():
        if entry.of != tuple(state[name].shape):
            raise UserError(
                f"{folder} is of another network: {name} has shape {entry.of} there, and {tuple(state[name].shape)} "
                f"here; {way_out}"
            )


def _fingerprint(network: nn.Module, named: Mapping[str, str]) -> str:
    """The network's, by the names that its tensors had where it was pruned."""
    if all(theirs == ours for theirs, ours in named.items()):
        return fingerprint(network)
    state = network.state_dict()
    made: Any = nn.Module()
    made.state_dict = lambda: {theirs: state[ours] for theirs, ours in named.items()}
    return fingerprint(made)


def _stand_ins(manifest: Manifest) -> dict[str, Any]:
    """Masks that keep as many values as those of a file that stays closed, at other places for every file."""
    made = {}
    for name, entry in manifest.tensors.items():
        if entry.kept is not None:
            mask = np.zeros(entry.elements, np.bool_)
            mask[: entry.kept] = True
            made[name] = np.roll(mask, int(manifest.weights, 16) % entry.elements).reshape(entry.shape)
    return made


def _parameters(network: nn.Module, support: Support) -> int:
    """Parameters that a support leaves."""
    named = network.named_parameters()
    return sum(int(np.prod(support.shape(name, tuple(tensor.shape)))) for name, tensor in named)
