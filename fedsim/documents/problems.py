"""Where things stand in a document, and what is wrong with it: places, problems, the error that lists them.

Knows nothing of YAML or of what a document may contain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from fedsim.errors import UserError

KeyPath = tuple[str | int, ...]
"""The way to a value: `("fleet", 0, "count")`."""

_LISTED: Final = 10  # a longer list says no more than "start again"


def dotted(path: KeyPath) -> str:
    """The path as `--set` writes it: `fleet.0.count`."""
    return ".".join(str(key) for key in path)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: at `path`, and the sentence that says what, the rule and the way out."""

    path: KeyPath
    sentence: str
    place: str = ""
    """Where it was given, if no place is known for the path."""


class DocumentError(UserError):
    """A document is wrong; the text lists what, where, the rule and the way out, in order of line."""

    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class DocumentKind:
    """A sort of document, as messages speak of it."""

    name: str
    """A word: `scenario`."""
    example: str
    """A line of one, which shows what its keys are like: `model: vgg5`."""
    error: type[DocumentError] = DocumentError
    """What is raised when one is wrong."""


@dataclass(frozen=True)
class Places:
    """Where each value of a document was given: a line of a file, or a text such as `--set seed`.

    All places are equal to each other: two documents are equal when their values are.
    """

    kind: DocumentKind = field(compare=False)
    """What the document is."""
    file: str = field(default="", compare=False)
    """The file as messages show it; empty where the document was given from Python."""
    folder: Path = field(default_factory=Path.cwd, compare=False)
    """Relative paths of the file start here."""
    at: Mapping[KeyPath, int | str] = field(default_factory=dict, compare=False)
    """The line (from 1), or the text, of a value; what is missing is where the section around it is."""

    def place(self, path: KeyPath) -> int | str:
        """The line or text for `path`, or for the nearest section around it."""
        return next((self.at[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.at), "")

    def where(self, path: KeyPath) -> str:
        """The end of a message about `path`: `(x.yaml, line 8)`, `(--set seed)`."""
        place = self.place(path)
        if isinstance(place, int):
            return f"({self.file}, line {place})"
        return f"({place or self.file or f'{self.kind.name} given from Python'})"

    def base(self, path: KeyPath) -> Path:
        """The folder from which a relative path given at `path` starts: the file's, else the current one."""
        return self.folder if isinstance(self.place(path), int) else Path.cwd()

    def moved(self, path: KeyPath, place: int | str) -> Places:
        """The same places, with everything at and below `path` now given at `place`."""
        kept = {key: value for key, value in self.at.items() if key[: len(path)] != path}
        return replace(self, at=kept | {path: place})


def untold(later: Iterable[Problem], found: Sequence[Problem]) -> list[Problem]:
    """Of the `later` problems, those that are no echo of one `found` before at the same place or around it."""
    told = {problem.path for problem in found if problem.path}
    return [problem for problem in later if not any(problem.path[:n] in told for n in range(1, len(problem.path) + 1))]


def error(problems: Iterable[Problem], places: Places) -> DocumentError:
    """The error that lists `problems`, each once, in the order of their lines."""

    def order(problem: Problem) -> float:
        place = problem.place or places.place(problem.path)
        return place if isinstance(place, int) else float("inf")

    found = sorted(dict.fromkeys(problems), key=order)
    lines = [_line(problem, places) for problem in found]
    if len(lines) == 1:
        text = lines[0]
    else:
        more = [f"... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        heading = f"{len(lines)} errors in {places.file or f'the {places.kind.name}'}:"
        text = "\n  ".join([heading, *lines[:_LISTED], *more])
    result = places.kind.error(text)
    result.problems = tuple(found)
    return result


def _line(problem: Problem, places: Places) -> str:
    what = f"{dotted(problem.path)}: {problem.sentence}" if problem.path else problem.sentence
    where = f"({problem.place})" if problem.place else places.where(problem.path)
    return f"{what} {where}".replace("\n", " ")
