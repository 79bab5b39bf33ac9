"""Counts before the cut, and what a cut keeps, over random networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.pruning import counting
from fedsim.pruning.plans import Kept, Plan
from fedsim.pruning.pruned import Pruned, fingerprint
from fedsim.pruning.reconvene.coupling import Coupling, couple
from fedsim.pruning.reconvene.tracing import Ints, Port
from fedsim.pruning.resizing import sliced
from fedsim.pruning.verifying import verify
from tests.pruning.reconvene.networks import IMAGES, Dense, Depthwise, Plain, Projected, Squeeze, network


def chosen(coupling: Coupling, draw: np.random.Generator) -> list[Ints]:
    """Some units of each set, at least one."""
    some = [draw.permutation(units)[: draw.integers(1, units + 1)] for units in coupling.units.tolist()]
    return [np.sort(units) for units in some]


def cut(model: nn.Module, coupling: Coupling, units: list[Ints]) -> Pruned:
    """The cut model, with a plan that predicts its size."""
    support = coupling.support(units)
    parameters, macs = coupling.counts(np.array([len(some) for some in units]))
    kept = tuple(
        Kept(
            layer=name, kind="filters", of=coupling.width(name), indices=tuple(coupling.outputs(support, name).tolist())
        )
        for name in dict.fromkeys(each.name for each in coupling.sets)
    )
    plan = Plan(
        method="test",
        parent=fingerprint(model),
        seed=0,
        options={},
        source="",
        kept=kept,
        parameters=parameters,
        macs=macs,
        privacy="data-free",
    )
    return Pruned(module=sliced(model, support), plan=plan, support=support)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(["bn", "gn", "frozen_bn"]))
@pytest.mark.slow
def test_any_choice_of_units_is_a_sound_cut(seed: int, norm: str) -> None:
    """Equal to the parent with the rest held at zero, and of exactly the predicted parameters and MACs."""
    model = network(seed, norm)
    coupling = couple(model, IMAGES)
    assert coupling.sets
    pruned = cut(model, coupling, chosen(coupling, np.random.default_rng(seed)))
    checks = verify(model, pruned, IMAGES, nothing=True)
    assert checks.difference < 1e-5
    assert checks.parameters == pruned.plan.parameters
    assert counting.macs(pruned.module, IMAGES) == pruned.plan.macs
    given = {kept.layer: kept.indices for kept in pruned.plan.kept}
    assert coupling.support(coupling.chosen(given)) == pruned.support


@settings(max_examples=15)
@given(st.integers(0, 10_000))
@pytest.mark.slow
def test_a_scope_leaves_the_rest_alone(seed: int) -> None:
    """Only tensors inside lose anything, and what leaves it is as wide as before."""
    model = network(seed, "bn")
    coupling = couple(model, IMAGES, scope=("0", "1", "2"))
    support = coupling.support([np.arange(1) for _ in coupling.sets])
    assert all(name.partition(".")[0] in ("0", "1", "2") for name in support.axes)
    body: Any = sliced(model, support)
    assert body[:3](IMAGES).shape == nn.Sequential(*list(model.children())[:3])(IMAGES).shape


# --------------------------------------------------------------------------------- torch-pruning's own cut


def torch_pruned(model: nn.Module, layers: dict[str, list[int]]) -> dict[str, tuple[list[int] | None, ...]]:
    """By tensor, the indices that stay when torch-pruning takes outputs of these layers out of a copy of the model.

    The copy holds coordinates in place of values, so that what is left says where it has come from.
    """
    from copy import deepcopy

    import torch_pruning

    coordinates = deepcopy(model).double()
    shapes = {name: tensor.shape for name, tensor in coordinates.state_dict().items()}
    with torch.no_grad():
        for name, tensor in coordinates.state_dict().items():
            if tensor.dim():
                tensor.copy_(torch.arange(tensor.numel()).view(shapes[name]))
    graph = torch_pruning.DependencyGraph().build_dependency(coordinates, IMAGES.double(), verbose=False)
    for layer, outputs in layers.items():
        module: Any = coordinates.get_submodule(layer)
        graph.get_pruning_group(module, torch_pruning.prune_conv_out_channels, outputs).prune()
    found = {}
    for name, tensor in coordinates.state_dict().items():
        if tensor.shape != shapes[name]:
            places = np.unravel_index(tensor.long().numpy(), shapes[name])
            found[name] = tuple(
                sorted(set(axis.ravel().tolist())) if axis.shape[number] != shapes[name][number] else None
                for number, axis in enumerate(places)
            )
    return found


def test_torch_pruning_cuts_the_same() -> None:
    """Where torch-pruning is right: residual, depthwise, squeezed and concatenated layers, and flattened maps."""
    torch.manual_seed(0)
    parts = (Plain(2, 6, "bn"), Depthwise(6, 6, "bn"), Squeeze(6, 5, "bn"), Dense(5, 4, "bn"), Projected(9, 7, "bn"))
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(63, 3)).eval()
    coupling = couple(model, IMAGES)
    gone = {each.name: [0, each.units - 1] for each in coupling.sets}
    units = [np.setdiff1d(np.arange(each.units), gone[each.name]) for each in coupling.sets]
    ours = coupling.support(units)
    theirs = torch_pruned(model, gone)
    said = {name: tuple(None if a is None else a.tolist() for a in axes) for name, axes in ours.axes.items()}
    assert said == theirs
    assert len(said) > 20


# --------------------------------------------------------------------------------------------- by hand


def test_counts_by_hand() -> None:
    """Two convolutions on 4x4 and 2x2 places and a linear layer, with 3 of 4 and 1 of 2 units left."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 3, bias=False), nn.Flatten(), nn.Linear(8, 3))
    coupling = couple(model, IMAGES)
    assert coupling.counts(np.array([3, 1])) == (3 * 18 + 3 + 27 + 4 * 3 + 3, 16 * 54 + 4 * 27 + 12)
    assert coupling.counts(coupling.units)[0] == sum(p.numel() for p in model.parameters())


def test_transposed_convolutions() -> None:
    """They have their outputs along the second axis of the weight, and sweep their inputs."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ConvTranspose2d(4, 5, 2, stride=2), nn.Conv2d(5, 3, 1))
    coupling = couple(model, IMAGES)
    pruned = cut(model, coupling, [np.array([0, 2]), np.array([1, 3, 4])])
    assert verify(model, pruned, IMAGES).difference < 1e-5
    assert counting.macs(pruned.module, IMAGES) == pruned.plan.macs
    assert [a is None or a.tolist() for a in pruned.support.axes["1.weight"]] == [[0, 2], [1, 3, 4], True, True]


def test_units_in_several_places_stay_or_go_as_a_whole() -> None:
    """An index list that splits one is no cut of this model."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), Dense(4, 3, "bn"), nn.Conv2d(7, 3, 1))
    coupling = couple(model, IMAGES)
    assert [units.tolist() for units in coupling.chosen({"0": [1, 3]})] == [[1, 3], [0, 1, 2]]
    from tests.pruning.reconvene.test_tracing import Twice

    twice = couple(Twice(), IMAGES)
    assert twice.sets[0].places[Port("narrow", "out")].tolist() == [[0], [1], [2]]
