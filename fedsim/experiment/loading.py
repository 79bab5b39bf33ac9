"""Scenarios with this installation's registry, and with objects in the place of names when they come from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.data import DataSet
from fedsim.experiment.registry import registry
from fedsim.scenario import Change, Scenario, import_object, load
from fedsim.scenario.files import opened
from fedsim.scenario.sweeps import taken

Objects = dict[str, Any]


def load_scenario(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    updates: Mapping[str, Any] | None = None,
    cell: Sequence[Change] | None = None,
    objects: Mapping[str, Any] | None = None,
) -> Scenario:
    """A checked scenario; `objects` holds what names of the form `module:Class` stand for, `cell` what a sweep sets.

    Raises:
        UserError: what is wrong with it, all at once.
    """
    known = objects or {}

    def resolve(name: str) -> object:
        found = known.get(name)
        return import_object(name) if found is None else found

    found = dataclasses.replace(registry(), resolve=resolve)
    return load(source, overrides=overrides, updates=updates or {}, cell=cell, registry=found)


def is_sweep(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> bool:
    """Whether a scenario is many: it has a section `sweep`, in its file or by an override.

    Raises:
        UserError: the source, or such an override, cannot be read.
    """
    return taken(*opened(source), overrides)[0] is not None


def named(updates: Mapping[str, Any]) -> tuple[dict[str, Any], Objects]:
    """Updates with the user's own models and data sets replaced by names, and the objects by those names.

    A scheduler, and the options of a model of the catalogue, need no such name: `load` takes a dataclass or an
    instance of one as it is, because all there is to it can be written in a file. `model` may otherwise be a
    callable, `data` a callable or a `DataSet`; also as the `name` of a section.
    """
    objects: Objects = {}
    plain: dict[str, Any] = {}
    known = tuple(registry().models.values())
    for key, value in updates.items():
        section = dict(value) if isinstance(value, Mapping) else {"name": value}
        name = section.get("name")
        if key == "data" and isinstance(name, DataSet):
            label = _remember(objects, f"fedsim.data:DataSet({name.info.name})", lambda found=name: found)
        elif key in ("model", "data") and callable(name) and not (key == "model" and _is_option(name, known)):
            label = _remember(objects, _label(name), name)
        else:
            plain[key] = value
            continue
        plain[key] = {**section, "name": label}
    return plain, objects


def _is_option(name: Any, known: tuple[type, ...]) -> bool:
    return isinstance(name, known) or name in known


def _remember(objects: Objects, label: str, found: Any) -> str:
    """File an object under its label, or under the next one where another object has that."""
    name, number = label, 1
    while name in objects:
        number += 1
        name = f"{label}#{number}"
    objects[name] = found
    return name


def _label(found: Any) -> str:
    """`module:name`; what cannot be imported by its name gets one that says so, as in `module:f.<locals>.g`."""
    name = getattr(found, "__qualname__", None)
    return f"{found.__module__}:{name or f'{type(found).__qualname__}(...)'}"
