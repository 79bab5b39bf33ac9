"""The scenario's file, and the files that it names: profiles, links, the folders of the data and of a model.

Knows where files are, not what is in profiles and links.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsim import catalogue
from fedsim.checkpoints import PACKAGE, is_place
from fedsim.documents.files import copied, load
from fedsim.documents.problems import KeyPath, Places, Problem
from fedsim.errors import UserError
from fedsim.scenario.errors import SCENARIO


def opened(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], Places]:
    """The plain data of a scenario and where things are in it.

    Raises:
        UserError: the file is not there, cannot be read, is not YAML, or holds no keys.
    """
    if isinstance(source, Mapping):
        return copied(source, SCENARIO), Places(SCENARIO)
    return load(source if isinstance(source, Path) else catalogue.find(SCENARIO.name, source), SCENARIO)


def found(data: dict[str, Any], places: Places) -> Iterator[Problem]:
    """Look up every profile and link, in place: paths become absolute, and what does not exist is a problem."""
    known: dict[tuple[str, str, Path], str] = {}
    for path, section, key, kind in _named(data):
        name = section[key]
        base = places.base(path)
        try:
            if (kind, name, base) not in known:
                file = catalogue.find(kind, name, base)
                known[kind, name, base] = str(file) if name.endswith((".yaml", ".yml")) or "/" in name else name
            section[key] = known[kind, name, base]
        except UserError as reason:
            yield Problem(path, str(reason))
    for path, section, what in _paths(data):
        yield from _absolute(path, section, places, what)


def _named(data: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any], str, str]]:
    """Every profile and link that is given as text: its path, the mapping it is in, its key, its kind."""
    fleet = data.get("fleet")
    groups = list(enumerate(fleet)) if isinstance(fleet, list) else []
    for path, section in [*((("fleet", index), group) for index, group in groups), (("server",), data.get("server"))]:
        for key in ("profile", "link"):
            if isinstance(section, dict) and isinstance(section.get(key), str) and section[key]:
                yield (*path, key), section, key, key


def _paths(data: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any], str]]:
    """Every path of a model, data or a recording: where it is, the mapping of its last key, where it should lead."""
    yield from _path_in(data.get("data"), ("data", "path"), "a folder")
    model = data.get("model")
    yield from _path_in(model, ("model", "weights"), "a run folder or a file")
    if isinstance(model, dict) and ":" not in str(model.get("name")):  # the user's own may mean something else by it
        yield from _path_in(model, ("model", "path"), "a folder or a file")
    tokens = data["data"].get("tokens") if isinstance(data.get("data"), dict) else None
    if isinstance(tokens, dict) and is_place(str(tokens.get("tokenizer"))):
        yield from _path_in(tokens, ("data", "tokens", "tokenizer"), "a folder or a file")
    yield from _path_in(data.get("faults"), ("faults", "availability"), "a file")
    yield from _pruning_in(data.get("pruning"), ("pruning",))
    fleet = data.get("fleet")
    sections = [(("fleet", index), group) for index, group in enumerate(fleet if isinstance(fleet, list) else [])]
    for place, section in [*sections, (("server",), data.get("server"))]:
        yield from _path_in(section, (*place, "availability"), "a file")
        if isinstance(section, dict):
            yield from _pruning_in(section.get("pruning"), (*place, "pruning"))
            yield from _path_in(section.get("link"), (*place, "link", "trace"), "a file")
            if isinstance(section.get("link"), dict) and isinstance(section["link"].get("trace"), dict):
                yield from _path_in(section["link"]["trace"], (*place, "link", "trace", "up_path"), "a file")


def _pruning_in(section: object, place: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any], str]]:
    yield from _path_in(section, (*place, "manifest"), "the folder of a pruned model")
    yield from _path_in(section, (*place, "calibration"), "a file")


def _path_in(section: object, place: KeyPath, what: str) -> Iterator[tuple[KeyPath, dict[str, Any], str]]:
    """The path at the last key of `place`, in its short form or written out as a mapping."""
    key = str(place[-1])
    if isinstance(section, dict) and isinstance(section.get(key), dict):
        section, key, place = section[key], "path", (*place, "path")
    value = section.get(key) if isinstance(section, dict) else None
    if isinstance(section, dict) and isinstance(value, str) and value and not value.startswith(PACKAGE):
        yield place, section, what


def _absolute(path: KeyPath, section: dict[str, Any], places: Places, what: str) -> Iterator[Problem]:
    """Make a path absolute, in place."""
    key = str(path[-1])
    try:
        found = places.base(path) / Path(section[key]).expanduser()
        section[key] = os.path.abspath(found)
        found.exists()  # may itself fail; whether it must be there is for its reader to say
    except (OSError, RuntimeError, ValueError) as reason:
        del section[key]
        why = reason.strerror if isinstance(reason, OSError) else str(reason)
        yield Problem(path, f"the path cannot be used: {why}; give {what}")
