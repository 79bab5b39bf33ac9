"""The five checks after every cut: it runs, it is equivalent, as large as planned, smaller, and shares what was shared.

Every layer that was cut is compared with the reference of `references`, so an error names the first layer that is
wrong. Nothing but the plan's numbers and the support is believed of what was cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.pruning.checks import Checks
from fedsim.pruning.pruned import Pruned, PruningError
from fedsim.pruning.references import kept_part, parts, probes, reference, writing_axis
from fedsim.pruning.watching import WHOLE, Example, Watched, call, evaluating, mixing, raised, tensors, watching


def verify(
    parent: nn.Module, pruned: Pruned, example: Example, *, tolerance: float = 1e-5, nothing: bool = False
) -> Checks:
    """Compare a model with its parent, directly after the cut: before new initial values and before masks.

    Both run in eval mode and are left as they were. GroupNorm, LayerNorm and RMSNorm over channels some of which are
    gone would see other statistics; they are compared as their scale and shift alone.

    Args:
        example: an input of one or two samples; memory for the outputs of the cut layers of both models is needed.
        tolerance: the greatest difference, as a share of the greatest output of a layer. Where single precision is
            further off, double precision decides.
        nothing: whether a plan that removes nothing was asked for.

    Raises:
        PruningError: naming the layer.
    """
    assert not pruned.support.masks, "the cut is verified before the unstructured step"
    _same_names(parent, pruned)
    shared = _shared(parent, pruned.module)
    removed = _removed(parent, pruned, nothing=nothing)
    parameters = _size(parent, pruned)
    _grouped(pruned.module)
    with evaluating(parent), evaluating(pruned.module):
        gradients = _runs(pruned.module, example)
        _same_values(parent, pruned)
        difference, compared = _equivalent(parent, pruned, example, tolerance)
    return Checks(
        gradients=gradients,
        difference=difference,
        compared=compared,
        tolerance=tolerance,
        parameters=parameters,
        removed=removed,
        shared=shared,
    )


def held(module: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def ties(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Groups of names under which one tensor stands, in the model's order."""
    groups: dict[int, list[str]] = {}
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    for name, tensor in named:
        groups.setdefault(id(tensor), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


# ------------------------------------------------------------------------------------------ what it is


def _same_names(parent: nn.Module, pruned: Pruned) -> None:
    """The same tensors by name, of shapes that the support says, in memory of their own."""
    ours, theirs = parent.state_dict(), pruned.module.state_dict()
    for name in sorted(ours.keys() ^ theirs.keys()):
        where = "the parent has it, the smaller model does not" if name in ours else "the parent does not have it"
        raise PruningError(f"{name}: {where}; a cut leaves all names as they are")
    for name in sorted({*pruned.support.axes, *pruned.updated} - ours.keys()):
        raise PruningError(f"{name}: the support or the list of updated tensors names it, but the parent has no such")
    memory = {t.untyped_storage().data_ptr() for t in ours.values() if t.numel()}
    for name, tensor in theirs.items():
        said = pruned.support.shape(name, tuple(ours[name].shape))
        if tuple(tensor.shape) != said:
            raise PruningError(f"{name}: shape {tuple(tensor.shape)}, but the support says {said}")
        if tensor.numel() and tensor.untyped_storage().data_ptr() in memory:
            raise PruningError(f"{name}: lies in the parent's memory; a cut model has memory of its own")


def _shared(parent: nn.Module, module: nn.Module) -> tuple[tuple[str, ...], ...]:
    before, after = ties(parent), ties(module)
    for names in before:
        if names not in after:
            raise PruningError(f"{' and '.join(names)}: one tensor in the parent, several in the smaller model")
    for names in after:
        if names not in before:
            raise PruningError(f"{' and '.join(names)}: one tensor in the smaller model, several in the parent")
    return after


def _removed(parent: nn.Module, pruned: Pruned, *, nothing: bool) -> int:
    plan = pruned.plan
    removed = held(parent) - held(pruned.module)
    if removed > 0 or nothing:
        return removed
    if plan.cuts:
        layer = next(kept.layer for kept in plan.kept if len(kept.indices) < kept.of)
        raise PruningError(f"{layer}: to be cut by the plan, but nothing was removed: {held(pruned.module)} parameters")
    if not plan.sparsity:
        chosen = ", ".join(kept.layer for kept in plan.kept) or "no layer at all"
        raise PruningError(f"nothing is removed: the plan keeps every unit of {chosen}, and sets nothing to zero")
    return removed


def _size(parent: nn.Module, pruned: Pruned) -> int:
    """As the plan predicts in all, and layer by layer."""
    plan, state = pruned.plan, parent.state_dict()
    for kept in plan.kept:
        name = f"{kept.layer}.weight"
        if kept.kind not in ("filters", "features") or name not in state:
            continue
        axis = writing_axis(parent.get_submodule(kept.layer), state[name])
        axes = pruned.support.axes.get(name)
        said = None if axes is None else axes[axis]
        got = tuple(range(state[name].shape[axis])) if said is None else tuple(said.tolist())
        if got != kept.indices:
            raise PruningError(
                f"{kept.layer}: the plan keeps {len(kept.indices)} of {kept.of} {kept.kind}, the cut {len(got)}"
                + (", but other ones" if len(got) == len(kept.indices) else "")
            )
    parameters = held(pruned.module)
    if parameters != plan.parameters:
        first = next((kept.layer for kept in plan.kept if len(kept.indices) < kept.of), "no layer")
        raise PruningError(
            f"{parameters} parameters after the cut, but the plan predicts {plan.parameters}; the first layer that it "
            f"cuts is {first}"
        )
    return parameters


def _grouped(module: nn.Module) -> None:
    """How many query heads share a key head, which not every kernel of attention looks at."""
    for name, part in module.named_modules():
        attention: Any = part
        if hasattr(part, "num_key_value_groups"):
            queries, keys = (len(projection.weight) for projection in (attention.q_proj, attention.k_proj))
            if queries != keys * attention.num_key_value_groups:
                raise PruningError(
                    f"{name}: num_key_value_groups is {attention.num_key_value_groups}, but {queries} rows of queries "
                    f"and {keys} of keys are left"
                )


def _same_values(parent: nn.Module, pruned: Pruned) -> None:
    """What was kept has the parent's values."""
    ours, theirs = parent.state_dict(), pruned.module.state_dict()
    for name, tensor in theirs.items():
        kept = kept_part(ours[name], pruned.support, name)
        if name not in pruned.updated and not torch.equal(kept, tensor):
            count = int((kept != tensor).sum())
            raise PruningError(
                f"{name}: {count} of {tensor.numel()} values are not the parent's where the support says"
            )


# ------------------------------------------------------------------------------------------ what it does


def _runs(module: nn.Module, example: Example) -> int:
    """Forward and backward on the example; returns how many gradients there are."""
    wanted = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    watched = Watched()
    with torch.enable_grad(), watching(module, watched, {}, frozenset()):
        outputs = call(module, {}, example, watched)
        for tensor in outputs:
            if not bool(tensor.isfinite().all()):
                raise PruningError(f"{WHOLE}: values that are not finite")
        parts = [tensor.sum() for tensor in outputs if tensor.requires_grad]
        if not parts or not wanted:
            return 0
        try:
            gradients = torch.autograd.grad(sum(parts[1:], parts[0]), [p for _, p in wanted], allow_unused=True)
        except RuntimeError as error:
            raise PruningError(f"{watched.entered}: the backward fails: {error}") from error
    for (name, _), gradient in zip(wanted, gradients, strict=True):
        if gradient is not None and not bool(gradient.isfinite().all()):
            raise PruningError(f"{name}: its gradient is not finite")
    return sum(gradient is not None for gradient in gradients)


def _equivalent(parent: nn.Module, pruned: Pruned, example: Example, tolerance: float) -> tuple[float, int]:
    """The greatest difference, and the number of outputs compared: with their own values, then with probes."""
    held_at_zero = reference(parent, pruned)
    ours, theirs = probes(parent, pruned)
    runs = [(held_at_zero, dict[str, Tensor]())]
    if ours:
        runs.append(({**held_at_zero, **ours}, theirs))
    greatest, compared = 0.0, 0
    for before, after in runs:
        differences = _differences(parent, before, pruned, after, example, torch.float32)
        if any(not difference <= tolerance for _, difference in differences):
            differences = _differences(parent, before, pruned, after, example, torch.float64)
        for name, difference in differences:
            if not difference <= tolerance:
                raise PruningError(
                    f"{name}: differs from the parent's, with what was removed held at zero, by {difference:.2g} of "
                    f"its greatest value, and {tolerance:g} is allowed"
                )
            greatest = max(greatest, difference)
        compared += len(differences)
    return greatest, compared


def _differences(
    parent: nn.Module,
    before: Mapping[str, Tensor],
    pruned: Pruned,
    after: Mapping[str, Tensor],
    example: Example,
    least: torch.dtype,
) -> list[tuple[str, float]]:
    """Of every output of both, in order, in precision `least` or better."""
    layers = {parts(name)[0] for name, axes in pruned.support.axes.items() if any(kept is not None for kept in axes)}
    kept = {name: _written(parent, pruned, name) for name in layers}
    plain = frozenset(mixing(parent, pruned.module))
    found: list[list[tuple[str, Tensor]]] = []
    for module, values, wanted in ((parent, before, kept), (pruned.module, after, dict.fromkeys(kept))):
        watched = Watched()
        precise = {name: raised(t, least) for name, t in {**tensors(module), **values}.items()}
        with torch.no_grad(), watching(module, watched, wanted, plain):
            outputs = call(module, precise, raised(example, least), watched)
        found.append([*watched.outputs, *((WHOLE, output) for output in outputs)])
    ours, theirs = found
    if [name for name, _ in ours] != [name for name, _ in theirs]:
        raise PruningError(f"{WHOLE}: the smaller model calls other layers than the parent, or in another order")
    differences = []
    for (name, wanted_output), (_, output) in zip(ours, theirs, strict=True):
        if wanted_output.shape != output.shape:
            if name == WHOLE:
                shapes = f"{tuple(output.shape)}, the parent's {tuple(wanted_output.shape)}"
                raise PruningError(f"{WHOLE}: shape {shapes}; the width of the output must stay")
            continue  # a layer that sees heads as an axis of its own
        differences.append((name, _difference(wanted_output, output)))
    return differences


def _difference(wanted: Tensor, output: Tensor) -> float:
    if not wanted.numel():
        return 0.0
    scale = float(wanted.abs().max())
    return float((wanted - output).abs().max()) / (scale or 1.0)


def _written(parent: nn.Module, pruned: Pruned, layer: str) -> Tensor | None:
    """The channels of a layer's output that stay; None where all do."""
    module = parent.get_submodule(layer)
    for tensor in ("weight", "running_mean", "bias"):
        name = f"{layer}.{tensor}" if layer else tensor
        axes = pruned.support.axes.get(name)
        if axes is not None:
            kept = axes[writing_axis(module, getattr(module, tensor))]
            return None if kept is None else torch.from_numpy(kept)
    return None
