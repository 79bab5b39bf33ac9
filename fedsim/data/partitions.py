"""How samples are dealt to devices: pure functions of labels, owners and a generator.

Every partition covers all samples without overlap and gives each device at least one. Each option set is a frozen
dataclass, by kind in `PARTITIONS`. All draws come from the one generator passed in, in order: nothing is seeded here,
so shards of different devices are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.data.shards import Shards
from fedsim.errors import UserError

Ids = NDArray[np.int64]


class Partition(Protocol):
    """A way to deal samples, with its options."""

    def deal(self, labels: Ids, owners: Ids | None, devices: int, rng: np.random.Generator) -> Shards:
        """Deal samples 0 to len(labels) - 1 to the devices.

        Raises:
            UserError: the data cannot be dealt like this to so many devices.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Iid:
    """Every device holds the same number of samples (but for one), drawn at random."""

    def deal(self, labels: Ids, owners: Ids | None, devices: int, rng: np.random.Generator) -> Shards:
        """See `Partition`."""
        samples = _enough(labels, devices, 1, "iid")
        return _dealt(rng, np.full(devices, samples // devices) + (np.arange(devices) < samples % devices))


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Labels are spread alike, sizes are not: shares of the samples are drawn from a Dirichlet distribution."""

    alpha: float = 1.0
    """Concentration; smaller is more unequal."""
    min_size: int = 1
    """Samples that every device gets before the rest is shared."""

    def __post_init__(self) -> None:
        _positive("quantity", alpha=self.alpha, min_size=self.min_size)

    def deal(self, labels: Ids, owners: Ids | None, devices: int, rng: np.random.Generator) -> Shards:
        """See `Partition`."""
        samples = _enough(labels, devices, self.min_size, "quantity")
        shares = rng.dirichlet(np.full(devices, self.alpha))
        return _dealt(rng, self.min_size + _rounded(shares, samples - self.min_size * devices))


@dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """Each class is shared among the devices in proportions drawn from a Dirichlet distribution.

    Label and size skew as in Yurochkin et al. (1905.12022) and NIID-Bench (2102.02079). Those draw again until no
    device is too small, which never ends for many devices and a small alpha. Here a device that is too small gets
    what it lacks from the largest devices, at random but sorted by label, so that it too sees few classes.
    """

    alpha: float = 0.5
    """Concentration; smaller is more unequal."""
    min_size: int = 10
    """Samples that every device has at least (NIID-Bench's 10)."""

    def __post_init__(self) -> None:
        _positive("dirichlet", alpha=self.alpha, min_size=self.min_size)

    def deal(self, labels: Ids, owners: Ids | None, devices: int, rng: np.random.Generator) -> Shards:
        """See `Partition`."""
        _one_label_each(labels, "dirichlet")
        samples = _enough(labels, devices, self.min_size, "dirichlet")
        holder = np.empty(samples, np.int64)
        by_class = np.argsort(labels, kind="stable")
        for members in np.split(by_class, np.cumsum(np.bincount(labels))[:-1]):
            counts = _rounded(rng.dirichlet(np.full(devices, self.alpha)), len(members))
            holder[rng.permutation(members)] = np.repeat(np.arange(devices), counts)
        _top_up(holder, labels, devices, self.min_size, rng)
        return Shards.of(holder, devices)


@dataclass(frozen=True, kw_only=True)
class ByShards:
    """Samples sorted by label, cut into equal runs, `per_device` runs dealt to each device (McMahan, 1602.05629)."""

    per_device: int = 2
    """Runs a device gets, so about the number of classes it sees."""

    def __post_init__(self) -> None:
        _positive("shards", per_device=self.per_device)

    def deal(self, labels: Ids, owners: Ids | None, devices: int, rng: np.random.Generator) -> Shards:
        """See `Partition`."""
        _one_label_each(labels, "shards")
        samples = _enough(labels, devices, self.per_device, "shards")
        shuffled = rng.permutation(samples)
        by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
        runs = self.per_device * devices
        device_of_run = rng.permutation(runs) // self.per_device
        holder = np.empty(samples, np.int64)
        holder[by_label] = device_of_run[np.arange(samples) * runs // samples]
        return Shards.of(holder, devices)


@dataclass(frozen=True, kw_only=True)
class Natural:
    """All samples of an owner (a writer, a speaker) go to one device; owners are dealt at random, equally many each."""

    def deal(self, labels: Ids, owners: Ids | None, devices: int, rng: np.random.Generator) -> Shards:
        """See `Partition`."""
        if owners is None:
            raise UserError(
                "partition natural: this data set does not say whom its samples come from; "
                "choose iid, dirichlet, shards or quantity"
            )
        _enough(labels, devices, 1, "natural")
        people, person = np.unique(owners, return_inverse=True)
        if devices > len(people):
            raise UserError(
                f"partition natural: {devices:,} devices, but the samples come from {len(people):,} owners; "
                f"choose at most {len(people)} devices"
            )
        device_of_person = rng.permutation(np.arange(len(people)) % devices)
        return Shards.of(device_of_person[person], devices)


@dataclass(frozen=True, kw_only=True)
class Contiguous:
    """Each device holds samples that follow one another, such as a piece of a text; who gets which piece is drawn."""

    alpha: float | None = None
    """Concentration of the Dirichlet distribution that the lengths of the pieces are drawn from; null: all alike."""
    min_size: int = 1
    """Samples that every device gets before the rest is shared."""

    def __post_init__(self) -> None:
        _positive("contiguous", alpha=1.0 if self.alpha is None else self.alpha, min_size=self.min_size)

    def deal(self, labels: Ids, owners: Ids | None, devices: int, rng: np.random.Generator) -> Shards:
        """See `Partition`."""
        samples = _enough(labels, devices, self.min_size, "contiguous")
        shares = np.ones(devices) if self.alpha is None else rng.dirichlet(np.full(devices, self.alpha))
        sizes = self.min_size + _rounded(shares, samples - self.min_size * devices)
        return Shards.of(np.repeat(rng.permutation(devices), sizes), devices)


PARTITIONS: Final[dict[str, type[Partition]]] = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "shards": ByShards,
    "quantity": Quantity,
    "natural": Natural,
    "contiguous": Contiguous,
}
"""Option classes by `kind` in a scenario."""


def _dealt(rng: np.random.Generator, sizes: Ids) -> Shards:
    """Shards of these sizes, whose sum is the number of samples, filled at random."""
    holder = np.empty(int(sizes.sum()), np.int64)
    holder[rng.permutation(len(holder))] = np.repeat(np.arange(len(sizes)), sizes)
    return Shards.of(holder, len(sizes))


def _rounded(shares: NDArray[np.float64], total: int) -> Ids:
    """Whole numbers in proportion to `shares` that add up to `total`: largest remainders first."""
    exact = shares / shares.sum() * total
    counts: Ids = np.floor(exact).astype(np.int64)
    rest = total - int(counts.sum())
    if rest > 0:
        counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return counts


def _top_up(holder: Ids, labels: Ids, devices: int, min_size: int, rng: np.random.Generator) -> None:
    """Move samples, in place, from the largest devices to those with fewer than `min_size`."""
    sizes = np.bincount(holder, minlength=devices)
    lacking = np.maximum(min_size - sizes, 0)
    needed = int(lacking.sum())
    if needed == 0:
        return
    taken = sizes - np.minimum(sizes, _level(sizes, needed))
    surplus = int(taken.sum()) - needed  # the level is a whole number: some devices at it keep one more
    taken[np.flatnonzero(taken)[:surplus]] -= 1
    order = rng.permutation(len(holder))
    order = order[np.argsort(holder[order], kind="stable")]  # by device, at random within each
    place = np.arange(len(holder)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    given = order[place < np.repeat(taken, sizes)]
    given = given[np.argsort(labels[given], kind="stable")]
    takers = rng.permutation(np.flatnonzero(lacking))
    holder[given] = np.repeat(takers, lacking[takers])


def _level(sizes: Ids, needed: int) -> int:
    """The highest size that frees at least `needed` samples when every larger device is cut down to it."""
    low, high = 0, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.maximum(sizes - middle, 0).sum()) >= needed:
            low = middle
        else:
            high = middle - 1
    return low


def _enough(labels: Ids, devices: int, each: int, kind: str) -> int:
    """The number of samples, once it is known that every device can have `each`."""
    samples = len(labels)
    if devices < 1:
        raise UserError(f"partition {kind}: {devices} devices; there must be at least 1")
    if devices > samples:
        raise UserError(
            f"partition {kind}: {devices:,} devices, but {samples:,} samples; "
            f"choose at most {samples} devices or more `samples`"
        )
    if devices * each > samples:
        option = "per_device" if kind == "shards" else "min_size"
        raise UserError(
            f"partition {kind}: {devices:,} devices with at least {each} samples each need {devices * each:,}, "
            f"but there are {samples:,}; choose `{option}` of at most {samples // devices}, or fewer devices"
        )
    return samples


def _one_label_each(labels: Ids, kind: str) -> None:
    if labels.ndim != 1:
        raise UserError(
            f"partition {kind} spreads samples by label, but a sample of text has a label for every token; "
            "choose iid, quantity or contiguous"
        )


def _positive(kind: str, **options: float) -> None:
    for name, value in options.items():
        if not value > 0 or value == float("inf"):
            raise UserError(f"partition {kind}: {name} is {value}; it must be greater than 0")
