"""A scenario from a file, a name of the catalogue or a mapping: read, changed, checked, with every error at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from fedsim.errors import shown
from fedsim.scenario import files, unsupported
from fedsim.scenario.checks import check
from fedsim.scenario.choices import choose, lengthen
from fedsim.scenario.overrides import apply
from fedsim.scenario.problems import KeyPath, Places, Problem, error
from fedsim.scenario.registry import Registry
from fedsim.scenario.schema import Scenario, keys_of, section_at
from fedsim.scenario.translate import problems

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def load(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    updates: Mapping[str, Any] = _NOTHING,
    registry: Registry,
) -> Scenario:
    """The scenario of a name (`quickstart`), a path or a mapping, with `overrides` (`--set`) applied last.

    Args:
        source: A name of the catalogue, the path of a YAML file, or the same data as a mapping. Relative paths inside
            start at the file's folder; in a mapping, an update or an override, at the current folder.
        overrides: `key.path=value` each, the value in YAML; list items by number, `fleet.0.count=3`.
        updates: Keys with their new values, each replacing what the source has there; `until.rounds` is a key, too.
        registry: What schedulers, models, data sets, partitions and optimizers there are.

    Raises:
        ScenarioError: something in the scenario is wrong; the message lists all that was found.
        UserError: there is no such scenario, or its file cannot be read.
    """
    data, places = files.opened(source)
    if not isinstance(data, dict):
        what = "nothing is there" if data is None else f"{shown(data)} is no scenario"
        raise error([Problem((), f"{what}; give a mapping of keys, such as 'model: vgg5'")], places)
    return _checked(data, places, overrides, files.copied(updates), registry)


def _checked(
    data: dict[str, Any], places: Places, sets: Sequence[str], updates: Mapping[str, Any], registry: Registry
) -> Scenario:
    places, found = apply(data, places, sets, updates)
    lengthen(data)
    if places.file and "name" not in data:
        data["name"] = Path(places.file).stem
    found += unsupported.remove(data)
    found += files.found(data, places)
    found += choose(data, registry)
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as reason:
        found += _news(problems(reason, data, (), _keys), found)
    else:
        found += check(scenario)
        if not found:
            return scenario.placed(places)
    raise error(found, places)


def _keys(path: KeyPath) -> Mapping[str, Any]:
    section = section_at(path)
    return keys_of(section) if section is not None else {}


def _news(later: Iterable[Problem], found: Sequence[Problem]) -> list[Problem]:
    """Of the `later` problems, those that are no echo of one `found` before at the same place or around it."""
    told = {problem.path for problem in found if problem.path}
    return [problem for problem in later if not any(problem.path[:n] in told for n in range(1, len(problem.path) + 1))]
