"""A scenario under many schedulers and seeds: a checked scenario for each, before anything runs.

Knows which options reach which scheduler; nothing of runs and folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Final

from fedsim.errors import UserError
from fedsim.experiment.contenders import as_section
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.registry import registry
from fedsim.scenario import Scenario, import_object, resolved
from fedsim.scenario.files import opened
from fedsim.scenario.options import names_of

_KEY: Final = "scheduler"
_LAST_SEED: Final = 2**63 - 1


@dataclass(frozen=True)
class Cell:
    """One scheduler with one seed."""

    label: str
    """What the comparison calls the scheduler."""
    scenario: Scenario

    @property
    def seed(self) -> int:
        """All that is random in it follows from this."""
        return self.scenario.seed

    @property
    def name(self) -> str:
        """That of its folder."""
        return f"{self.label}-seed{self.seed}"


@dataclass(frozen=True)
class Contest:
    """The cells of a comparison, one seed after the other: neighbours share their data."""

    cells: tuple[Cell, ...]
    objects: Mapping[str, Any] = field(default_factory=dict)
    """What names of the form `module:Class` stand for, if not an import."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how the schedulers came to their options."""

    @property
    def labels(self) -> list[str]:
        """The schedulers, in their order."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in their order."""
        return list(dict.fromkeys(cell.seed for cell in self.cells))

    @property
    def name(self) -> str:
        """That of the scenario."""
        return self.cells[0].scenario.name

    def common(self) -> dict[str, Any]:
        """The resolved scenario without what cells differ in."""
        return {key: value for key, value in resolved(self.cells[0].scenario).items() if key not in (_KEY, "seed")}

    def without(self, labels: Sequence[str]) -> Contest:
        """The same without some of the schedulers."""
        return Contest(tuple(cell for cell in self.cells if cell.label not in labels), self.objects, self.notes)


def contest(
    source: str | Path | Mapping[str, Any],
    schedulers: Mapping[str, Any],
    *,
    seeds: int,
    overrides: Sequence[str],
    updates: Mapping[str, Any],
    objects: Mapping[str, Any],
) -> Contest:
    """A scenario under every one of the schedulers, for so many seeds from its own on.

    The options of a scheduler are those of the scenario's own `scheduler` section, if that names it; over these, what
    overrides (`scheduler.KEY=VALUE`) give to all that have the option; over these, its own.

    Raises:
        UserError: something is wrong with the scenario under one of them; everything is listed.
    """
    if not schedulers:
        raise UserError("there is no scheduler to compare; name one or more of `fedsim list schedulers`")
    if seeds < 1:
        raise UserError(f"{seeds} seeds; compare with 1 or more")
    if _KEY in updates:
        raise UserError("scheduler stands beside the schedulers to compare; give it as one of them")
    own = opened(source)[0].get(_KEY)
    asked = {label: as_section(scheduler) for label, scheduler in schedulers.items()}
    sections = {label: _on(own, section) for label, section in asked.items()}
    sets, notes = _shares(overrides, asked)
    notes += _own_alone(own, asked, sets)
    scenarios: dict[str, Scenario] = {}
    problems: list[str] = []
    for label, section in sections.items():
        changes = {**updates, _KEY: section}
        try:
            scenarios[label] = load_scenario(source, overrides=sets[label], updates=changes, objects=objects)
        except UserError as error:
            problems += _sentences(error, label)
    if problems:
        raise UserError(_listed(list(dict.fromkeys(problems))))
    first = next(iter(scenarios.values())).seed
    if first + seeds - 1 > _LAST_SEED:
        raise UserError(f"{seeds} seeds from {first} on, but a seed is less than 2^63; begin with a smaller one")
    cells = (
        Cell(label, scenario.model_copy(update={"seed": seed}))
        for seed in range(first, first + seeds)
        for label, scenario in scenarios.items()
    )
    return Contest(tuple(cells), objects, tuple(notes))


def _on(own: Any, section: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's section on the options of the scenario's own, if that names the same one."""
    return {**own, **section} if _is_named(own, section.get("name")) else section


def _is_named(own: Any, name: Any) -> bool:
    return isinstance(own, dict) and isinstance(name, str) and own.get("name") == name


def _shares(overrides: Sequence[str], asked: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, list[str]], list[str]]:
    """The overrides that each scheduler gets, and notes on those of options that only some have.

    Raises:
        UserError: one of them would name the scheduler.
    """
    sets: dict[str, list[str]] = {label: [] for label in asked}
    notes = []
    options = {label: _options(section.get("name")) for label, section in asked.items()}
    for text in overrides:
        takers = list(asked)
        path = [word.strip() for word in text.partition("=")[0].split(".")]
        if path[0] == _KEY:
            if len(path) == 1 or path[1] == "name":
                raise UserError(f"--set {'.'.join(path)} names a scheduler; `compare` takes them from --schedulers")
            able = [label for label, known in options.items() if known is None or path[1] in known]
            lacking = [label for label in asked if label not in able]
            takers = [label for label in able or asked if path[1] not in asked[label]]
            if able and lacking:
                notes.append(f"--set {text} is nothing to {', '.join(lacking)}, without an option {path[1]}")
        for label in takers:
            sets[label].append(text)
    return sets, notes


def _own_alone(own: Any, asked: Mapping[str, Mapping[str, Any]], sets: Mapping[str, Sequence[str]]) -> Iterator[str]:
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
            and not any(text.startswith(f"{_KEY}.{key}") for text in sets[label])
        ]
        if key != "name" and others:
            so = f"the scenario's {_KEY}.{key}: {value} is for {own['name']} only, not for {', '.join(others)}"
            yield f"{so}; --set {_KEY}.{key}={value} gives it to all"


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


def sentence(error: Exception, label: str) -> str:
    """What an error says of a cell; the comparison has put the scheduler into its scenario, no Python program."""
    return str(error).replace(f"({_KEY} from Python)", f"({_KEY} {label})")


def _sentences(error: UserError, label: str) -> list[str]:
    text = sentence(error, label)
    return text.split("\n  ")[1:] or [text]


def _listed(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} errors in what is to be compared:", *problems])
