"""The data of a scenario and who holds which of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim import data as data_sets
from fedsim import seeds
from fedsim.data import DataInfo, DataSet, Shards, TokenOptions
from fedsim.errors import UserError
from fedsim.experiment.networks import NOTHING
from fedsim.experiment.placing import placed
from fedsim.learning.labelling import Labels
from fedsim.scenario import Scenario
from fedsim.script import SERVER

VALIDATION: Final = 0.1
"""Share of the training samples that is held out for schedulers that validate."""

OF_MODEL: Final = "model"
"""The tokenizer that comes with the model."""

NEED_LABELS: Final = ("dirichlet", "shards", "natural")
"""Partitions whose shard sizes depend on more than the number of samples."""


def needs_labels(scheduler: Any) -> bool:
    """Whether a scheduler goes by which labels devices hold."""
    return bool(getattr(scheduler, "needs_labels", False))


_kept: ContextVar[dict[tuple[Any, ...], DataSet] | None] = ContextVar("_kept", default=None)


@contextmanager
def data_kept() -> Iterator[None]:
    """Within, the data set that was read last is kept, for scenarios that take the same; another one replaces it."""
    outer = _kept.get()
    token = _kept.set({} if outer is None else outer)
    try:
        yield
    finally:
        _kept.reset(token)


def deal(
    scenario: Scenario, objects: Mapping[str, Any] = NOTHING
) -> tuple[DataInfo, DataSet | None, Shards, NDArray[np.int64] | None]:
    """The data, who holds what, and the training samples held out for validation, for schedulers that ask for it.

    Without learning, data are opened only where the shards depend on labels.
    """
    wanted = scenario.data
    name = objects.get(wanted.name, wanted.name)
    with placed(scenario, "data"):
        return _deal(scenario, name)


def count_labels(scenario: Scenario, shards: Shards, objects: Mapping[str, Any] = NOTHING) -> Labels | None:
    """Who holds which labels, for schedulers that go by them; for others None.

    Without learning, too, data are opened for that.

    Raises:
        UserError: samples have no label of their own.
    """
    if not needs_labels(scenario.scheduler.options):
        return None
    wanted = scenario.data
    with placed(scenario, "data"):
        data = _load(objects.get(wanted.name, wanted.name), **_arguments(scenario))
    if data.train.labels.ndim > 1:
        raise UserError(
            f"scheduler {scenario.scheduler.name} with these options goes by the label of each sample, but in "
            f"{wanted.name} every token has one; choose other options, or another scheduler "
            f"{scenario.where('scheduler')}"
        )
    return Labels(data.train.labels, shards, data.info.classes)


def read_data(scenario: Scenario, objects: Mapping[str, Any] = NOTHING) -> DataSet:
    """The data set of a scenario, whether its runs learn or not."""
    with placed(scenario, "data"):
        return _load(objects.get(scenario.data.name, scenario.data.name), **_arguments(scenario))


def describe(scenario: Scenario, objects: Mapping[str, Any] = NOTHING) -> DataInfo:
    """The whole data set of a scenario, whatever part of it is dealt."""
    return data_sets.describe(
        objects.get(scenario.data.name, scenario.data.name), **_arguments(scenario) | {"samples": None}
    )


def _arguments(scenario: Scenario) -> dict[str, Any]:
    """What a reader is told beside the name."""
    wanted = scenario.data
    return {
        "path": wanted.path,
        "samples": wanted.samples,
        "resize": wanted.resize,
        "tokens": None
        if wanted.tokens is None
        else TokenOptions(length=wanted.tokens.length, tokenizer=_tokenizer(scenario)),
        "seed": scenario.seed,
    }


def _tokenizer(scenario: Scenario) -> str:
    """The tokenizer's name or path; `model` stands for the model's own."""
    assert scenario.data.tokens is not None
    name = scenario.data.tokens.tokenizer
    if name != OF_MODEL:
        return name
    path = getattr(scenario.model.options, "path", None)
    if path is None:
        raise UserError(
            f"tokens.tokenizer: {OF_MODEL} is the tokenizer of a model with a path, and {scenario.model.name} has "
            f"none; give model.path, or another tokenizer, such as bytes {scenario.where('data', 'tokens')}"
        )
    return str(path)


def _deal(scenario: Scenario, name: Any) -> tuple[DataInfo, DataSet | None, Shards, NDArray[np.int64] | None]:
    wanted, arguments = scenario.data, _arguments(scenario)
    rng = seeds.generator(scenario.seed, SERVER, "partition")
    partition = wanted.partition.options
    if not scenario.learning and wanted.partition.kind not in NEED_LABELS:
        info = describe(scenario, {wanted.name: name})
        if wanted.samples is not None:
            info = replace(info, train=wanted.samples)  # maybe more than there are: none is looked at
        kept, validation = _hold_out(scenario, info.train)
        shards = partition.deal(np.zeros(len(kept), np.int64), None, scenario.devices, rng)
        return info, None, Shards(kept[shards.indices], shards.offsets), validation
    if not scenario.learning:
        _no_more_than_there_are(scenario, describe(scenario, {wanted.name: name}).train)
    data = _load(name, **arguments)
    kept, validation = _hold_out(scenario, data.info.train)
    owners = None if data.train.owners is None else data.train.owners[kept]
    shards = partition.deal(data.train.labels[kept], owners, scenario.devices, rng)
    return (
        data.info,
        data if scenario.learning else None,
        Shards(kept[shards.indices], shards.offsets),
        validation,
    )


def _no_more_than_there_are(scenario: Scenario, there: int) -> None:
    """Timing alone needs no samples, only how many each device has; but who gets how many goes by labels here."""
    wanted, kind = scenario.data.samples, scenario.data.partition.kind
    if wanted is not None and wanted > there:
        raise UserError(
            f"samples: {wanted}, but partition {kind} looks at those that there are, and the training set of "
            f"{scenario.data.name} has {there:,}; choose 1-{there}, or a partition that only counts, such as "
            "{kind: quantity, alpha: 2}"
        )


def _load(name: Any, *, seed: int, **arguments: Any) -> DataSet:
    """The data set, read unless it is kept; the seed matters where it draws a subset."""
    kept = _kept.get()
    if kept is None:
        return data_sets.load(name, seed=seed, **arguments)
    subset = None if arguments["samples"] is None else seed
    key = (name if isinstance(name, str) else id(name), subset, *arguments.values())
    if key not in kept:
        kept.clear()  # first, so that there are never two of them
        kept[key] = data_sets.load(name, seed=seed, **arguments)
    return kept[key]


def _hold_out(scenario: Scenario, samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Training samples to deal, and those to validate on where the scheduler says `validates`."""
    if not getattr(scenario.scheduler.options, "validates", False):
        return np.arange(samples), None
    if not scenario.learning:
        raise UserError(
            f"scheduler {scenario.scheduler.name} decides by validation results, which learning: off does not have; "
            f"give it fixed counts instead, or set learning: on {scenario.where('learning')}"
        )
    drawn = seeds.generator(scenario.seed, SERVER, "validation").permutation(samples)
    size = max(1, round(VALIDATION * samples))
    return np.sort(drawn[size:]), np.sort(drawn[:size])
