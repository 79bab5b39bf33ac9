"""Partitions cover, do not overlap, respect sizes, and follow their generator only."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.data import PARTITIONS, ByShards, Contiguous, Dirichlet, Iid, Natural, Partition, Quantity, Shards
from fedsim.data.partitions import _level, _rounded, _top_up
from fedsim.errors import UserError
from fedsim.seeds import generator

partitions = st.one_of(
    st.builds(Iid),
    st.builds(Dirichlet, alpha=st.sampled_from([0.01, 0.1, 0.5, 100.0]), min_size=st.integers(1, 5)),
    st.builds(ByShards, per_device=st.integers(1, 4)),
    st.builds(Quantity, alpha=st.sampled_from([0.01, 1.0, 50.0]), min_size=st.integers(1, 5)),
    st.builds(Natural),
    st.builds(Contiguous, alpha=st.sampled_from([None, 0.1, 10.0]), min_size=st.integers(1, 5)),
)


def labels_of(samples: int, classes: int = 10) -> NDArray[np.int64]:
    """Labels at random, of every class about equally many."""
    return generator(0, -1, "labels", classes).integers(0, classes, samples)


def deal(partition: Partition, samples: int, devices: int, seed: int = 0, **kwargs: Any) -> Shards:
    """Deal samples with ten classes whose owners hold four each."""
    owners = np.arange(samples) // 4
    return partition.deal(labels_of(samples, **kwargs), owners, devices, generator(seed, -1, "partition"))


@given(partition=partitions, devices=st.integers(1, 40), extra=st.integers(0, 400), classes=st.integers(1, 12))
def test_covers_without_overlap(partition: Partition, devices: int, extra: int, classes: int) -> None:
    """Every sample is on exactly one device, and every device has what its options promise."""
    samples = devices * 5 + extra
    shards = deal(partition, samples, devices, classes=classes)
    assert len(shards) == devices
    np.testing.assert_array_equal(np.sort(shards.indices), np.arange(samples))
    assert shards.sizes().sum() == samples
    assert shards.sizes().min() >= getattr(partition, "min_size", 1)
    assert all((np.diff(shard) > 0).all() for shard in shards)


@given(partition=partitions, seed=st.integers(0, 2**40))
def test_follows_the_generator(partition: Partition, seed: int) -> None:
    """The same key gives the same shards; another seed gives others."""
    first, again, other = (deal(partition, 400, 8, s) for s in (seed, seed, seed + 1))
    np.testing.assert_array_equal(first.indices, again.indices)
    np.testing.assert_array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.indices, other.indices)


def test_shards_of_devices_are_not_correlated() -> None:
    """Label proportions of two devices correlate no more than chance over many draws (reseeding would give 1)."""
    labels = labels_of(4000)
    rng = generator(1, -1, "partition")
    pairs = []
    for _ in range(40):
        shards = Dirichlet(alpha=0.3).deal(labels, None, 20, rng)
        mixes = np.array([np.bincount(labels[shard], minlength=10) / len(shard) for shard in shards])
        pairs.append(np.corrcoef(mixes)[np.triu_indices(20, 1)])
    assert abs(float(np.mean(pairs))) < 0.08  # 20 mixes around the same mean: expected -1/(20 - 1) = -0.053


def test_iid_sizes_differ_by_one() -> None:
    """Equal shares, all labels alike."""
    assert set(deal(Iid(), 103, 10).sizes().tolist()) == {10, 11}


def test_small_alpha_is_more_skewed() -> None:
    """The largest class share of a device falls as alpha rises, towards that of the whole."""
    labels = labels_of(20_000)
    shares = []
    for alpha in (0.1, 1.0, 1000.0):
        shards = Dirichlet(alpha=alpha).deal(labels, None, 20, generator(2, -1, "partition"))
        shares.append(np.mean([np.bincount(labels[s], minlength=10).max() / len(s) for s in shards]))
    assert shares[0] > shares[1] + 0.1 > shares[2] + 0.2
    assert shares[2] < 0.15


def test_dirichlet_proportions_have_the_moments_of_the_distribution() -> None:
    """Shares of a class over K devices have mean 1/K and variance (K-1)/(K^2 (K alpha + 1))."""
    labels, devices, alpha = np.zeros(5000, np.int64), 5, 0.5
    rng = generator(3, -1, "partition")
    shares = np.array(
        [Dirichlet(alpha=alpha, min_size=1).deal(labels, None, devices, rng).sizes() / 5000 for _ in range(300)]
    )
    assert shares.mean() == pytest.approx(1 / devices)
    assert shares.var() == pytest.approx((devices - 1) / (devices**2 * (devices * alpha + 1)), rel=0.1)


def test_by_shards_limits_the_classes() -> None:
    """Two runs of sorted labels hold few classes."""
    labels = np.repeat(np.arange(10), 100)
    shards = ByShards(per_device=2).deal(labels, None, 50, generator(0, -1, "partition"))
    assert shards.sizes().tolist() == [20] * 50
    assert max(len(np.unique(labels[shard])) for shard in shards) <= 2


def test_defaults() -> None:
    """Those of the interface, and of the papers."""
    assert Dirichlet() == Dirichlet(alpha=0.5, min_size=10)
    assert ByShards() == ByShards(per_device=2)
    assert Quantity() == Quantity(alpha=1.0, min_size=1)


def test_runs_are_dealt_at_random() -> None:
    """The classes of a device are not neighbours; which samples of a class it has does not follow their order."""
    labels = np.repeat(np.arange(10), 100)
    shards = ByShards(per_device=2).deal(labels, None, 50, generator(0, -1, "partition"))
    classes = [np.unique(labels[shard]) for shard in shards]
    assert sum(np.ptp(held) > 1 for held in classes) > 25
    runs = [np.diff(shard) for shard in shards]
    assert not any((gaps[: len(gaps) // 2] == 1).all() for gaps in runs), "samples next to each other in the data"


def test_which_samples_of_a_class_a_device_has_is_random() -> None:
    """Proportions alone would give the first device the first samples."""
    shards = Dirichlet(alpha=100.0).deal(np.zeros(100, np.int64), None, 2, generator(0, -1, "partition"))
    first, second = (shard.mean() for shard in shards)
    assert abs(first - second) < 20, "50 where the samples are dealt in their order"


def test_devices_that_are_too_small_get_few_classes_and_random_samples() -> None:
    """From the largest, sorted by label; neither the first samples nor the lowest labels go to the first device."""
    rng = generator(4, -1, "partition")
    labels = np.tile(np.arange(10), 60)
    holder = np.zeros(600, np.int64)
    _top_up(holder, labels, 31, 10, rng)
    shards = Shards.of(holder, 31)
    assert shards.sizes().tolist() == [300] + [10] * 30
    assert np.mean([len(np.unique(labels[shard])) for shard in list(shards)[1:]]) < 2
    means = [float(labels[shard].mean()) for shard in list(shards)[1:]]
    assert means != sorted(means)
    assert abs(float(np.flatnonzero(holder).mean()) - 300) < 50, "from all over, not from the beginning"


def test_natural_keeps_owners_together() -> None:
    """No owner is on two devices, and owners are dealt equally."""
    owners = generator(0, -1, "owners").integers(0, 30, 1000) * 7
    shards = Natural().deal(labels_of(1000), owners, 8, generator(0, -1, "partition"))
    held = [set(owners[shard].tolist()) for shard in shards]
    assert sum(map(len, held)) == len(set.union(*held)) == 30
    assert {len(people) for people in held} == {3, 4}


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_contiguous_pieces_follow_one_another(alpha: float | None) -> None:
    """Each device has one run of samples, devices in an order that is drawn; alike in length, or by a Dirichlet."""
    shards = Contiguous(alpha=alpha, min_size=2).deal(
        np.zeros((103, 4), np.int64), None, 10, generator(0, -1, "partition")
    )
    assert all((np.diff(shard) == 1).all() for shard in shards)
    sizes = shards.sizes()
    assert sizes.min() >= 2
    assert (sizes.max() - sizes.min() <= 1) == (alpha is None)
    starts = [int(shard[0]) for shard in shards]
    assert starts != sorted(starts)


def test_text_is_dealt_without_labels() -> None:
    """Windows of text go by number; partitions by label refuse them."""
    labels = np.zeros((40, 8), np.int64)
    assert Iid().deal(labels, None, 4, generator(0, -1, "partition")).sizes().tolist() == [10] * 4
    assert len(Quantity().deal(labels, None, 4, generator(0, -1, "partition")).indices) == 40
    for kind, partition in (("dirichlet", Dirichlet()), ("shards", ByShards())):
        with pytest.raises(UserError, match=f"partition {kind} spreads samples by label, but a sample of text"):
            partition.deal(labels, None, 4, generator(0, -1, "partition"))


@pytest.mark.parametrize(
    ("partition", "devices", "message"),
    [
        (Iid(), 101, "partition iid: 101 devices, but 100 samples; choose at most 100 devices"),
        (Iid(), 0, "partition iid: 0 devices; there must be at least 1"),
        (
            Dirichlet(),
            11,
            "11 devices with at least 10 samples each need 110, but there are 100; choose `min_size` of at most 9",
        ),
        (ByShards(), 51, "choose `per_device` of at most 1"),
        (Quantity(min_size=3), 34, "choose `min_size` of at most 2"),
        (Contiguous(min_size=3), 34, "partition contiguous: 34 devices with at least 3 samples each need 102"),
        (Natural(), 26, "partition natural: 26 devices, but the samples come from 25 owners"),
    ],
)
def test_impossible_deals(partition: Partition, devices: int, message: str) -> None:
    """What cannot be dealt is said with the numbers."""
    with pytest.raises(UserError, match=message):
        deal(partition, 100, devices)


def test_natural_needs_owners() -> None:
    """Data without owners have no natural partition."""
    with pytest.raises(UserError, match="does not say whom its samples come from; choose iid"):
        Natural().deal(labels_of(10), None, 2, generator(0, -1, "partition"))


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_options_are_checked(alpha: float) -> None:
    """Options out of range are refused when they are made."""
    with pytest.raises(UserError, match=r"partition dirichlet: alpha is .*; it must be greater than 0"):
        Dirichlet(alpha=alpha)
    with pytest.raises(UserError, match="partition quantity: alpha"):
        Quantity(alpha=alpha)
    with pytest.raises(UserError, match="partition contiguous: alpha"):
        Contiguous(alpha=alpha)
    with pytest.raises(UserError, match="partition shards: per_device is 0"):
        ByShards(per_device=0)


def test_kinds_have_defaults() -> None:
    """Every kind can be made from its name alone, and every option has a description."""
    for kind in PARTITIONS.values():
        assert all(option.name for option in fields(kind()))  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda s: sum(s) > 1e-6), st.integers(0, 1000))
def test_rounding_keeps_the_total(shares: list[float], total: int) -> None:
    """Whole numbers add up and are nearer than one to their shares."""
    exact = np.array(shares) / sum(shares) * total
    counts = _rounded(np.array(shares), total)
    assert counts.sum() == total
    assert (abs(counts - exact) < 1 + 1e-6).all()


def test_what_is_left_goes_to_the_largest_remainders() -> None:
    """5.5, 3.3 and 2.2 are 6, 3 and 2; where remainders are alike, the first has it."""
    assert _rounded(np.array([0.5, 0.3, 0.2]), 11).tolist() == [6, 3, 2]
    assert _rounded(np.array([0.25, 0.25, 0.25, 0.25]), 6).tolist() == [2, 2, 1, 1]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.data())
def test_level_frees_enough_and_no_more(sizes: list[int], data: st.DataObject) -> None:
    """Cutting down to the level frees what is needed; one higher would not."""
    needed = data.draw(st.integers(0, sum(sizes)))
    array = np.array(sizes)
    level = _level(array, needed)
    assert np.maximum(array - level, 0).sum() >= needed
    assert level == array.max() or np.maximum(array - level - 1, 0).sum() < needed


@pytest.mark.slow
@pytest.mark.parametrize("partition", [Iid(), Dirichlet(alpha=0.1), ByShards(), Quantity(), Natural()])
def test_large_fleets(partition: Partition) -> None:
    """Ten thousand devices and a million samples are dealt at once, without empty devices."""
    shards = deal(partition, 1_000_000, 10_000)
    assert shards.sizes().min() >= getattr(partition, "min_size", 1)
    assert shards.indices.nbytes + shards.offsets.nbytes < 9e6
