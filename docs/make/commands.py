"""The page of commands: each with its arguments, options and defaults, from what their functions declare."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from docs.make.tables import table
from fedsim.cli.app import app

_HEAD: Final = """\
# Commands

<!-- Written by `python -m docs.make` from the command line itself. Change that, not this page. -->

The exit status is 0 when it is done, 1 when the run failed, 2 when the input is wrong and 130 when you pressed Ctrl-C.
With `--json` a command prints one JSON document and nothing else. Without it, progress goes to standard error
([Watching a run](watching.md)).
"""


@dataclass(frozen=True)
class Parameter:
    """An argument, or an option, of a command."""

    shown: str
    """As it is typed."""
    default: str
    help: str
    argument: bool
    needed: bool


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_parts())


def _parts() -> Iterator[str]:
    for name, function in functions().items():
        found = list(parameters(function))
        usage = ["fedsim", name, *(each.shown for each in found if each.needed)]
        yield f"\n## `{' '.join(usage)}`\n\n{inspect.getdoc(function)}\n\n"
        rows = ([f"`{each.shown}`", each.default, each.help] for each in sorted(found, key=lambda p: not p.argument))
        yield table(["argument or option", "default", "what it does"], rows)


def functions() -> dict[str, Callable[..., Any]]:
    """The function of every command, by the command's name."""
    known = [(command.name, command.callback) for command in app.registered_commands]
    return {name or function.__name__: function for name, function in known if function is not None}


def parameters(function: Callable[..., Any]) -> Iterator[Parameter]:
    """What a command's function declares, in order."""
    hints = get_type_hints(function, include_extras=True)
    for name, declared in inspect.signature(function).parameters.items():
        assert get_origin(hints[name]) is Annotated
        kind, info = get_args(hints[name])[:2]
        needed = declared.default is inspect.Parameter.empty
        value = _value(kind, info, name)
        if isinstance(info, OptionInfo):
            declared_names = (info.default, *(info.param_decls or ()))  # typer takes the first for the default
            given = [word for word in declared_names if isinstance(word, str) and word.startswith("--")]
            option = given[0] if given else f"--{name.replace('_', '-')}"
            value = option if kind is bool else f"{option} {value}"
        default = "**required**" if needed else _default(declared.default)
        text = " ".join((info.help or "").split())
        yield Parameter(value, default, text, isinstance(info, ArgumentInfo), needed)


def _value(kind: Any, info: ArgumentInfo | OptionInfo, name: str) -> str:
    """What stands for the value."""
    if info.metavar:
        return info.metavar
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "|".join(kind)
    return {int: "N", float: "NUMBER"}.get(kind, name.rstrip("_").upper())


def _default(value: object) -> str:
    if value is None or value is False or value == "":
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
