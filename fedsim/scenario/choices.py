"""The sections that name an entry of the registry: short forms, names, and the options beside them.

Knows which sections these are; the entries themselves come with the registry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedsim.documents.checking import keys_of, model_at
from fedsim.documents.problems import KeyPath, Problem
from fedsim.documents.translate import does_not_fit, missing, unknown_key
from fedsim.errors import UserError, shown, unknown
from fedsim.scenario.options import build, plain
from fedsim.scenario.pruning import Pruned, Pruning
from fedsim.scenario.registry import Registry
from fedsim.scenario.schema import Scenario


@dataclass(frozen=True)
class Choice:
    """A section that names something: where it is, the key of the name, what it names, and from which table."""

    path: tuple[str, ...]
    key: str
    what: str
    table: Callable[[Registry], Mapping[str, type]] | None
    default: str | None = None
    functions: bool = False
    """Whether an imported function may stand in for a dataclass."""
    own: bool = True
    """Whether it may be one of the user's own."""


CHOICES: Final = (
    Choice(("model",), "name", "model", lambda registry: registry.models, functions=True),
    Choice(("data",), "name", "data set", None),
    Choice(("scheduler",), "name", "scheduler", lambda registry: registry.schedulers),
    Choice(("data", "partition"), "kind", "partition", lambda registry: registry.partitions, "iid"),
    Choice(("training", "optimizer"), "name", "optimizer", lambda registry: registry.optimizers, "sgd", own=False),
)


PRUNER: Final = Choice(("pruning",), "method", "pruning method", lambda registry: registry.pruners)
"""How a method is named, in the scenario's section and in those of groups."""

HEAD: Final = ("auxiliary", "kind")
"""A section that names nothing: its options are those of one type. Its short form is one of them."""


def lengthen(data: dict[str, Any]) -> None:
    """Write short forms out, in place: `model: vgg5` becomes `model: {name: vgg5}`; objects stand for themselves."""
    for choice in CHOICES:
        section = _parent(data, choice)
        value = section.get(choice.path[-1]) if section is not None else None
        if section is not None and (isinstance(value, str) or callable(value) or dataclasses.is_dataclass(value)):
            section[choice.path[-1]] = {choice.key: value}
    if isinstance(data.get(HEAD[0]), str):
        data[HEAD[0]] = {HEAD[1]: data[HEAD[0]]}
    for holder, _ in _pruned(data):
        value = holder["pruning"]
        if value is False or value == "off":
            holder["pruning"] = {}
        elif isinstance(value, str) or dataclasses.is_dataclass(value):
            holder["pruning"] = {"method": value}


def _pruned(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], KeyPath]]:
    """What may hold a section `pruning`, and does: the scenario, and groups of the fleet."""
    fleet = data.get("fleet")
    groups = [(group, ("fleet", index)) for index, group in enumerate(fleet if isinstance(fleet, list) else [])]
    for holder, path in ((data, ()), *groups):
        if isinstance(holder, dict) and holder.get("pruning") is not None:
            yield holder, (*path, "pruning")


def choose(data: dict[str, Any], registry: Registry) -> list[Problem]:
    """Turn the options of every choice into an object under `options`, in place; what is wrong is left out."""
    found: list[Problem] = []
    for choice in CHOICES:
        parent = _parent(data, choice)
        if parent is None:
            continue
        raw = parent.get(choice.path[-1], {choice.key: choice.default} if choice.default else None)
        if raw is None and choice.path[-1] not in parent:
            continue  # the schema says that it is missing
        if isinstance(raw, dict):
            parent[choice.path[-1]], problems = _chosen(choice, dict(raw), registry)
            found += problems
        else:
            example = choice.default or "NAME"
            found.append(Problem(choice.path, does_not_fit(raw, ["a name", f"a mapping {{{choice.key}: {example}}}"])))
            del parent[choice.path[-1]]
    for holder, path in _pruned(data):
        found += _choose_pruning(holder, path, registry)
    return found + _choose_head(data, registry)


def _choose_pruning(holder: dict[str, Any], path: KeyPath, registry: Registry) -> list[Problem]:
    """The options of a pruning method, under `options` beside the keys that every method has."""
    raw = holder["pruning"]
    if not isinstance(raw, dict):
        return []  # `off`, or what the schema refuses
    own = tuple(keys_of(Pruning if len(path) == 1 else Pruned))
    kept = {key: value for key, value in raw.items() if key in own}
    holder["pruning"] = kept
    rest = {key: value for key, value in raw.items() if key not in own}
    named = kept.get("method")
    if named is None:
        return [Problem((*path, key), f"{unknown_key(key, own)}; options of a method need method") for key in rest]
    try:
        kept["method"], target = _target(PRUNER, registry.pruners, named, registry)
        if not isinstance(target, type):
            rest, target = plain(target) | rest, type(target)
    except UserError as error:
        kept["method"] = "?"
        return [Problem((*path, "method"), str(error))]
    kept["options"], found = build(target, rest, path, own)
    return found


def _choose_head(data: dict[str, Any], registry: Registry) -> list[Problem]:
    key = HEAD[0]
    raw = data.get(key, {})
    if registry.auxiliary is None:
        return []
    if dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        raw = plain(raw)
    if not isinstance(raw, dict):
        del data[key]
        return [Problem((key,), does_not_fit(raw, ["a kind of head", "a mapping {kind: scaled_layer}"]))]
    options, problems = build(registry.auxiliary, dict(raw), (key,), ())
    data[key] = {"options": options}
    return problems


def _parent(data: dict[str, Any], choice: Choice) -> dict[str, Any] | None:
    """The mapping that holds the section; it is made where everything in it has a default."""
    node: Any = data
    for key in choice.path[:-1]:
        if key not in node and choice.default and key == "training":
            node[key] = {}
        node = node.get(key)
        if not isinstance(node, dict):
            return None
    return node if isinstance(node, dict) else None


def _chosen(choice: Choice, raw: dict[str, Any], registry: Registry) -> tuple[dict[str, Any], list[Problem]]:
    section = model_at(Scenario, choice.path)
    assert section is not None
    own = tuple(keys_of(section))
    kept = {key: raw.pop(key) for key in own if key in raw}
    named = kept.get(choice.key, choice.default)
    if choice.key not in kept and choice.default is None:
        example = keys_of(section)[choice.key].examples[0]
        kept[choice.key] = "?"
        return kept, [Problem((*choice.path, choice.key), missing(choice.key, example))]
    if choice.table is None:
        name, problems = _data_set(named, registry, with_path=kept.get("path") is not None)
        kept[choice.key] = name
        return kept | raw, [Problem((*choice.path, choice.key), text) for text in problems]
    try:
        name, target = _target(choice, choice.table(registry), named, registry)
        if dataclasses.is_dataclass(target) and not isinstance(target, type):
            raw, target = plain(target) | raw, type(target)
    except UserError as error:
        kept[choice.key] = "?"
        return kept, [Problem((*choice.path, choice.key), str(error))]
    kept[choice.key] = name
    kept["options"], found = build(target, raw, choice.path, own)
    return kept, found


def _target(choice: Choice, table: Mapping[str, type], named: object, registry: Registry) -> tuple[str, Any]:
    """The name and the type (or object) that a scenario means by `named`."""
    if isinstance(named, str):
        if named in table:
            return named, table[named]
        if not choice.own:
            raise UserError(f"{unknown(choice.what, named, table)}; those of your own are not in this version")
        if ":" not in named:
            raise UserError(f"{unknown(choice.what, named, table)}; module:Class names one of your own")
        target = registry.resolve(named)
        if isinstance(target, type) and dataclasses.is_dataclass(target):
            return named, target
        if choice.functions and callable(target):
            return named, target
        raise UserError(f"{shown(named)} is no {choice.what}: it is not a dataclass; decorate it with @dataclass")
    kind = named if isinstance(named, type) else type(named)
    if not choice.own and kind not in table.values():
        raise UserError(does_not_fit(named, [f"the name of a {choice.what}"]))
    if dataclasses.is_dataclass(kind):
        return next((name for name, known in table.items() if known is kind), _import_name(kind)), named
    if choice.functions and callable(named):
        return _import_name(named), named
    raise UserError(does_not_fit(named, [f"the name of a {choice.what}", "module:Class"]))


def _import_name(target: Any) -> str:
    """The `module:Class` name of an object given from Python."""
    return f"{target.__module__}:{getattr(target, '__qualname__', type(target).__qualname__)}"


def _data_set(named: object, registry: Registry, *, with_path: bool) -> tuple[object, list[str]]:
    """The name of a data set, and what is wrong with it; with a path, the files there may have any name."""
    if callable(named):
        return _import_name(named), []
    if not isinstance(named, str):
        return "?", [does_not_fit(named, ["the name of a data set", "module:Class"])]
    if named in registry.data or (with_path and named and ":" not in named):
        return named, []
    if ":" not in named:
        own = "files of your own need their path, and module:Class names a class of your own"
        return named, [f"{unknown('data set', named, registry.data)}; {own}"]
    try:
        target = registry.resolve(named)
    except UserError as error:
        return named, [str(error)]
    return named, [] if callable(target) else [f"{shown(named)} is no data set: it cannot be called; name a class"]
