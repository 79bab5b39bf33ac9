"""Changes to a scenario before it is checked: `--set key.path=value` and the keywords of Python's `run`.

Knows paths and plain data; whether a key exists is for the schema to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.documents.problems import KeyPath, Places, Problem, dotted
from fedsim.documents.reading import Unreadable, read
from fedsim.errors import shown
from fedsim.scenario.choices import lengthen
from fedsim.scenario.errors import SCENARIO


class Refused(Exception):
    """A change that cannot be made; caught by the loader, which lists it with the others."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


def apply(
    data: dict[str, Any], places: Places, overrides: Sequence[str], updates: Mapping[str, Any]
) -> tuple[Places, list[Problem]]:
    """Make all changes in place, updates first: where things now are, and what could not be done."""
    found: list[Problem] = []
    changes = [(f"{name} from Python", name, value) for name, value in updates.items()]
    for text in overrides:
        try:
            changes.append(_parsed(text))
        except Refused as error:
            found.append(Problem((), error.sentence, place=f"--set {_short(text)}"))
    for label, name, value in changes:
        try:
            lengthen(data)
            places = places.moved(_assign(data, name, value), label)
        except Refused as error:
            found.append(Problem((), error.sentence, place=label))
    return places, found


def _parsed(text: str) -> tuple[str, str, Any]:
    """The label, the dotted name and the value of one `--set`."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals:
        raise Refused(f"{shown(text)} has no '='; write --set key.path=value, as in --set training.batch=64")
    try:
        return f"--set {_short(name)}", name, read(value, SCENARIO.name)[0]
    except Unreadable as error:
        raise Refused(error.sentence) from error


def _short(text: str) -> str:
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
