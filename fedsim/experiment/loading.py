"""Scenarios with this installation's registry, and with objects in the place of names when they come from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.data import DataSet
from fedsim.experiment.registry import registry
from fedsim.scenario import Scenario, import_object, load

Objects = dict[str, Any]


def load_scenario(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    updates: Mapping[str, Any] | None = None,
    objects: Mapping[str, Any] | None = None,
) -> Scenario:
    """A checked scenario; `objects` holds what names of the form `module:Class` stand for.

    Raises:
        UserError: what is wrong with it, all at once.
    """
    known = objects or {}

    def resolve(name: str) -> object:
        found = known.get(name)
        return import_object(name) if found is None else found

    found = dataclasses.replace(registry(), resolve=resolve)
    return load(source, overrides=overrides, updates=updates or {}, registry=found)


def named(updates: Mapping[str, Any]) -> tuple[dict[str, Any], Objects]:
    """Updates with objects replaced by names, and the objects by those names.

    `scheduler` may be an instance or a class, `model` and `data` a function, `data` a `DataSet` as well; also as the
    `name` of a section.
    """
    objects: Objects = {}
    plain: dict[str, Any] = {}
    for key, value in updates.items():
        section = dict(value) if isinstance(value, Mapping) else {"name": value}
        name = section.get("name")
        if key in ("scheduler", "model", "data") and name is not None and not isinstance(name, str):
            if isinstance(name, DataSet):
                section["name"] = _remember(objects, f"data:{_word(name.info.name)}", lambda data=name: data)
            elif isinstance(name, type) or not dataclasses.is_dataclass(name):
                section["name"] = _remember(objects, _label(name), name)
            else:  # an instance: its class by name, its fields as options
                given = {f.name: getattr(name, f.name) for f in dataclasses.fields(name)}
                section = {**given, **section, "name": _remember(objects, _label(type(name)), type(name))}
            plain[key] = section
        else:
            plain[key] = value
    return plain, objects


def _remember(objects: Objects, name: str, found: Any) -> str:
    objects[name] = found
    return name


def _label(found: Any) -> str:
    qualified = getattr(found, "__qualname__", type(found).__qualname__)
    return f"{found.__module__}:{qualified.rpartition('.')[2]}"


def _word(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text) or "own"
