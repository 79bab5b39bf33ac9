"""What `--set key=value` says of a method, and of what goes with it: strict, with the nearest key for a wrong one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from fedsim.documents.problems import dotted
from fedsim.documents.reading import Unreadable, read
from fedsim.errors import UserError, shown, unknown
from fedsim.scenario import Arguments, import_object
from fedsim.scenario.options import build

PARTS: Final = {"model": "width_ratio=0.25", "needs": "context=1024", "recover": "epochs=1"}
"""What keys below one of these are for, rather than for the method, and what such a key may say."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Plain data for options."""

    method: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)
    """What a device is to do with the model, for advice."""
    recover: dict[str, Any] = field(default_factory=dict)
    """Of the training of what was pruned."""


def settings(given: Sequence[str]) -> Settings:
    """What the texts `key.path=value` say; values are YAML, and keys below one of `PARTS` are for that.

    Raises:
        UserError: one is no such text.
    """
    data: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        *way, last = name.strip().split(".")
        if not equals or not all((*way, last)):
            raise UserError(
                f"--set {shown(text)} is not of the form key=value; write it as in --set sparsity=0.6 or "
                "--set budget.params='25 %'"
            )
        try:
            found = read(value, "value")[0]
        except Unreadable as error:
            raise UserError(f"--set {name.strip()}: {error.sentence}") from error
        node = data
        for key in way:
            inner = node.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set {name.strip()}: {key} was set to {shown(inner)} before; leave one of them out")
            node = inner
        node[last] = found
    parts = {part: data.pop(part, {}) for part in PARTS}
    for part, found in parts.items():
        if not isinstance(found, dict):
            raise UserError(f"--set {part}={shown(found)} names no option; write it as in --set {part}.{PARTS[part]}")
    return Settings(method=data, **parts)


def built(
    what: str, name: str, known: Mapping[str, type], given: Mapping[str, Any], *, prefix: str = "", calls: bool = False
) -> Any:
    """The options of a method or a model.

    Args:
        name: one of `known`, or `module:Class`.
        prefix: what `--set` writes before their keys.
        calls: whether it may be a function, whose arguments are then kept as they are.

    Raises:
        UserError: there is none of that name, or it does not take these options.
    """
    if name in known:
        target: Any = known[name]
    elif ":" in name:
        target = import_object(name)
        if is_dataclass(target) and not isinstance(target, type):
            return target
        if not is_dataclass(target):
            if calls and callable(target):
                return Arguments(tuple(given.items()))
            raise UserError(f"{shown(name)} is no {what}: it is not a dataclass; decorate it with @dataclass")
    else:
        raise UserError(f"{unknown(what, name, known)}; module:Class names one of your own")
    assert isinstance(target, type)
    options, problems = build(target, _pathlike(target, given), (), ())
    if problems:
        said = [f"{prefix}{dotted(p.path)}: {p.sentence}" if p.path else p.sentence for p in problems]
        raise UserError(f"{what} {name}: {'; '.join(said)}")
    return options


def _pathlike(target: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples are written as lists, and one word is a list of it."""
    tuples = {each.name for each in fields(target) if str(each.type).startswith("tuple[")}
    return {key: [value] if key in tuples and isinstance(value, str | Path) else value for key, value in given.items()}
