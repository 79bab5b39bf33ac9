"""Plans of Mosaic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as some

from fedsim.errors import UserError
from fedsim.payload.supports import Support
from fedsim.pruning import counting
from fedsim.pruning.mosaic import Calibration, Mosaic, apply, plan, rank, sparsify
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Decoders, found
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import fingerprint
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import


def share_kept(model: Any, made: Plan) -> float:
    """Of the projections' weights: the share that may be other than zero, by the plan's own numbers."""
    total = left = 0.0
    for block in found(Decoders(), model):
        cut = {kept.kind: len(kept.indices) / kept.of for kept in made.kept if kept.layer in block.projections.values()}
        groups = cut.get("kv_groups", 1.0)
        rows = {"q": groups * cut.get("query_heads", 1.0), "k": groups, "v": groups}
        rows |= {"o": rows["q"]} | dict.fromkeys(("gate", "up", "down"), cut.get("mlp_channels", 1.0))
        for p in PROJECTIONS:
            total += block.elements(p)
            left += block.elements(p) * rows[p] * (1 - made.sparsity.get(block.weight(p), 0.0))
    return left / total


@pytest.mark.parametrize(
    "options",
    [
        Mosaic(sparsity=0.6),
        Mosaic(sparsity=0.6, policy="layer", strength=0.04),
        Mosaic(sparsity=0.7, policy="uniform", alpha=0.25),
        Mosaic(sparsity=0.6, alpha=0.5),
        Mosaic(sparsity=0.5, alpha=0.5, kv_unit="query_head"),
        Mosaic(sparsity=0.6, alpha=0.75, policy="projection-own", round_to=1),
        Mosaic(sparsity=0.6, alpha=0.5, policy="projection-released"),
    ],
)
def test_both_steps_together_remove_what_was_asked_for(options: Mosaic) -> None:
    """Exactly, for any split between them."""
    model = tiny.whole()
    made = plan(model, rank(model, tiny.windows(), options), options)
    assert share_kept(model, made) == pytest.approx(1 - options.sparsity, abs=1e-9)
    assert bool(made.kept) == bool(options.alpha)
    assert all(0 <= share <= options.most for share in made.sparsity.values())


def test_alpha_of_one_cuts_only_and_of_zero_does_not() -> None:
    """The pure methods; the cut is as near as whole channels allow."""
    model = tiny.whole()
    ranking = rank(model, tiny.windows())
    structured = plan(model, ranking, Mosaic(sparsity=0.5, alpha=1.0, round_to=1))
    assert not structured.sparsity
    assert share_kept(model, structured) == pytest.approx(0.5, abs=0.004)
    unstructured = plan(model, ranking, Mosaic(sparsity=0.5))
    assert not unstructured.cuts
    assert unstructured.parameters == sum(p.numel() for p in model.parameters())


def test_the_same_plan_byte_for_byte() -> None:
    """From the same model and windows, ranked anew; and through its own text."""
    texts = set()
    for _ in range(2):
        model = tiny.units()
        options = Mosaic(sparsity=0.6, alpha=0.5, scope=("block1", "block2"))
        texts.add(plan(model, rank(model, tiny.windows()), options).text())
    (text,) = texts
    assert Plan.parse(text).text() == text


def test_one_ranking_serves_every_target() -> None:
    """Plans for other options say the same source."""
    model = tiny.whole()
    ranking = rank(model, tiny.windows())
    plans = [plan(model, ranking, Mosaic(sparsity=s, alpha=a)) for s in (0.3, 0.7) for a in (0.0, 0.5)]
    assert {made.source for made in plans} == {ranking.digest}
    assert len({made.digest for made in plans}) == 4


def test_the_highest_scores_stay() -> None:
    """Groups, heads within each group, and channels; of equal scores the first."""
    model = tiny.whole()
    ranking = rank(model, tiny.windows())
    first = ranking.blocks[0]
    units = replace(
        first.units,
        groups=torch.tensor([1.0, 3.0, 2.0]),
        heads=torch.tensor([1.0, 2.0, 2.0, 5.0, 9.0, 4.0, 0.0, 0.0, 0.0]),
        channels=torch.arange(64.0),
    )
    ranked = replace(ranking, blocks=(replace(first, units=units), *ranking.blocks[1:]))
    options = Mosaic(sparsity=0.35, alpha=1.0, policy="uniform", scope=("model.layers.0",))
    groups, channels = plan(model, ranked, options).kept
    assert (groups.layer, groups.kind, groups.of) == ("model.layers.0.self_attn.q_proj", "kv_groups", 3)
    assert groups.indices == (1, 2)
    assert channels.layer == "model.layers.0.mlp.gate_proj"
    assert channels.indices == tuple(range(64 - len(channels.indices), 64))
    heads, _ = plan(model, ranked, replace(options, kv_unit="query_head")).kept
    assert (heads.kind, heads.of, heads.indices) == ("query_heads", 9, (1, 2, 3, 4, 6, 7))


def test_scopes_and_spared_blocks() -> None:
    """The share is that of the blocks in scope; spared ones lose no units."""
    model = tiny.whole(blocks=4)
    ranking = rank(model, tiny.windows())
    scope = ("model.layers.1", "model.layers.2")
    made = plan(model, ranking, Mosaic(sparsity=0.5, scope=scope))
    assert {name.rsplit(".", 3)[0] for name in made.sparsity} == set(scope)
    assert share_kept(model, made) == pytest.approx(0.75)
    spared = plan(model, ranking, Mosaic(sparsity=0.4, alpha=1.0, protect_blocks=1, round_to=1))
    assert {kept.layer.rsplit(".", 2)[0] for kept in spared.kept} == set(scope)
    assert share_kept(model, spared) == pytest.approx(0.6, abs=0.004)


def test_options_are_json_with_nothing_left_out() -> None:
    """Resolved, scope included."""
    model = tiny.whole()
    made = plan(model, rank(model, tiny.windows()), Mosaic(scope=("model.layers.0",)))
    assert Mosaic(**{**made.options, "scope": tuple(made.options["scope"])}) == Mosaic(scope=("model.layers.0",))
    assert made.options["scope"] == ["model.layers.0"]


@pytest.mark.parametrize(
    "options",
    [
        Mosaic(sparsity=0.6),
        Mosaic(sparsity=0.5, alpha=1.0),
        Mosaic(sparsity=0.5, alpha=0.5, kv_unit="query_head"),
        Mosaic(sparsity=0.4, alpha=1.0, scope=("block2",)),
    ],
)
def test_macs_of_a_list_of_units_are_exact(options: Mosaic) -> None:
    """Those that are counted in the model that is made then; of whole models, whose samples have no length, none."""
    model = tiny.units(3)
    made = plan(model, rank(model, tiny.windows()), options)
    cut, _ = apply(model, made, tiny.windows())
    assert made.macs == counting.macs(cut.module, tiny.windows(1))
    assert not any(parameter.is_meta for parameter in model.parameters())
    whole = tiny.whole()
    assert plan(whole, rank(whole, tiny.windows()), replace(options, scope=())).macs is None


FREE: dict[str, Any] = {"policy": "uniform", "pruner": "magnitude", "unit_score": "magnitude", "update": "none"}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_plans_by_magnitudes_alone_are_data_free(alpha: float) -> None:
    """Neither cut nor zeros change when the windows do; any other choice depends on them, and says whose they are."""
    model = tiny.units()
    private = Calibration(tokens=tiny.windows(), privacy="device-private")
    other = Calibration(tokens=tiny.windows(seed=9), privacy="device-private")
    options = Mosaic(alpha=alpha, **FREE)
    made = []
    for text in (private, other):
        planned = plan(model, rank(model, text, options), options)
        cut, _ = apply(model, planned, text)
        made.append((planned, fingerprint(sparsify(cut, planned, text).module)))
    assert made[0][1] == made[1][1]
    assert made[0][0].privacy == "data-free"
    assert made[0][0].kept == made[1][0].kept
    assert made[0][0].sparsity == made[1][0].sparsity
    changes: list[dict[str, Any]] = [{"policy": "layer"}]
    changes += [{"pruner": "wanda"}] if alpha < 1 else []
    changes += [{"update": "least_squares"}, {"unit_score": "wanda"}] if alpha else []
    for changed in changes:
        told = replace(options, **changed)
        assert plan(model, rank(model, private, told), told).privacy == "device-private"


def test_what_matters_for_privacy() -> None:
    """Of the order with zeros first, emptiness chooses units: by whatever set the zeros."""
    assert Mosaic(alpha=0.5, order="unstructured-first", **FREE | {"unit_score": "wanda"}).data_free
    assert not Mosaic(alpha=0.5, order="unstructured-first", **FREE | {"pruner": "wanda"}).data_free
    assert Mosaic(policy="uniform", pruner="magnitude").data_free, "nothing is cut"
    assert not Mosaic().data_free


shares = some.sampled_from([0.2, 0.3, 0.45, 0.6])
splits = some.sampled_from([0.0, 0.5, 1.0])
kinds: some.SearchStrategy[Any] = some.sampled_from(["group", "query_head"])
policies = some.sampled_from(["uniform", "layer", "projection", "projection-own"])


@settings(max_examples=25, deadline=None)
@given(*(some.tuples(each, each, each) for each in (shares, splits, kinds)), policies, some.booleans())
def test_smaller_variants_lie_within_larger_ones(
    sparsities: tuple[float, ...], alphas: tuple[float, ...], kv_units: Any, policy: str, listed: bool
) -> None:
    """Whatever they are asked for: no tensor has an index that the larger one lacks, and the cut passes its checks."""
    model = tiny.units() if listed else tiny.whole()
    ranking = rank(model, tiny.windows())
    outer: Plan | None = None
    held: Support | None = None
    for sparsity, alpha, unit in zip(sorted(sparsities), alphas, kv_units, strict=True):
        options = Mosaic(
            sparsity=sparsity, alpha=alpha, kv_unit=unit, policy=policy, round_to=4, update="none", strength=0.15
        )
        try:
            inner = plan(model, ranking, options, within=outer)
        except UserError as error:
            assert "cannot be cut out" in str(error)  # noqa: PT017  # a share that heads and channels cannot make up
            reject()
        support = apply(model, inner, tiny.windows())[0].support
        if outer is not None and held is not None:
            assert lies_within(support, held)
            assert inner.parameters <= outer.parameters
        assert share_of_projections(model, inner) <= 1 - sparsity + 0.05
        outer, held = inner, support


def lies_within(smaller: Support, larger: Support) -> bool:
    """Whether every tensor that the larger one cuts has none but its indices."""
    return all(
        kept is None or (name in smaller.axes and mine is not None and bool(np.isin(mine, kept).all()))
        for name, axes in larger.axes.items()
        for kept, mine in zip(axes, smaller.axes.get(name, axes), strict=True)
    )


def share_of_projections(model: Any, made: Plan) -> float:
    """What may be other than zero, counted in the model that the plan makes."""
    cut, _ = apply(model, made, tiny.windows())
    weights = tiny.projected(cut.module)
    left = sum(weight.numel() * (1 - made.sparsity.get(name, 0.0)) for name, weight in weights.items())
    return left / sum(weight.numel() for weight in tiny.projected(model).values())


def test_what_cannot_be_planned() -> None:
    """Shares out of reach, and the order that has to see zeros first."""
    model = tiny.whole()
    ranking = rank(model, tiny.windows())
    with pytest.raises(UserError, match=r"93.00% of the decoder blocks' parameters cannot be cut out .* is 80.56%"):
        plan(model, ranking, Mosaic(sparsity=0.93, alpha=1.0))
    with pytest.raises(UserError, match=r"order unstructured-first chooses .*; call mosaic.prune, or take order"):
        plan(model, ranking, Mosaic(alpha=0.5, order="unstructured-first"))
    with pytest.raises(UserError, match="scope 'block3' matches no decoder block"):
        plan(model, ranking, Mosaic(scope=("block3",)))
