"""Where things stand in a scenario, and what is wrong with it: places, problems, the error that lists them.

Knows nothing of YAML or of what a scenario may contain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
class Places:
    """Where each value of a scenario was given: a line of a file, or a text such as `--set seed`.

    All places are equal to each other: two scenarios are equal when their values are.
    """

    file: str = field(default="", compare=False)
    """The scenario file as messages show it; empty where the scenario was given from Python."""
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
        return f"({place or self.file or 'scenario given from Python'})"

    def base(self, path: KeyPath) -> Path:
        """The folder from which a relative path given at `path` starts: the file's, else the current one."""
        return self.folder if isinstance(self.place(path), int) else Path.cwd()

    def moved(self, path: KeyPath, place: str) -> Places:
        """The same places, with everything at and below `path` now given at `place`."""
        kept = {key: value for key, value in self.at.items() if key[: len(path)] != path}
        return Places(self.file, self.folder, kept | {path: place})


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: at `path`, and the sentence that says what, the rule and the way out."""

    path: KeyPath
    sentence: str
    place: str = ""
    """Where it was given, if no place is known for the path."""


class ScenarioError(UserError):
    """A scenario is wrong; the text lists what, where, the rule and the way out, in order of line."""

    problems: tuple[Problem, ...] = ()


def error(problems: Iterable[Problem], places: Places) -> ScenarioError:
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
        text = "\n  ".join([f"{len(lines)} errors in {places.file or 'the scenario'}:", *lines[:_LISTED], *more])
    result = ScenarioError(text)
    result.problems = tuple(found)
    return result


def _line(problem: Problem, places: Places) -> str:
    what = f"{dotted(problem.path)}: {problem.sentence}" if problem.path else problem.sentence
    where = f"({problem.place})" if problem.place else places.where(problem.path)
    return f"{what} {where}".replace("\n", " ")
