"""The page of scenario keys: sections by schema, then what can be named in them, each with its options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, get_args

from pydantic import BaseModel

from docs.make.forms import QUANTITIES, keys
from docs.make.tables import keys_table, table
from fedsim.cli.listing import entries
from fedsim.documents.checking import keys_of
from fedsim.experiment.registry import FILES, registry
from fedsim.learning.optimizers import Schedule
from fedsim.pruning.reconvene.options import Budget
from fedsim.scenario.checks import RULES
from fedsim.scenario.schema import Scenario

_HEAD: Final = """\
# Scenario keys

<!-- Written by `python -m docs.make` from the schema and the registered options. Change those, not this page. -->

Every key that a scenario file may have. An unknown key, a quantity without a unit and a value that does not fit are
refused with file, line and the way out. `fedsim check SCENARIO` writes a scenario out with every default in place; any
key can be overridden where a scenario is run, as in `--set training.optimizer.lr=0.05` and, for items of a list,
`--set fleet.0.count=10`, or `--set fleet.*.count=10` for all of them.

A default of `null` says that nothing is given; what that means stands beside it. `{}` is a section in which every key
has its default. Relative paths start at the scenario file. `module:Class` names something of your own, found in the
current folder or on `PYTHONPATH`.

## Forms

"""


_SWEEP: Final = (
    ["a path, as `--set` writes it", "a list of values", "", "An axis: the values that stand there in turn."],
    [
        *("a name of your own", "`{set: PATHS, to: VALUES}`", ""),
        "An axis whose paths all take the same value in turn; `to` is a list, or values by label.",
    ],
    [
        *("a name of your own", "a mapping of labels to what each sets", ""),
        "An axis whose choices each set several paths.",
    ],
    [
        *("`seeds`", "whole number (at least 1)", "`1`"),
        "Each cell runs with the scenario's seed and those that follow it.",
    ],
    ["`targets`", "list of accuracies", "`[]`", "Accuracies whose time is compared."],
)


def page() -> str:
    """The whole page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    yield table(["form", "written as"], [[name, dimension.example] for name, (dimension, _) in QUANTITIES.items()])
    for model, places in _sections().items():
        title = "The scenario" if not places else " and ".join(f"`{place}`" for place in places)
        prose = "What a file holds, at its top." if model is Scenario else _prose(model)
        yield f"\n## {title}\n\n{prose}\n\n"
        found = keys(model)
        if model is Scenario:
            found = [replace(key, default="the file's name") if key.name == "name" else key for key in found]
        if found:
            yield keys_table(found)
        if rules := list(_rules(model)):
            yield "\n" + "".join(f"* {rule}\n" for rule in rules)
        for part in _beside(places):
            yield f"\n{part}"
    yield "\n## `sweep`\n\nA scenario with this section is as many as its axes have combinations "
    yield "([scenarios.md](scenarios.md#a-sweep)).\n\n"
    yield table(["key", "takes", "default", "what it is"], _SWEEP)
    yield "\n## Rules between sections\n\n"
    yield from (f"* {_prose(rule)}\n" for rule in RULES)


def _sections() -> dict[type[BaseModel], list[str]]:
    """Every section of a scenario with the places that it has, from the top down."""
    found: dict[type[BaseModel], list[str]] = {}
    _look(Scenario, "", found)
    return found


def _look(model: type[BaseModel], place: str, found: dict[type[BaseModel], list[str]]) -> None:
    new = model not in found
    found.setdefault(model, [])
    if place and place not in found[model]:
        found[model].append(place)
    if not new:
        return
    for name, field in keys_of(model).items():
        for inner, listed in _models(field.annotation, inside=""):
            _look(inner, f"{place}.{name}{listed}".removeprefix("."), found)


def _models(annotation: Any, inside: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, inside
        return
    listed = {tuple: ".N", list: ".N", dict: ".NAME"}.get(getattr(annotation, "__origin__", None), inside)  # type: ignore[arg-type]
    for part in get_args(annotation):
        yield from _models(part, listed)


def _beside(places: list[str]) -> Iterator[str]:
    """What can be named in a section, with the options that stand beside the name."""
    known = registry()
    match places:
        case ["model", *_]:
            summaries = entries("models")
            for kind, names in _by_type(known.models).items():
                yield _named(names, kind, [f"`{name}`: {summaries[name]}." for name in names])
        case ["data"]:
            rows = [[f"`{name}`", what] for name, what in entries("data").items()]
            rows += [[f"`{name}`", "a file, which `path` names"] for name in FILES]
            yield table(["`data.name`", "what it is"], rows)
        case ["data.partition"]:
            yield from (_named([name], kind) for name, kind in known.partitions.items())
        case ["scheduler"]:
            rows = [[f"[`{name}`](schedulers/{name}.md)", what] for name, what in entries("schedulers").items()]
            yield table(["`scheduler.name`", "what it is; its page has its options"], rows)
        case ["training.optimizer"]:
            yield from (_named([name], kind) for name, kind in known.optimizers.items())
            yield f"### `training.optimizer.schedule`\n\n{_prose(Schedule)}\n\n{keys_table(keys(Schedule))}"
        case ["auxiliary"]:
            assert known.auxiliary is not None
            yield f"{_prose(known.auxiliary)}\n\n{keys_table(keys(known.auxiliary))}"
        case ["pruning"]:
            yield from (_named([name], kind) for name, kind in known.pruners.items())
            yield f"### `pruning.budget`, of reconvene\n\n{_prose(Budget)}\n\n{keys_table(keys(Budget))}"
        case ["fleet.N"]:
            yield f"### Profiles\n\n{_listed('profiles', 'profile')}\n### Links\n\n{_listed('links', 'link')}"
        case _:
            pass


def _by_type(types: Any) -> dict[type[Any], list[str]]:
    found: dict[type[Any], list[str]] = {}
    for name, kind in types.items():
        found.setdefault(kind, []).append(name)
    return found


def _named(names: list[str], kind: type[Any], more: list[str] | None = None) -> str:
    title = ", ".join(f"`{name}`" for name in names)
    options = keys(kind)
    lines = [f"### {title}", " ".join(more) if more else "", _prose(kind)]
    text = "\n\n".join(line for line in lines if line)
    return f"{text}\n\n{keys_table(options, 'option') if options else ''}"


def _listed(kind: str, head: str) -> str:
    return table([head, "what it is"], [[f"`{name}`", what] for name, what in entries(kind).items()])


def _prose(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def _rules(model: type[BaseModel]) -> Iterator[str]:
    """What keys of one section demand of one another: the docstrings of the checks."""
    for decorator in model.__pydantic_decorators__.model_validators.values():
        text = inspect.getdoc(decorator.func)
        if not text:
            raise ValueError(f"{model.__name__}.{decorator.func.__name__} has no docstring; say what it demands")
        yield " ".join(text.split())
