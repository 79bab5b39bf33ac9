"""The section `sweep` of a scenario: axes, each a row of choices, whose product are the scenario's cells.

    sweep:
      model.cut: [1, 2, 3]                                                # a path, and its values
      bandwidth: {set: [fleet.*.link.up, fleet.*.link.down], to: [5 Mbit/s, 20 Mbit/s]}    # several paths at once
      boards:                                                             # choices by names of one's own
        slow: {fleet.0.profile: raspberry-pi-3b, fleet.0.count: 4}
        fast: {fleet.0.profile: jetson-nano}
      seeds: 3
      targets: [90 %]

Knows how axes are written and what they are called; whether a path leads anywhere is found out where it is followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fedsim.documents.problems import KeyPath, Places, Problem, error
from fedsim.documents.translate import does_not_fit
from fedsim.errors import shown
from fedsim.scenario.overrides import Change, Refused, alike, parsed, short
from fedsim.units import FRACTION

SWEEP: Final = "sweep"
OFF: Final = (None, False, "off")
"""What says that a scenario is no sweep."""

MANY_RUNS: Final = (
    "this is a sweep, which is many runs; `fedsim run` and `fedsim check` take one, and fedsim.sweep in Python; "
    "--set sweep=off leaves it out"
)
"""What is said where one run is wanted."""

MOST_CELLS: Final = 10_000
_SEEDS, _TARGETS = "seeds", "targets"
_SET, _TO = "set", "to"
_FORMS: Final = (
    "a list of values",
    "{set: PATHS, to: VALUES}",
    "a mapping of labels to what each sets, as in slow: {training.batch: 64}",
)
_RESERVED: Final = frozenset({"seed", "status", "reason", "folder", "summary"})  # what cells have beside their axes


@dataclass(frozen=True)
class Axis:
    """Something that is varied: its choices by label, each with what it sets."""

    name: str
    choices: Mapping[str, tuple[Change, ...]]

    @property
    def paths(self) -> tuple[str, ...]:
        """What the choices set."""
        return tuple(dict.fromkeys(change.name for changes in self.choices.values() for change in changes))


@dataclass(frozen=True)
class Sweep:
    """What a scenario is varied in, for how many seeds, and accuracies whose time is compared."""

    axes: tuple[Axis, ...]
    seeds: int = 1
    targets: tuple[float, ...] = ()


def taken(
    data: dict[str, Any], places: Places, overrides: Sequence[str]
) -> tuple[dict[str, Any] | None, Places, list[str]]:
    """The section `sweep` of a scenario's data with the overrides of it, and the overrides that are left.

    None where the scenario is no sweep. After `sweep.` an override names an axis whole, dots and all.

    Raises:
        ScenarioError: the section is no mapping, or such an override cannot be read.
    """
    section = data.get(SWEEP)
    left: list[str] = []
    for text in overrides:
        head, dot, key = text.partition("=")[0].strip().partition(".")
        if head != SWEEP:
            left.append(text)
            continue
        try:
            change = parsed(text)
        except Refused as refused:
            raise error([Problem((), refused.sentence, place=f"--set {short(text)}")], places) from refused
        if not dot:
            section, places = change.value, places.moved((SWEEP,), str(change.place))
            continue
        section = dict(section) if isinstance(section, Mapping) else {}
        path = _path_in(section, key)
        if len(path) == 1:
            section[key] = change.value
        else:
            section[path[0]] = {**section[path[0]], path[1]: change.value}
        places = places.moved((SWEEP, *path), str(change.place))
    if section in OFF:
        return None, places, left
    if not isinstance(section, dict):
        raise error([Problem((SWEEP,), does_not_fit(section, ["a mapping of axes", "off"]))], places)
    return section, places, left


def _path_in(section: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """An axis that is named whole, or what follows the name of one that has keys."""
    name, dot, rest = key.partition(".")
    return (name, rest) if dot and key not in section and isinstance(section.get(name), dict) else (key,)


def sweep_of(section: Mapping[str, Any], places: Places) -> Sweep:
    """The sweep that a section describes.

    Raises:
        ScenarioError: something in it is wrong; all of it is listed.
    """
    found: list[Problem] = []
    axes: list[Axis] = []
    for name, value in section.items():
        if name not in (_SEEDS, _TARGETS):
            axes += _axis(name, value, places, found)
    seeds, targets = section.get(_SEEDS, 1), section.get(_TARGETS, [])
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        found.append(Problem((SWEEP, _SEEDS), does_not_fit(seeds, ["a whole number, 1 or more"])))
    aims = list(_fractions(targets, found))
    found += _set_twice(axes)
    if not axes and not found:
        found.append(Problem((SWEEP,), "nothing is varied; give an axis, as in 'model.cut: [1, 2]'"))
    count = 1
    for axis in axes:
        count *= len(axis.choices)
    if count > MOST_CELLS:
        found.append(Problem((SWEEP,), f"the axes make {count} cells; give values for {MOST_CELLS} or fewer"))
    if found:
        raise error(found, places)
    return Sweep(tuple(axes), seeds, tuple(aims))


def _axis(name: str, value: Any, places: Places, found: list[Problem]) -> Iterator[Axis]:
    """The axis of a key; what is wrong with it goes into `found`."""
    path: KeyPath = (SWEEP, name)
    if name in _RESERVED:
        way = "call it otherwise"
        if name == "seed":
            way = "seeds: 3 runs each cell with the scenario's seed and those that follow it"
        found.append(Problem(path, f"an axis called {name}, but a sweep's table has a column of that name; {way}"))
        return
    if isinstance(value, list):
        choices = _values([name], value, path, places, found)
    elif isinstance(value, dict) and _SET in value:
        choices = _several(value, path, places, found)
    elif isinstance(value, dict):
        choices = _named(value, path, places, found)
    else:
        found.append(Problem(path, does_not_fit(value, _FORMS)))
        return
    if choices:
        yield Axis(name, choices)
    elif not any(problem.path[:2] == path for problem in found):
        found.append(Problem(path, "an axis without values; give one or more, or remove it"))


def _several(
    value: dict[str, Any], path: KeyPath, places: Places, found: list[Problem]
) -> dict[str, tuple[Change, ...]]:
    """`{set: PATHS, to: VALUES}`: each of the values for all of the paths."""
    for key in value.keys() - {_SET, _TO}:
        found.append(Problem((*path, key), f"unknown key beside {_SET}; an axis takes {_SET} and {_TO}"))
    paths = [value[_SET]] if isinstance(value[_SET], str) else value[_SET]
    if not isinstance(paths, list) or not paths or not all(isinstance(one, str) for one in paths):
        found.append(Problem((*path, _SET), does_not_fit(value[_SET], ["a path", "a list of paths"])))
        return {}
    if not isinstance(value.get(_TO), list | dict):
        found.append(Problem((*path, _TO), does_not_fit(value.get(_TO), ["a list of values", "values by label"])))
        return {}
    return _values(paths, value[_TO], (*path, _TO), places, found)


def _values(
    paths: Sequence[str], values: Any, path: KeyPath, places: Places, found: list[Problem]
) -> dict[str, tuple[Change, ...]]:
    """Choices that set the same paths to different values, labelled by these, or by names of their own."""
    choices: dict[str, tuple[Change, ...]] = {}
    labelled = values.items() if isinstance(values, dict) else ((label_of(value), value) for value in values)
    for number, (label, value) in enumerate(labelled):
        key = label if isinstance(values, dict) else number
        if label in choices:
            found.append(Problem((*path, key), f"{shown(label)} is there twice; keep one, or give the values labels"))
        choices[label] = tuple(Change(name, value, _place(places, (*path, key))) for name in paths)
    return choices


def _named(
    value: Mapping[str, Any], path: KeyPath, places: Places, found: list[Problem]
) -> dict[str, tuple[Change, ...]]:
    """Choices by label, each a mapping of paths to values."""
    choices: dict[str, tuple[Change, ...]] = {}
    for label, sets in value.items():
        if not isinstance(sets, dict):
            wanted = "a mapping of paths to values, as in {training.batch: 64}"
            found.append(Problem((*path, label), does_not_fit(sets, [wanted])))
            continue
        choices[label] = tuple(Change(name, one, _place(places, (*path, label, name))) for name, one in sets.items())
    return choices


def _place(places: Places, path: KeyPath) -> int | str:
    return places.place(path) or f"{SWEEP} from Python"


def _fractions(targets: Any, found: list[Problem]) -> Iterator[float]:
    if not isinstance(targets, list):
        found.append(Problem((SWEEP, _TARGETS), does_not_fit(targets, ["a list of accuracies, as in [90 %]"])))
        return
    for index, target in enumerate(targets):
        try:
            yield FRACTION.parse(target)
        except ValueError as reason:
            found.append(Problem((SWEEP, _TARGETS, index), str(reason)))


def _set_twice(axes: Sequence[Axis]) -> Iterator[Problem]:
    for number, axis in enumerate(axes):
        for other in axes[:number]:
            for path in axis.paths:
                if any(alike(path, theirs) for theirs in other.paths):
                    sentence = f"the axis {other.name} sets {path}, too; keep it in one of them"
                    yield Problem((SWEEP, axis.name), sentence)


def label_of(value: Any) -> str:
    """What a table calls a value: as a file writes it, sections by their name and what is given beside it."""
    match value:
        case None:
            return "none"
        case bool():
            return "on" if value else "off"
        case Mapping():
            naming = next((key for key in ("name", "kind", "method") if key in value), None)
            rest = (f"{key} {label_of(one)}" for key, one in value.items() if key != naming)
            return " ".join([*([] if naming is None else [label_of(value[naming])]), *rest]) or "empty"
        case list() | tuple():
            return ", ".join(map(label_of, value)) or "empty"
        case str() | int() | float():
            return str(value) or "empty"
        case _:
            kind = value if isinstance(value, type) else type(value)
            return kind.__name__
