"""What pydantic finds wrong, in the words of whoever wrote the document.

The only place that knows pydantic's error types. Knows nothing of files and lines: a problem says its path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from fedsim.documents.problems import KeyPath, Problem
from fedsim.errors import nearest, shown

_MAPPING: Final = "a mapping of keys, such as {{key: value}}"
_LIST: Final = "a list"
_NUMBER: Final = "a number"
_WHOLE: Final = "a whole number"
_SWITCH: Final = "on or off"
_TEXT: Final = "text"

_WANTED: Final[dict[str, str]] = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "string_type": _TEXT,
    "string_sub_type": _TEXT,
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "text of {min_length} characters or more",
    "string_too_long": "text of {max_length} characters or fewer",
    "path_type": "a path",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dataclass_type": _MAPPING,
    "dataclass_exact_type": _MAPPING,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "iterable_type": _LIST,
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "wanted": "{wanted}",
    "none_required": "null",
    "literal_error": "{expected}",
    "enum": "{expected}",
}
_QUOTED: Final = re.compile(r"'([^']*)'")


def rule(sentence: str, *path: str | int) -> PydanticCustomError:
    """The error of a section that breaks a rule between its keys; the message points at `path` in the section."""
    return PydanticCustomError("rule", "{sentence}", {"sentence": sentence, "path": path})


def wanted(what: str) -> PydanticCustomError:
    """The error of a value that is not `what` it should be."""
    return PydanticCustomError("wanted", "{wanted}", {"wanted": what})


def problems(
    error: ValidationError, data: object, base: KeyPath, keys: Callable[[KeyPath], Mapping[str, Any]]
) -> list[Problem]:
    """The problems of a validation error; several about one value (a choice of types) become one.

    Args:
        error: What pydantic raised.
        data: The plain data that it looked at.
        base: Where in the document these data are.
        keys: The keys of the section at a path, relative to `base`, with what pydantic knows of each.
    """
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        if _is_echo(detail):
            continue
        path = _path(detail, data)
        if detail["type"] == "rule":
            path += detail["ctx"]["path"]
        grouped.setdefault(path, []).append(detail)
    return [Problem(base + path, _sentence(path, details, keys)) for path, details in grouped.items()]


def missing(key: str, example: object) -> str:
    """The sentence about a key that has no default and is not given."""
    return f"missing; add it, as in '{key}: {example}'"


def unknown_key(key: str, keys: Collection[str]) -> str:
    """The sentence about a key that a section does not have."""
    there = f"the keys here are {', '.join(sorted(keys))}" if keys else "there are no keys here"
    return f"unknown key; {nearest(key, keys) or there}"


def does_not_fit(value: object, needed: Iterable[str]) -> str:
    """The sentence about a value of the wrong kind or size."""
    there = "no value is given" if value is None else f"{shown(value) if value != [] else 'an empty list'} does not fit"
    return f"{there}; give {' or '.join(dict.fromkeys(needed))}"


def _is_echo(detail: ErrorDetails) -> bool:
    """A list counts as too short, too, where enough items are given but wrong."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _path(detail: ErrorDetails, data: object) -> KeyPath:
    """Where an error is; what pydantic adds for the members of a choice is no part of it."""
    location = detail["loc"]
    return tuple(_steps(location, data, keep_last=detail["type"] in ("missing", "extra_forbidden")))


def _steps(location: tuple[str | int, ...], node: object, *, keep_last: bool) -> Iterator[str | int]:
    for index, key in enumerate(location):
        inside = key in node if isinstance(node, dict) else False
        inside = inside or (isinstance(node, list) and isinstance(key, int) and key < len(node))
        if inside:
            node = node[key]  # type: ignore[index]  # a dict or a list, as just seen
            yield key
        elif keep_last and index == len(location) - 1:
            yield key


def _sentence(path: KeyPath, details: list[ErrorDetails], keys: Callable[[KeyPath], Mapping[str, Any]]) -> str:
    first = details[0]
    context = first.get("ctx", {})
    match first["type"]:
        case "missing":
            return _missing(path, keys(path[:-1]))
        case "extra_forbidden":
            return unknown_key(str(path[-1]), keys(path[:-1]))
        case "rule":
            return str(context["sentence"])
        case "value_error" | "assertion_error" if len(details) == 1:
            return str(context["error"]) or does_not_fit(first["input"], ["another value"])
        case "literal_error" | "enum" if len(details) == 1 and isinstance(first["input"], str):
            hint = nearest(first["input"], _QUOTED.findall(str(context["expected"])))
            return does_not_fit(first["input"], [_expected(context)]) + (f"; {hint}" if hint else "")
    return does_not_fit(first["input"], [_wanted(detail) for detail in details])


def _missing(path: KeyPath, keys: Mapping[str, Any]) -> str:
    key = str(path[-1])
    examples = getattr(keys.get(key), "examples", None)
    return missing(key, examples[0]) if examples else "missing; it has no default, so add it"


def _wanted(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] in ("literal_error", "enum"):
        return _expected(context)
    if detail["type"] == "value_error":
        return str(context["error"])
    return _WANTED.get(detail["type"], "another value").format(**context)


def _expected(context: Mapping[str, Any]) -> str:
    return str(context["expected"]).replace("'", "")
