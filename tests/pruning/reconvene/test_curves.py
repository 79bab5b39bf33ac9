"""The curve of densities, and masks of exact sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim.errors import UserError
from fedsim.pruning.reconvene import Curve, Reconvene, masks, score
from fedsim.pruning.reconvene.curves import _histogram_threshold
from fedsim.pruning.reconvene.scores import scored
from tests.pruning.reconvene.networks import IMAGES, network

LABELS = torch.tensor([0, 2])


def wide() -> nn.Sequential:
    """Enough weights for densities to mean something."""
    torch.manual_seed(2)
    convolutions = (nn.Conv2d(2, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize("name", ["random", "magnitude", "synflow"])
def test_densities_fall_evenly_on_a_logarithmic_scale(name: str) -> None:
    """From the whole model to the lowest density, all weights together."""
    curve = score(wide(), Reconvene(score=name, iterations=6, lowest_density=1 / 16), IMAGES, LABELS)
    overall = curve.kept.sum(1) / sum(curve.sizes)
    assert curve.kept[0].tolist() == list(curve.sizes)
    assert overall == pytest.approx(16 ** -(np.arange(7) / 6), rel=0.02)
    assert (np.diff(curve.kept, axis=0) <= 0).all()


def test_weights_that_have_no_score_go_together() -> None:
    """Behind dead units half of the weights score zero: those steps keep all of them, or none."""
    model = wide()
    with torch.no_grad():
        model.get_parameter("2.bias")[:16] = -100
    curve = score(model, Reconvene(score="snip", iterations=6, lowest_density=1 / 16), IMAGES, LABELS)
    alive = sum(int(mask.sum()) for mask in masks(model, Reconvene(score="snip"), 3840, IMAGES, LABELS).values())
    assert alive == 3840
    overall = curve.kept.sum(1)
    assert (np.diff(overall) <= 0).all()
    assert overall[-1] == pytest.approx(7440 / 16, rel=0.02)
    assert 0.4 < overall[1] / 7440 < 0.63


def test_one_run_passes_through_all_densities() -> None:
    """After 3 of 6 iterations it is where a run of 3 iterations ends, to the last weight."""
    long = score(wide(), Reconvene(iterations=6, lowest_density=1 / 64), IMAGES)
    short = score(wide(), Reconvene(iterations=3, lowest_density=1 / 8), IMAGES)
    assert np.array_equal(long.kept[:4], short.kept)
    assert all(np.array_equal(long.filters[name][:4], short.filters[name]) for name in long.layers)


def forked() -> nn.Sequential:
    """Two paths, of which the first goes in the first of two iterations: SynFlow scores 12, 15, 18, 24 and 27, 42.

    The four highest that are left have one whose path is gone: scored again, it is the lowest.
    """
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[2.0, -2.5], [3.0, 4.0]]))
        model.get_parameter("1.weight").copy_(torch.tensor([[-6.0, 6.0]]))
    return model


def test_weights_are_scored_anew_in_every_iteration() -> None:
    """Of 6 weights to 4 to 3; then all flow runs through what is left of each layer."""
    curve = score(forked(), Reconvene(iterations=2, lowest_density=0.45), torch.zeros(1, 2))
    assert curve.kept.tolist() == [[4, 2], [2, 2], [2, 1]]
    whole, middle, last = curve.filters["0"]
    assert whole == pytest.approx([27 / 69, 42 / 69])
    assert middle == pytest.approx([0, 42 / 69])
    assert last == pytest.approx([0, 1])
    assert curve.filters["1"][:, 0] == pytest.approx([1, 1, 1])


def test_masks_are_taken_in_iterations() -> None:
    """At once, the weight would stay whose path is gone."""
    iterated, once = (masks(forked(), Reconvene(), 3, torch.zeros(1, 2), iterations=each) for each in (2, 1))
    assert {name: mask.tolist() for name, mask in iterated.items()} == {
        "0.weight": [[False, False], [True, True]],
        "1.weight": [[False, True]],
    }
    assert {name: mask.tolist() for name, mask in once.items()} == {
        "0.weight": [[False, False], [False, True]],
        "1.weight": [[True, True]],
    }


def test_filters_have_the_scores_of_what_is_left() -> None:
    """With magnitudes: the sums of the weights above the threshold."""
    model = wide()
    curve = score(model, Reconvene(score="magnitude", iterations=2, lowest_density=0.25), IMAGES)
    weights = torch.cat([weight.detach().abs().flatten() for weight in scored(model).values()])
    for step, count in ((1, len(weights) / 2), (2, len(weights) / 4)):
        threshold = weights.sort(descending=True).values[round(count)]
        for name, weight in scored(model).items():
            left = weight.detach().abs() * (weight.abs() > threshold)
            assert curve.filters[name][step] == pytest.approx(left.flatten(1).sum(1).numpy(), rel=1e-5)
            assert curve.kept[step][curve.layers.index(name)] == int(left.count_nonzero())


def example(kept: list[list[int]], sizes: tuple[int, ...]) -> Curve:
    """A curve of given counts."""
    return Curve(
        score="synflow",
        parent="",
        seed=0,
        data=False,
        layers=tuple("abc"[: len(sizes)]),
        sizes=sizes,
        lowest=0.25,
        kept=np.array(kept),
        filters={name: np.arange(3.0 * len(kept)).reshape(-1, 3) for name in "abc"[: len(sizes)]},
        seconds=0.0,
    )


def test_densities_between_steps_and_beyond() -> None:
    """The geometric mean in the middle; beyond the last step as far again each time; half a weight stands for none."""
    curve = example([[100, 100], [64, 40], [16, 0]], (100, 100))
    assert curve.at(0) == {"a": 1.0, "b": 1.0}
    assert curve.at(1.5) == pytest.approx({"a": 0.32, "b": (0.4 * 0.005) ** 0.5})
    assert curve.at(4) == pytest.approx({"a": 0.16**2, "b": 0.005**2})
    assert curve.step_of(0.5) == pytest.approx(1.0)
    assert curve.step_of(0.25) == pytest.approx(2.0)
    assert curve.collapsed(1.0) == ()
    assert curve.collapsed(1.1) == ("b",)
    assert curve.ranking("a", 0.5).tolist() == [3, 4, 5]
    assert curve.ranking("a", 7).tolist() == [6, 7, 8]


def test_the_same_curve_has_the_same_digest() -> None:
    """Another seed, another score, and other weights have not."""
    options = Reconvene(score="random", iterations=2)
    curves = [score(wide(), options, IMAGES, seed=seed) for seed in (0, 0, 1)]
    assert curves[0].digest == curves[1].digest != curves[2].digest


@given(st.integers(0, 1000), st.integers(1, 4000), st.sampled_from([torch.float32, torch.float64]))
def test_histogram_thresholds(seed: int, count: int, dtype: torch.dtype) -> None:
    """As many above it as asked for, but for a bin; of scores as far apart as they may be, with zeros among them."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.exp2(torch.randn(5000, generator=draw, dtype=dtype) * 20)
    values[::5] = 0
    threshold = _histogram_threshold([values[:2000], values[2000:]], count)
    assert abs(int((values > threshold).sum()) - count) <= 12


def test_equal_scores_are_kept_or_go_together() -> None:
    """Of a bin with more than enough, whichever is nearer."""
    assert _histogram_threshold([torch.ones(10)], 9) < 1
    assert _histogram_threshold([torch.ones(10)], 1) >= 1
    assert _histogram_threshold([torch.zeros(10)], 5) == 0.0


@pytest.mark.parametrize("name", ["random", "snip", "synflow"])
@pytest.mark.parametrize("weights", [1, 137, 1000])
def test_masks_of_an_exact_size(name: str, weights: int) -> None:
    """To the weight."""
    found = masks(network(5, "bn"), Reconvene(score=name), weights, IMAGES, LABELS, iterations=5)
    assert sum(int(mask.sum()) for mask in found.values()) == weights
    assert all(mask.dtype == torch.bool for mask in found.values())


def test_masks_that_cannot_be() -> None:
    """More weights than there are, or none."""
    with pytest.raises(UserError, match="0 weights cannot be kept of 7440; ask for 1 to 7440"):
        masks(wide(), Reconvene(), 0, IMAGES)
