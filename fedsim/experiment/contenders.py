"""The schedulers of a comparison by label, from the command line or from Python.

Knows how they are written and called; nothing of scenarios.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from fedsim.documents.reading import Unreadable, read
from fedsim.errors import UserError, shown
from fedsim.experiment.output import short
from fedsim.experiment.registry import registry

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ENTRY: Final = re.compile(r"(?:(?P<label>[^={]+?)\s*=\s*)?(?P<name>[\w.:-]+)\s*(?P<options>\{.*\})?", re.DOTALL)
_FORM: Final = "write NAME, module:Class, NAME{option: value} or LABEL=NAME{...}, with commas between"


def written(text: str) -> dict[str, Any]:
    """The schedulers of a command line, by label: `fedavg,fedoptima{admission: fcfs},own=my_package:Mine`.

    Raises:
        UserError: the text is not written like that, or two of them have the same label.
    """
    return _distinct(_entry(part) for part in _parts(text))


def given(schedulers: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """The schedulers of a Python program, by label: names, mappings of options, dataclasses, or any of these by label.

    Raises:
        UserError: two of them have the same label, or a label fits no folder.
    """
    if isinstance(schedulers, Mapping):
        return _distinct(schedulers.items())
    return _distinct((_label_of(value), value) for value in schedulers)


def everybody() -> dict[str, Any]:
    """Every scheduler of the catalogue, by its name."""
    return {name: name for name in registry().schedulers}


def as_section(scheduler: Any) -> dict[str, Any]:
    """A scheduler as the section of a scenario: its name, or the object in its place, and options."""
    return dict(scheduler) if isinstance(scheduler, Mapping) else {"name": scheduler}


def _parts(text: str) -> Iterator[str]:
    """The parts between those commas that stand outside of brackets and of quotes in them."""
    depth, quote, start = 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif depth and letter in "'\"":
            quote = letter
        elif letter in "{[":
            depth += 1
        elif letter in "}]":
            depth -= 1
        elif letter == "," and not depth:
            yield text[start:index].strip()
            start = index + 1
    yield text[start:].strip()


def _entry(text: str) -> tuple[str, Any]:
    """The label and the scheduler of one part."""
    found = _ENTRY.fullmatch(text)
    if found is None:
        raise UserError(f"{shown(text)} is no scheduler to compare; {_FORM}")
    value: Any = found["name"]
    if found["options"]:
        try:
            options, _ = read(found["options"], "scenario")
        except Unreadable as error:
            raise UserError(f"options of scheduler {shown(text)}: {error.sentence}") from error
        assert isinstance(options, dict)
        if "name" in options:
            raise UserError(f"options of scheduler {shown(text)}: its name stands before the bracket; {_FORM}")
        value = {"name": value, **options}
    return found["label"] or _label_of(value), value


def _label_of(scheduler: Any) -> str:
    """A label from a scheduler's name and the options it is given."""
    section = as_section(scheduler)
    name = section.get("name")
    if not isinstance(name, str):
        kind = name if isinstance(name, type) else type(name)
        name = next((known for known, own in registry().schedulers.items() if own is kind), kind.__name__)
    parts = [short(name), *(f"{key}-{value}" for key, value in section.items() if key != "name")]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).strip("-_.")[:100]


def _distinct(found: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for label, value in found:
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            rules = "letters, digits, '-', '_' and '.', and begin with a letter or digit, at most 100 of them"
            raise UserError(f"{shown(label)} is no label of a scheduler; use {rules}")
        if label in result:
            raise UserError(
                f"two schedulers are called {label}; give one of them a label of its own, as in again={label}"
            )
        result[label] = value
    return result
