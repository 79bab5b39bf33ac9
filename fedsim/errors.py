"""The errors of fedsim: what a user can mend, and what we got wrong.

Knows nothing of where an error is shown; the command line turns `UserError` into exit status 2 and
every other `FedsimError` into exit status 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class FedsimError(Exception):
    """Base of every error that fedsim raises on purpose."""


class UserError(FedsimError):
    """The scenario, a file or the command line is wrong; the message says how to mend it."""


class RunError(FedsimError):
    """A run that started could not be finished."""


class ScriptError(RunError):
    """A scheduler's script broke a rule of scripts, such as awaiting something that is not an effect."""


class Deadlock(RunError):
    """Scripts wait and nothing is left that could wake them."""


class SimulatedOutOfMemory(RunError):
    """A simulated node needs more memory than it may use, and the scenario refuses that."""


class AccountingError(RunError):
    """Times or bytes of a finished run do not add up: a mistake of ours, never of the user."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean …?` for the known word nearest to `word`, else the empty string."""
    match = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    return f"did you mean {match[0]}?" if match else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what, the name, the nearest one, all there are."""
    names = sorted(known)
    hint = nearest(word, names)
    there = f"there are: {', '.join(names)}" if names else "there are none"
    return f"unknown {what} {shown(word)}; {hint + ' ' if hint else ''}{there}"


def shown(value: object) -> str:
    """A value as an error message quotes it: on one line, at most about 60 characters, in the words of a file."""
    match value:
        case None | bool():
            text = {None: "null", True: "true", False: "false"}[value]
        case Mapping():
            text = "a mapping"
        case list() | tuple():
            text = "a list"
        case int() if abs(value) >= 10**60:  # also keeps clear of the limit on writing out an int
            text = "a number of more than 60 digits"
        case str() if len(value) > 60:
            text = f"{value[:57]!r}..."
        case _:
            text = repr(value).replace("\n", " ")
    return text if len(text) <= 200 else f"{text[:197]}..."
