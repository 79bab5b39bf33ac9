"""A document's file, or the data that Python gives in its stead: plain data, and where things are in them.

Knows files and their encoding, not what a document may contain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fedsim.documents.problems import DocumentKind, Places, Problem, error
from fedsim.documents.reading import Unreadable, read
from fedsim.errors import UserError, shown

_DEPTH: Final = 40  # as deep as a file may be


def load(path: Path, kind: DocumentKind) -> tuple[dict[str, Any], Places]:
    """The keys of a YAML file with their plain data, and where they are.

    Raises:
        UserError: the file is not there or is not text.
        DocumentError: it is not YAML, or not a mapping.
    """
    file = _as_seen_from_here(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise UserError(f"{file} is not text in UTF-8 (byte {reason.start}); save it as UTF-8") from reason
    except (OSError, ValueError) as reason:
        why = reason.strerror if isinstance(reason, OSError) else str(reason)
        raise UserError(f"{kind.name} file {file} cannot be read: {why}; check the path") from reason
    try:
        data, lines = read(text, kind.name)
    except Unreadable as reason:
        raise error([Problem((), reason.sentence)], Places(kind, file, at={(): reason.line})) from reason
    places = Places(kind, file, path.absolute().parent, dict(lines))
    if not isinstance(data, dict):
        what = "nothing is there" if data is None else f"{shown(data)} is no {kind.name}"
        raise error([Problem((), f"{what}; give a mapping of keys, such as '{kind.example}'")], places)
    return data, places


def copied(value: object, kind: DocumentKind, depth: int = 0) -> Any:
    """Plain data of one's own, from mappings and sequences of any kind; other objects stay what they are.

    Raises:
        UserError: a key is no string, or the data are nested without end.
    """
    if depth > _DEPTH:
        said = f"the {kind.name} given from Python is nested more than {_DEPTH} deep"
        raise UserError(f"{said}; a {kind.name} needs no more than 5")
    match value:
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise UserError(f"{shown(key)} is no key of a {kind.name}; keys are strings")
            return {key: copied(item, kind, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [copied(item, kind, depth + 1) for item in value]
        case os.PathLike():
            return os.fspath(value)
        case str() if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UserError(f"{shown(value)} is not text that a file in UTF-8 can hold; rename it")
        case _:
            return value


def _as_seen_from_here(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
