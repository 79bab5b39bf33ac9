"""Changes to a scenario before it is checked: `--set key.path=value`, the keywords of Python's `run`, a sweep's cells.

Knows paths and plain data; whether a key exists is for the schema to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fedsim.documents.files import copied
from fedsim.documents.problems import KeyPath, Places, Problem, dotted
from fedsim.documents.reading import Unreadable, read
from fedsim.errors import shown
from fedsim.scenario.choices import lengthen
from fedsim.scenario.errors import SCENARIO

EVERY: Final = "*"
"""In a path: every item of a list, or every key of a mapping."""


@dataclass(frozen=True)
class Change:
    """A value for a dotted path, and where it was given: a line of the scenario's file, or a text."""

    name: str
    value: Any
    place: int | str


class Refused(Exception):
    """A change that cannot be made; caught by the loader, which lists it with the others."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


def apply(
    data: dict[str, Any],
    places: Places,
    overrides: Sequence[str],
    updates: Mapping[str, Any],
    cell: Sequence[Change] = (),
) -> tuple[Places, list[Problem]]:
    """Make all changes in place: where things now are, and what could not be done.

    Updates come first, overrides last; those of a `cell` between them, but after an override of a section that holds
    what the cell sets, which it would undo.
    """
    found: list[Problem] = []
    given: list[Change] = []
    for text in overrides:
        try:
            given.append(parsed(text))
        except Refused as error:
            found.append(Problem((), error.sentence, place=f"--set {short(text)}"))
    for change in given:
        if any(alike(change.name, one.name) for one in cell):
            way = f"--set 'sweep.{change.name}=[VALUE]' gives it one value"
            found.append(Problem((), f"{change.name} is what the sweep varies; {way}", place=str(change.place)))
    above = [change for change in given if any(holds(change.name, one.name) for one in cell)]
    below = [change for change in given if change not in above]
    first = [Change(name, value, f"{name} from Python") for name, value in updates.items()]
    for change in (*first, *above, *cell, *below):
        try:
            for name in _spread(data, change.name):
                lengthen(data)
                path = _assign(data, name, copied(change.value, SCENARIO))
                places = places.moved(path, change.place)
        except Refused as error:
            if isinstance(change.place, int):
                found.append(Problem((), error.sentence, place=f"{places.file}, line {change.place}"))
            else:
                found.append(Problem((), error.sentence, place=change.place))
    return places, found


def holds(section: str, name: str) -> bool:
    """Whether the path `name` leads into the section at the path `section`."""
    above, below = _words(section), _words(name)
    return len(above) < len(below) and _same(above, below)


def alike(one: str, other: str) -> bool:
    """Whether two paths lead to the same place, `*` standing for any."""
    words = _words(one), _words(other)
    return len(words[0]) == len(words[1]) and _same(*words)


def _words(name: str) -> list[str]:
    return [word.strip() for word in name.split(".")]


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether all words that both have are the same."""
    return all(a == b or EVERY in (a, b) for a, b in zip(one, other, strict=False))


def parsed(text: str) -> Change:
    """One `--set`.

    Raises:
        Refused: it is not written like one.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals:
        raise Refused(f"{shown(text)} has no '='; write --set key.path=value, as in --set training.batch=64")
    try:
        return Change(name, read(value, SCENARIO.name)[0], f"--set {short(name)}")
    except Unreadable as error:
        raise Refused(error.sentence) from error


def _spread(data: dict[str, Any], name: str) -> Iterator[str]:
    """The paths that `name` stands for: itself, or one for each item where it says `*`."""
    before, star, after = f".{name}.".partition(f".{EVERY}.")
    if not star:
        yield name
        return
    lengthen(data)
    node: Any = data
    path: KeyPath = ()
    for word in before.split(".")[1:]:
        key = _key(node, word, path)
        node, path = node.get(key) if isinstance(node, dict) else node[key], (*path, key)
    if not isinstance(node, dict | list) or not node:
        raise Refused(f"'{EVERY}' stands for every item, but {dotted(path)} has none; name what to set")
    for key in node if isinstance(node, dict) else range(len(node)):
        yield from _spread(data, ".".join([*map(str, path), str(key), *filter(None, after.split("."))]))


def short(text: str) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _assign(data: dict[str, Any], name: str, value: Any) -> KeyPath:
    """Put `value` at the dotted `name`, in place, making the mappings on the way that are absent.

    Returns:
        The path of what is new: that of the value, or of the first mapping that was made.
    """
    if not all(name.split(".")) or len(name) > 1000:
        raise Refused(f"{shown(name)} is no path of keys; write it like training.batch or fleet.0.count")
    node: Any = data
    path: KeyPath = ()
    made: KeyPath | None = None
    *way, last = name.split(".")
    for word in way:
        key = _key(node, word, path)
        if isinstance(node, dict) and node.get(word) is None:
            node[key] = {}
            made = made or (*path, key)
        node, path = node[key], (*path, key)
    key = _key(node, last, path)
    node[key] = value
    return made or (*path, key)


def _key(node: Any, word: str, path: KeyPath) -> str | int:
    """The key or index that `word` is in `node`."""
    if isinstance(node, dict):
        return word
    where = dotted(path)
    if not isinstance(node, list):
        raise Refused(f"{where} is {shown(node)}, which has no keys; set {where} itself")
    if not (word.isascii() and word.isdigit() and len(word) < 9 and int(word) < len(node)):
        count = f"{where} has {len(node)} item{'s' if len(node) != 1 else ''}"
        there = f"numbered from 0 to {len(node) - 1}" if node else f"so set {where} itself"
        raise Refused(f"{count}, {there}; {shown(word)} is not one of them")
    return int(word)
