"""Advice on the kind of pruning, from the profile of a device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedsim.errors import UserError
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.profiles import Profile
from fedsim.pruning import counting
from fedsim.pruning.mosaic import Mosaic, Ranking, advise, apply, rank, sparsify
from fedsim.pruning.mosaic.composing import composed
from fedsim.pruning.mosaic.platforms import SHARES, Forecast, Needs
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import

SPEED, BANDWIDTH = 1e6, 2e6
"""MAC/s and bytes/s of a device so slow that a tiny model takes milliseconds."""
RUNTIME = 10_000


def device(usable: int = 10**9, **changed: Any) -> Machine:
    """A device with a roofline, and so much memory."""
    said: dict[str, Any] = {
        "schema": 1,
        "id": "toy-board",
        "name": "a board",
        "kind": "board",
        "cost_model": "roofline",
        "processors": {
            "cpu": {
                "gemm": f"{2 * SPEED} FLOP/s",
                "bandwidth": f"{BANDWIDTH} B/s",
                "overhead": "0 s",
                "efficiency": {"linear": "100 %", "attention": "100 %"},
            }
        },
        "memory": {"capacity": "2 GB", "usable": f"{usable} B", "runtime": f"{RUNTIME} B"},
        "power": {"idle": "1 W", "busy": "2 W"},
    }
    return machine(Profile.model_validate(said | changed))


@pytest.fixture(scope="module")
def model() -> Any:
    """A model that is trained as little as a test's may be."""
    return tiny.whole(blocks=3)


@pytest.fixture(scope="module")
def ranking(model: Any) -> Ranking:
    """Its ranking."""
    return rank(model, tiny.windows())


def dense(model: Any, ranking: Ranking, needs: Needs | None = None) -> Forecast:
    """What the whole model takes."""
    return advise(model, ranking, device(), needs).dense


def test_figures_of_the_whole_model_by_hand(model: Any, ranking: Ranking) -> None:
    """Bytes of weights and of the cache as they are counted; a token's time by the roofline of its products."""
    found = dense(model, ranking, Needs(context=10))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert found.weights == found.download == 4 * parameters
    assert found.cache == counting.cache_bytes(model) == 3 * 2 * 3 * 4 * 4
    assert found.memory == RUNTIME + found.weights + 10 * found.cache + 4 * tiny.VOCABULARY
    block = 2 * 36 * 36 + 2 * 12 * 36 + 3 * 64 * 36
    products = 3 * block + 36 * tiny.VOCABULARY
    attended = 3 * 2 * 36 * 10
    assert found.macs == products + attended
    vectors = 3 * (2 * (36 + 36) + 2 * (36 + 12) + 3 * (36 + 64)) + 36 + tiny.VOCABULARY
    read = 4 * (products + vectors)
    cached = 3 * 2 * 12 * 10 * 4
    assert found.seconds == pytest.approx(read / BANDWIDTH + max(attended / SPEED, cached / BANDWIDTH))


def test_nothing_binds(model: Any, ranking: Ranking) -> None:
    """Then weights become zero, as many as the options say: fewer bytes to send, nothing else."""
    found = advise(model, ranking, device(), options=Mosaic(sparsity=0.6, alpha=0.3))
    assert (found.binds, found.kind, found.options.alpha, found.options.sparsity) == ((), "unstructured", 0.0, 0.6)
    assert not found.plan.cuts
    assert found.pruned.download < found.dense.download
    unchanged = replace(found.pruned, download=found.dense.download)
    assert unchanged == found.dense
    assert found.text.startswith("what binds is nothing: unstructured pruning of 60% (alpha 0). Memory ")


def test_only_the_download_binds(model: Any, ranking: Ranking) -> None:
    """Then weights become zero, too: the smallest share that can be sent."""
    most = dense(model, ranking).download * 7 // 10
    found = advise(model, ranking, device(), Needs(download=most))
    assert (found.binds, found.kind) == (("download",), "unstructured")
    assert found.pruned.download <= most
    fewer = SHARES[SHARES.index(found.options.sparsity) - 1]
    assert advise(model, ranking, device(), options=replace(found.options, sparsity=fewer)).pruned.download > most


def test_memory_binds(model: Any, ranking: Ranking) -> None:
    """Then a part is cut out, the smallest share that fits; a given alpha is taken if it is composite."""
    small = device(dense(model, ranking).memory * 8 // 10)
    found = advise(model, ranking, small)
    assert (found.binds, found.kind, found.options.alpha) == (("memory",), "composite", 0.5)
    assert found.plan.cuts
    assert found.plan.sparsity
    assert found.pruned.memory <= small.memory.usable < found.dense.memory
    fewer = SHARES[SHARES.index(found.options.sparsity) - 1]
    options = replace(found.options, sparsity=fewer)
    assert advise(model, ranking, device(), options=options, kind="composite").pruned.memory > small.memory.usable
    more = advise(model, ranking, small, options=Mosaic(alpha=0.9))
    assert more.options.alpha == 0.9
    assert more.options.sparsity < found.options.sparsity


def test_memory_binds_where_zeros_come_first(model: Any, ranking: Ranking) -> None:
    """The same share and widths as in the other order; the units are those that zeros leave fullest."""
    small = device(dense(model, ranking).memory * 8 // 10)
    options = Mosaic(order="unstructured-first", round_to=1)
    found = advise(model, ranking, small, options=options, windows=tiny.windows())
    other = advise(model, ranking, small, options=replace(options, order="structured-first"))
    assert found.plan == composed(model, ranking, found.options, tiny.windows())
    assert found.options == replace(other.options, order="unstructured-first")
    assert [len(kept.indices) for kept in found.plan.kept] == [len(kept.indices) for kept in other.plan.kept]
    assert found.plan.kept != other.plan.kept
    assert found.pruned.memory == other.pruned.memory
    with pytest.raises(UserError, match="a ranking alone gives no plan"):
        advise(model, ranking, small, options=options)


def test_time_binds(model: Any, ranking: Ranking) -> None:
    """Then all is cut out, whether or not memory binds as well."""
    needs = Needs(seconds=dense(model, ranking).seconds * 0.7)
    found = advise(model, ranking, device(), needs)
    assert (found.binds, found.kind, found.options.alpha) == (("time",), "structured", 1.0)
    assert not found.plan.sparsity
    assert needs.seconds is not None
    assert found.pruned.seconds <= needs.seconds < found.dense.seconds
    small = device(dense(model, ranking).memory * 8 // 10)
    both = advise(model, ranking, small, needs)
    assert (both.binds, both.kind) == (("memory", "time"), "structured")
    assert not both.pruned.misses(needs, small)
    assert "what binds is memory and time: structured pruning of" in both.text


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_forecasts_are_what_comes_of_the_plan(model: Any, ranking: Ranking, alpha: float) -> None:
    """Bytes of weights, cache and download are those of the model that is made then."""
    kind: Any = {0.0: "unstructured", 0.5: "composite", 1.0: "structured"}[alpha]
    found = advise(model, ranking, device(), options=Mosaic(sparsity=0.4), kind=kind)
    cut, _ = apply(model, found.plan, tiny.windows())
    done = sparsify(cut, found.plan, tiny.windows())
    sizes = counting.counts(done.module, {"input_ids": tiny.windows(1), "use_cache": False}, done.support)
    assert found.pruned.weights == 4 * sizes.parameters
    assert found.pruned.cache == sizes.cache
    assert found.pruned.download == sizes.wire
    assert found.options.alpha == alpha


def test_kinds_can_be_overridden(model: Any, ranking: Ranking) -> None:
    """Still the smallest share that does; where that kind cannot, the reason is said."""
    small = device(dense(model, ranking).memory * 8 // 10)
    found = advise(model, ranking, small, kind="structured")
    assert (found.kind, found.binds) == ("structured", ("memory",))
    assert found.pruned.memory <= small.memory.usable
    message = (
        r"no unstructured pruning makes the model fit toy-board: with 95% removed it still needs .* of .*; ask for"
    )
    with pytest.raises(UserError, match=message):
        advise(model, ranking, small, kind="unstructured")


def test_what_cannot_be_met(model: Any, ranking: Ranking) -> None:
    """The nearest is said; an error of every plan is handed on."""
    needs = Needs(seconds=dense(model, ranking).seconds / 100, download=100)
    message = r"no structured pruning .* removed it still takes .* a token, of .* and is .* to send, of 100 B; ask for"
    with pytest.raises(UserError, match=message):
        advise(model, ranking, device(), needs)
    with pytest.raises(UserError, match="scope 'block9' matches no decoder block"):
        advise(model, ranking, device(), needs, Mosaic(scope=("block9",)))


def test_other_cost_models(model: Any, ranking: Ranking) -> None:
    """By one speed for everything; a profile that knows times of whole training steps only prices no token."""
    scalar = device(cost_model="scalar", processors=None, speed=f"{SPEED} MAC/s")
    found = advise(model, ranking, scalar)
    assert found.dense.seconds == pytest.approx(found.dense.macs / SPEED)
    steps = device(cost_model="fedscale_scalar", processors=None, sample_time="5 ms")
    with pytest.raises(UserError, match="toy-board"):
        advise(model, ranking, steps)


def test_lists_of_units_are_advised_on_too() -> None:
    """With a head of its own, which weighs as much as the embedding."""
    model = tiny.units()
    found = advise(model, rank(model, tiny.windows()), device())
    assert found.dense.weights == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert found.pruned.download < found.dense.download


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context": 0}, "context 0 must be 1 or more"),
        ({"seconds": 0.0}, "seconds 0.0 must be above 0"),
        ({"download": 0}, "download 0 must be 1 or more"),
    ],
)
def test_needs_that_are_none(given: Any, message: str) -> None:
    """They are refused where they are said."""
    with pytest.raises(ValueError, match=message):
        Needs(**given)


def test_workspace_counts_and_query_heads_do_not_shrink_the_cache(model: Any, ranking: Ranking) -> None:
    """What a profile sets aside for kernels is no room for a model; keys and values stay where only queries go."""
    said = {"capacity": "2 GB", "usable": "1 GB", "runtime": f"{RUNTIME} B", "workspace": "5000 B"}
    assert advise(model, ranking, device(memory=said)).dense.memory == dense(model, ranking).memory + 5000
    options = Mosaic(sparsity=0.5, alpha=1.0, kv_unit="query_head", round_to=1)
    found = advise(model, ranking, device(), options=options, kind="structured")
    cut, _ = apply(model, found.plan, tiny.windows())
    assert found.pruned.cache == found.dense.cache == counting.cache_bytes(cut.module)
    assert found.pruned.macs < found.dense.macs
    step = counting.macs(cut.module, tiny.windows()[:1, :1])
    context = Needs().context
    whole: Any = cut.module
    heads = sum(layer.self_attn.q_proj.out_features for layer in whole.model.layers)
    assert found.pruned.macs == step - 2 * heads + 2 * heads * context
