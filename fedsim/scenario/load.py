"""A scenario from a file, a name of the catalogue or a mapping: read, changed, checked, with every error at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fedsim.documents.checking import checked
from fedsim.documents.files import copied
from fedsim.documents.problems import Places, Problem, error, untold
from fedsim.scenario import files, unsupported
from fedsim.scenario.checks import check
from fedsim.scenario.choices import choose, lengthen
from fedsim.scenario.errors import SCENARIO
from fedsim.scenario.overrides import Change, apply
from fedsim.scenario.registry import Registry
from fedsim.scenario.schema import Scenario
from fedsim.scenario.sweeps import MANY_RUNS, OFF, SWEEP

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def load(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    updates: Mapping[str, Any] = _NOTHING,
    cell: Sequence[Change] | None = None,
    registry: Registry,
) -> Scenario:
    """The scenario of a name (`quickstart`), a path or a mapping, with `overrides` (`--set`) applied last.

    Args:
        source: A name of the catalogue, the path of a YAML file, or the same data as a mapping. Relative paths inside
            start at the file's folder; in a mapping, an update or an override, at the current folder.
        overrides: `key.path=value` each, the value in YAML; list items by number, `fleet.0.count=3`.
        updates: Keys with their new values, each replacing what the source has there; `until.rounds` is a key, too.
        cell: What a sweep sets in this cell of it; None: it is no cell, so the source must not be a sweep.
        registry: What schedulers, models, data sets, partitions and optimizers there are.

    Raises:
        ScenarioError: something in the scenario is wrong; the message lists all that was found.
        UserError: there is no such scenario, or its file cannot be read.
    """
    data, places = files.opened(source)
    changes = copied(updates, SCENARIO)
    if cell is not None:
        data.pop(SWEEP, None)
    return _checked(data, places, overrides, changes, cell or (), registry)


def _checked(
    data: dict[str, Any],
    places: Places,
    sets: Sequence[str],
    updates: Mapping[str, Any],
    cell: Sequence[Change],
    registry: Registry,
) -> Scenario:
    places, found = apply(data, places, sets, updates, cell)
    if SWEEP in data and data.pop(SWEEP) not in OFF:
        found.append(Problem((SWEEP,), MANY_RUNS))
    lengthen(data)
    if places.file and "name" not in data:
        data["name"] = Path(places.file).stem
    found += unsupported.remove(data)
    found += files.found(data, places)
    found += choose(data, registry)
    scenario, later = checked(Scenario, data)
    found += untold(later, found) if scenario is None else check(scenario)
    if scenario is None or found:
        raise error(found, places)
    return scenario.placed(places)
