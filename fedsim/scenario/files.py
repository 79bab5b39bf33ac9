"""The scenario's file, and the files that it names: profiles, links, the folder of the data.

Knows where files are, not what is in profiles and links.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsim import catalogue
from fedsim.errors import UserError, shown
from fedsim.scenario.problems import KeyPath, Places, Problem, error
from fedsim.scenario.source import Unreadable, read


def opened(source: str | Path | Mapping[str, Any]) -> tuple[object, Places]:
    """The plain data of a scenario and where things are in it.

    Raises:
        UserError: the file is not there, cannot be read, or is not YAML.
    """
    if isinstance(source, Mapping):
        return copied(source), Places()
    path = source if isinstance(source, Path) else catalogue.find("scenario", source)
    shown_path = _as_seen_from_here(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise UserError(f"{shown_path} is not text in UTF-8 (byte {reason.start}); save it as UTF-8") from reason
    except (OSError, ValueError) as reason:
        why = reason.strerror if isinstance(reason, OSError) else str(reason)
        raise UserError(f"scenario file {shown_path} cannot be read: {why}; check the path") from reason
    try:
        data, lines = read(text)
    except Unreadable as reason:
        raise error([Problem((), reason.sentence)], Places(shown_path, at={(): reason.line})) from reason
    return data, Places(shown_path, path.absolute().parent, dict(lines))


def copied(value: object, depth: int = 0) -> Any:
    """Plain data of one's own, from mappings and sequences of any kind; other objects stay what they are.

    Raises:
        UserError: a key is no string, or the data are nested without end.
    """
    if depth > 40:
        raise UserError("the scenario given from Python is nested more than 40 deep; a scenario needs no more than 5")
    match value:
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise UserError(f"{shown(key)} is no key of a scenario; keys are strings")
            return {key: copied(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [copied(item, depth + 1) for item in value]
        case os.PathLike():
            return os.fspath(value)
        case str() if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UserError(f"{shown(value)} is not text that a file in UTF-8 can hold; rename it")
        case _:
            return value


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
    spread = data.get("data")
    if isinstance(spread, dict) and isinstance(spread.get("path"), str) and spread["path"]:
        yield from _data_folder(spread, places)


def _named(data: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any], str, str]]:
    """Every profile and link that is given as text: its path, the mapping it is in, its key, its kind."""
    fleet = data.get("fleet")
    groups = list(enumerate(fleet)) if isinstance(fleet, list) else []
    for path, section in [*((("fleet", index), group) for index, group in groups), (("server",), data.get("server"))]:
        for key in ("profile", "link"):
            if isinstance(section, dict) and isinstance(section.get(key), str) and section[key]:
                yield (*path, key), section, key, key


def _data_folder(section: dict[str, Any], places: Places) -> Iterator[Problem]:
    path = ("data", "path")
    try:
        folder = places.base(path) / Path(section["path"]).expanduser()
        section["path"] = os.path.abspath(folder)
        folder.exists()  # may itself fail; whether the folder must be there is for the data set to say
    except (OSError, RuntimeError, ValueError) as reason:
        del section["path"]
        why = reason.strerror if isinstance(reason, OSError) else str(reason)
        yield Problem(path, f"the path cannot be used: {why}; give a folder")


def _as_seen_from_here(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
