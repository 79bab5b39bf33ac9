"""A scenario in many cells: a checked scenario for each choice on each axis and each seed, before anything runs.

A comparison has one axis, the scheduler; a sweep has those that its scenario names. Knows nothing of runs and folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from fedsim.documents.problems import Problem, error
from fedsim.errors import UserError, shown
from fedsim.experiment.contenders import as_section
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.takers import KEY, completed, own_alone, shares
from fedsim.scenario import Axis, Change, Scenario, resolved
from fedsim.scenario.files import opened
from fedsim.scenario.overrides import EVERY
from fedsim.scenario.sweeps import MANY_RUNS, SWEEP, taken

_LAST_SEED: Final = 2**63 - 1
_LONG: Final = 120  # letters of a folder's name; what is longer is cut
_NAMED_CELLS: Final = 3  # that an error names


@dataclass(frozen=True)
class Cell:
    """One choice on every axis, with one seed."""

    label: str
    """What tables call it, whatever the seed."""
    scenario: Scenario
    at: Mapping[str, str] = field(default_factory=dict)
    """Its choice on each axis."""

    @property
    def seed(self) -> int:
        """All that is random in it follows from this."""
        return self.scenario.seed

    @property
    def name(self) -> str:
        """That of its folder."""
        return f"{_fit_for_a_folder(self.label)}-seed{self.seed}"


@dataclass(frozen=True)
class Contest:
    """The cells, one seed after the other: neighbours share their data."""

    cells: tuple[Cell, ...]
    objects: Mapping[str, Any] = field(default_factory=dict)
    """What names of the form `module:Class` stand for, if not an import."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how the schedulers came to their options."""
    axes: tuple[Axis, ...] = ()
    """What cells differ in."""
    compares: bool = False
    """Whether they are schedulers to compare, not the cells of a sweep."""

    @property
    def labels(self) -> list[str]:
        """What cells are called, in their order."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in their order."""
        return list(dict.fromkeys(cell.seed for cell in self.cells))

    @property
    def name(self) -> str:
        """That of the scenario."""
        return self.cells[0].scenario.name

    def shape(self) -> dict[str, dict[str, Any]]:
        """The axes by name: what each sets, and its choices."""
        return {axis.name: {"sets": list(axis.paths), "labels": list(axis.choices)} for axis in self.axes}

    def common(self) -> dict[str, Any]:
        """The resolved scenario without what cells differ in."""
        found = resolved(self.cells[0].scenario)
        for path in ("seed", *(path for axis in self.axes for path in axis.paths)):
            words = path.split(".")
            # another name or kind takes other options beside it
            _remove(found, words[:-1] if len(words) > 1 and words[-1] in ("name", "kind", "method") else words)
        return found

    def without(self, labels: Sequence[str]) -> Contest:
        """The same without some of the cells."""
        kept = tuple(cell for cell in self.cells if cell.label not in labels)
        return replace(self, cells=kept)


@dataclass(frozen=True)
class Variant:
    """One choice on every axis, loaded or, if that failed, with the reason."""

    label: str
    at: Mapping[str, str]
    found: Scenario | UserError


def contest(
    source: str | Path | Mapping[str, Any],
    schedulers: Mapping[str, Any],
    *,
    seeds: int,
    overrides: Sequence[str],
    updates: Mapping[str, Any],
    objects: Mapping[str, Any],
) -> Contest:
    """A scenario under every one of the schedulers, for so many seeds from its own on.

    The options of a scheduler are those of the scenario's own `scheduler` section, if that names it; over these, what
    overrides (`scheduler.KEY=VALUE`) give to all that have the option; over these, its own.

    Raises:
        UserError: something is wrong with the scenario under one of them; everything is listed.
    """
    if not schedulers:
        raise UserError("there is no scheduler to compare; name one or more of `fedsim list schedulers`")
    if seeds < 1:
        raise UserError(f"{seeds} seeds; compare with 1 or more")
    if KEY in updates:
        raise UserError("scheduler stands beside the schedulers to compare; give it as one of them")
    data, places = opened(source)
    section, places, overrides = taken(data, places, overrides)
    if section is not None:
        raise error([Problem((SWEEP,), MANY_RUNS)], places)
    asked = {label: (Change(KEY, scheduler, f"{KEY} {label}"),) for label, scheduler in schedulers.items()}
    axes = (Axis(KEY, asked),)
    found, notes = variants(source, axes, overrides=overrides, updates=updates, objects=objects, named_by=_BY_COMPARE)
    made = contested(found, axes, seeds=seeds, objects=objects, notes=notes, what="what is to be compared")
    return replace(made, compares=True)


def contested(
    found: Sequence[Variant],
    axes: tuple[Axis, ...],
    *,
    seeds: int,
    objects: Mapping[str, Any],
    notes: Sequence[str],
    what: str,
) -> Contest:
    """The cells of variants, for so many seeds from the first one's own on.

    Raises:
        UserError: some of them are wrong; all that is wrong is listed.
    """
    problems = dict(_problems(found))
    if len(problems) == 1:
        raise UserError(next(iter(problems.values())))
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} errors in {what}:", *problems.values()]))
    scenarios = [(one, one.found) for one in found if isinstance(one.found, Scenario)]
    first = scenarios[0][1].seed
    if first + seeds - 1 > _LAST_SEED:
        raise UserError(f"{seeds} seeds from {first} on, but a seed is less than 2^63; begin with a smaller one")
    cells = (
        Cell(variant.label, scenario.model_copy(update={"seed": seed}), variant.at)
        for seed in range(first, first + seeds)
        for variant, scenario in scenarios
    )
    return Contest(tuple(cells), objects, tuple(notes), axes)


def variants(
    source: str | Path | Mapping[str, Any],
    axes: Sequence[Axis],
    *,
    overrides: Sequence[str],
    updates: Mapping[str, Any],
    objects: Mapping[str, Any],
    named_by: str,
) -> tuple[list[Variant], list[str]]:
    """The scenario for each choice on each axis, the last axis varying first, and notes on schedulers' options.

    A section `sweep` of the source is left aside.

    Args:
        source: as `fedsim.run` takes it.
        axes: what is varied.
        overrides: `key.path=value` each, on top; of a scheduler's options, for those that have them.
        updates: sections that replace the source's.
        objects: what names of the form `module:Class` stand for.
        named_by: where schedulers come from, if an axis has them.

    Raises:
        UserError: the source cannot be read, or an override names a scheduler where an axis does.
    """
    own = opened(source)[0].get(KEY)
    sets: dict[str, list[str]] = {}
    notes: list[str] = []
    who = next((axis for axis in axes if KEY in axis.paths), None)
    sections: dict[str, dict[str, Any]] = {}
    if who is not None:
        asked = {
            label: as_section(change.value)
            for label, changes in who.choices.items()
            for change in changes
            if change.name == KEY
        }
        sets, notes = shares(overrides, asked, named_by)
        notes += own_alone(own, asked, sets)
        sections = {label: completed(own, section) for label, section in asked.items()}
    found: list[Variant] = []
    for labels in product(*(axis.choices for axis in axes)):
        at = dict(zip((axis.name for axis in axes), labels, strict=True))
        changes = [change for axis in axes for change in axis.choices[at[axis.name]]]
        mine: Sequence[str] = overrides
        if who is not None and at[who.name] in sections:
            label = at[who.name]
            mine = sets[label]
            changes = [Change(KEY, sections[label], c.place) if c.name == KEY else c for c in changes]
        changes.sort(key=lambda change: change.name.count("."))  # a section before what is in it
        try:
            loaded: Scenario | UserError = load_scenario(
                source, overrides=mine, updates=updates, cell=changes, objects=objects
            )
        except UserError as reason:
            loaded = reason
        found.append(Variant(_label(at), at, loaded))
    return found, notes


_BY_COMPARE: Final = "`compare` takes them from --schedulers"


def _label(at: Mapping[str, str]) -> str:
    """A cell's name: its choices, with the last word of their axis where they are mere numbers."""
    if len(at) == 1 and KEY in at:
        return at[KEY]
    return ", ".join(f"{name.rpartition('.')[2]} {label}" if _is_bare(label) else label for name, label in at.items())


def _is_bare(label: str) -> bool:
    return not label[:1].isalpha() or label in ("on", "off", "none", "empty")


def _fit_for_a_folder(label: str) -> str:
    found = re.sub(r"[^A-Za-z0-9._-]+", "-", label).lstrip(".-")  # no option and no hidden file
    return found if len(found) <= _LONG else f"{found[: _LONG - 9]}-{crc32(label.encode()):08x}"


def _problems(found: Sequence[Variant]) -> Iterator[tuple[str, str]]:
    """What is wrong, each thing once; where it is with some of several cells only, which these are."""
    cells: dict[str, list[str]] = {}
    for variant in found:
        if isinstance(variant.found, UserError):
            for sentence in str(variant.found).split("\n  ")[1:] or [str(variant.found)]:
                cells.setdefault(sentence, []).append(variant.label)
    axes = max((len(variant.at) for variant in found), default=0)
    for sentence, labels in cells.items():
        some = axes > 1 and len(labels) < len(found)
        names = "; ".join(labels[:_NAMED_CELLS]) + ("; …" if len(labels) > _NAMED_CELLS else "")
        yield sentence, f"{sentence} [{len(labels)} of {len(found)} cells: {names}]" if some else sentence
    folders: dict[str, str] = {}
    for variant in found:
        folder = _fit_for_a_folder(variant.label)
        if folder in folders:
            both = f"{shown(folders[folder])} and {shown(variant.label)}"
            yield variant.label, f"the cells {both} would have the same folder; give one of the values a label"
        folders[folder] = variant.label


def _remove(data: Any, words: Sequence[str]) -> None:
    """Take out what a path leads to, if it does."""
    word, *rest = words
    keys = list(data) if isinstance(data, dict) else list(range(len(data))) if isinstance(data, list) else []
    for key in keys:
        if word in (EVERY, str(key)):
            if rest:
                _remove(data[key], rest)
            elif isinstance(data, dict):
                del data[key]
            else:
                data[key] = None
