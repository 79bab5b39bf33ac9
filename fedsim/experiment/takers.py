"""Which options reach which of several schedulers that run the same scenario.

Knows schedulers' sections and overrides; nothing of cells and runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Final

from fedsim.errors import UserError
from fedsim.experiment.registry import registry
from fedsim.scenario import import_object
from fedsim.scenario.options import names_of

KEY: Final = "scheduler"


def completed(own: Any, section: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's section on the options of the scenario's own, if that names the same one."""
    return {**own, **section} if _is_named(own, section.get("name")) else section


def shares(
    overrides: Sequence[str], asked: Mapping[str, Mapping[str, Any]], named_by: str
) -> tuple[dict[str, list[str]], list[str]]:
    """The overrides that each scheduler gets, and notes on those of options that only some have.

    Args:
        overrides: `key.path=value` each.
        asked: schedulers' sections by label.
        named_by: where the schedulers come from.

    Raises:
        UserError: one of them would name the scheduler.
    """
    sets: dict[str, list[str]] = {label: [] for label in asked}
    notes = []
    options = {label: _options(section.get("name")) for label, section in asked.items()}
    for text in overrides:
        takers = list(asked)
        path = [word.strip() for word in text.partition("=")[0].split(".")]
        if path[0] == KEY:
            if len(path) == 1 or path[1] == "name":
                raise UserError(f"--set {'.'.join(path)} names a scheduler; {named_by}")
            able = [label for label, known in options.items() if known is None or path[1] in known]
            lacking = [label for label in asked if label not in able]
            takers = [label for label in able or asked if path[1] not in asked[label]]
            if able and lacking:
                notes.append(f"--set {text} is nothing to {', '.join(lacking)}, without an option {path[1]}")
        for label in takers:
            sets[label].append(text)
    return sets, notes


def own_alone(own: Any, asked: Mapping[str, Mapping[str, Any]], sets: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Notes on options that the scenario gives its own scheduler, and others have without being given them."""
    if not any(_is_named(own, section.get("name")) for section in asked.values()):
        return
    for key, value in own.items():
        others = [
            label
            for label, section in asked.items()
            if not _is_named(own, section.get("name"))
            and key not in section
            and key in (_options(section.get("name")) or ())
            and not any(text.startswith(f"{KEY}.{key}") for text in sets[label])
        ]
        if key != "name" and others:
            so = f"the scenario's {KEY}.{key}: {value} is for {own['name']} only, not for {', '.join(others)}"
            yield f"{so}; --set {KEY}.{key}={value} gives it to all"


def _is_named(own: Any, name: Any) -> bool:
    return isinstance(own, dict) and isinstance(name, str) and own.get("name") == name


def _options(name: Any) -> set[str] | None:
    """The options that a scheduler takes; None where it cannot be found, which loading will say."""
    target: object = name
    if isinstance(name, str):
        target = registry().schedulers.get(name)
        if target is None:
            try:
                target = import_object(name)
            except UserError:
                return None
    return set(names_of(target)) if is_dataclass(target) else None
