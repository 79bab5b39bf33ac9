"""Options of a scheduler, a model, a partition or an optimizer: plain data to a dataclass instance, and back.

The dataclass is the only description there is; it need not know pydantic. Knows nothing of which types there are.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from fedsim.documents.problems import KeyPath, Problem
from fedsim.documents.translate import does_not_fit, problems, unknown_key
from fedsim.errors import UserError
from fedsim.scenario.registry import Arguments


def names_of(target: object) -> list[str]:
    """The names of the options that a dataclass type, or another callable, takes."""
    if dataclasses.is_dataclass(target):
        return [field.name for field in dataclasses.fields(target) if field.init]
    try:
        parameters = inspect.signature(target).parameters.values()  # type: ignore[arg-type]  # callable, by `choose`
    except (TypeError, ValueError):  # some built-in callables have none
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters if parameter.kind in named]


def build(target: Any, given: dict[str, Any], path: KeyPath, own: tuple[str, ...]) -> tuple[object, list[Problem]]:
    """An instance of `target` from the options `given` at `path`, and what is wrong with them.

    Args:
        target: A dataclass type, or a callable, whose arguments are then kept as they are.
        given: The options, in plain data.
        path: The section they stand in.
        own: The section's other keys, for the message about an unknown key.
    """
    names = names_of(target)
    found = [Problem((*path, key), unknown_key(key, [*own, *names])) for key in given if key not in names]
    known = {key: value for key, value in given.items() if key in names}
    if not dataclasses.is_dataclass(target):
        return Arguments(tuple(known.items())), found
    assert isinstance(target, type)
    try:
        adapter = _adapter(target)
        result = adapter.validate_python(known)
    except ValidationError as error:
        fields = {field.name: field for field in dataclasses.fields(target)}
        found += problems(error, known, path, lambda inner: fields if not inner else {})
        return None, found
    except (PydanticUserError, NameError) as error:  # NameError: an annotation that cannot be found
        found.append(Problem(path, _unusable(target, error)))
        return None, found
    except UserError as error:  # says what, value, rule and way out itself
        found.append(Problem(path, str(error)))
        return None, found
    except Exception as error:  # the type's own __post_init__ may raise anything
        reason = f"{type(error).__name__}: {error}"
        found.append(Problem(path, f"{target.__name__} does not take these options ({reason}); change them"))
        return None, found
    found += _silently_changed(known, result, path)
    return result, found


def plain(options: object) -> dict[str, Any]:
    """The options as plain data, every default written out, quantities with units.

    Raises:
        UserError: a value cannot be written in a file.
    """
    if isinstance(options, Arguments):
        return options.keywords()
    kind: type = type(options)
    assert dataclasses.is_dataclass(kind)
    try:
        written = _adapter(kind).dump_python(options, mode="json", warnings=False)
    except (PydanticSerializationError, PydanticUserError) as error:
        raise UserError(f"{kind.__name__} has an option that no file can hold: {error}") from error
    return {name: written[name] for name in names_of(kind)}


@functools.lru_cache(maxsize=256)
def _adapter(target: type) -> TypeAdapter[Any]:
    return TypeAdapter(target)


def _unusable(target: type, error: Exception) -> str:
    reason = str(error).split("\n", maxsplit=1)[0]
    name = f"{target.__module__}:{target.__qualname__}"
    return f"{name} has an option that a file cannot hold; give its fields plain types ({reason})"


def _silently_changed(given: object, result: object, path: KeyPath, default: object = None) -> Iterator[Problem]:
    """What was accepted but should not be: a switch as a number, infinity, and keys that nested options ignore."""
    if isinstance(given, Mapping) and dataclasses.is_dataclass(result):
        fields = {field.name: field for field in dataclasses.fields(result) if field.init}
        for key, value in given.items():
            if key in fields:
                yield from _silently_changed(value, getattr(result, key), (*path, key), fields[key].default)
            else:
                yield Problem((*path, key), unknown_key(key, fields))
    elif isinstance(given, Mapping) and isinstance(result, Mapping):
        for key, value in given.items():
            yield from _silently_changed(value, result.get(key), (*path, key))
    elif isinstance(given, list | tuple) and isinstance(result, list | tuple):
        for index, (value, made) in enumerate(zip(given, result, strict=False)):
            yield from _silently_changed(value, made, (*path, index))
    elif isinstance(given, bool) and isinstance(result, int | float) and not isinstance(result, bool):
        yield Problem(path, does_not_fit(given, ["a number"]))
    elif isinstance(result, float) and not math.isfinite(result) and result != default:
        yield Problem(path, does_not_fit(given, ["a finite number"]))
