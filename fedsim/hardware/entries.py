"""Entries of the catalogue: files that describe one thing each, with an `id` that is the file's name.

Knows what profiles and links have in common, not what is in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel

from fedsim import catalogue
from fedsim.documents import files
from fedsim.documents.checking import checked
from fedsim.documents.problems import DocumentKind, Places, Problem, error, untold
from fedsim.documents.translate import missing
from fedsim.errors import shown

M = TypeVar("M", bound=BaseModel)
_HYPHENATED: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _hyphenated(text: str) -> str:
    if not _HYPHENATED.fullmatch(text):
        raise ValueError(f"{shown(text)} does not fit; give lower case words joined by hyphens, such as my-own-2")
    return text


Identifier = Annotated[str, AfterValidator(_hyphenated)]


def load(
    model: type[M],
    kind: DocumentKind,
    name: str,
    relative_to: Path | None = None,
    *,
    first: Callable[[Mapping[str, Any]], Iterator[Problem]] | None = None,
) -> M:
    """The `model` that the file of a name of the catalogue, or of a path, describes.

    Args:
        model: What the file holds.
        kind: What messages call it; its name is the catalogue's.
        name: A name of the catalogue, or a path.
        relative_to: The folder where a relative path starts.
        first: Finds what makes all else that is wrong meaningless.

    Raises:
        UserError: there is no such file, or it breaks a rule; with file, line and the way out.
    """
    path = catalogue.find(kind.name, name, relative_to)
    data, places = files.load(path, kind)
    if first is not None and (found := list(first(data))):
        raise error(found, places)
    return valid(model, data, places, list(_misnamed(data, path)))


def valid(model: type[M], data: dict[str, Any], places: Places, found: list[Problem]) -> M:
    """The `model` of plain data.

    Raises:
        DocumentError: the data break a rule of the model, or something was `found` before.
    """
    result, later = checked(model, data)
    if result is None or found:
        raise error([*found, *untold(later, found)], places)
    return result


def _misnamed(data: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """What is wrong with an `id` that is not the name of its file."""
    if "id" not in data:
        yield Problem(("id",), missing("id", path.stem))
    elif isinstance(data["id"], str) and data["id"] != path.stem:
        yield Problem(("id",), f"{shown(data['id'])}, but the file is called {path.name}; make them equal")
