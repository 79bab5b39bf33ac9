"""Small YAML files read strictly: one mapping, no key twice, every fault with its line and the way out.

Knows YAML and pydantic, not what is in a file. Faults become `UserError`s in the words of whoever wrote the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from fedsim.errors import UserError, nearest, shown

Location = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """What a YAML file says and on which line each of its entries stands."""

    path: Path
    data: Mapping[str, Any]
    lines: Mapping[Location, int]

    def place(self, location: Location = ()) -> str:
        """The file, and the line of `location` or of the nearest entry around it that is written there."""
        while location and location not in self.lines:
            location = location[:-1]
        line = f", line {self.lines[location]}" if location else ""
        return f"{_name(self.path)}{line}"


def read(path: Path) -> Document:
    """The document of a YAML file.

    Raises:
        UserError: the file cannot be read, is not YAML, is not a mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        lines: dict[Location, int] = {}
        _record(root, (), lines, path)
    except OSError as error:
        raise UserError(f"{_name(path)} cannot be read: {error.strerror}; check the path and its rights") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{_name(path)} is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(_malformed(path, error)) from error
    except RecursionError as error:
        raise UserError(f"{_name(path)} is nested too deeply; two levels are all it takes") from error
    if not isinstance(data, dict):
        raise UserError(f"{_name(path)} holds no keys; write a mapping, `key: value` on each line")
    return Document(path, data, lines)


def checked(model: type[M], document: Document) -> M:
    """The document as a `model`.

    Raises:
        UserError: the document breaks a rule of the model; one line for each fault, with file and line.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        faults = (f"{text} ({document.place(location)})" for location, text in explain(error, model))
        raise UserError("\n".join(faults)) from error


def named_by_file(identifier: str, document: Document) -> None:
    """Refuse a document whose `id` is not the name of its file.

    Raises:
        UserError: with both names.
    """
    if "id" not in document.data:
        raise UserError(f"id is missing; add `id: {document.path.stem}` ({document.place()})")
    if identifier != document.path.stem:
        raise UserError(
            f"id is {identifier!r}, but the file is called {document.path.name}; make them equal "
            f"({document.place(('id',))})"
        )


def explain(error: ValidationError, model: type[BaseModel]) -> list[tuple[Location, str]]:
    """Each fault of a validation as (where, what is wrong and how to mend it)."""
    return [(fault["loc"], _sentence(dict(fault), model)) for fault in error.errors(include_url=False)]


_EXPECTED: Final = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "lower case words joined by hyphens",
    "bool_type": "yes or no",
    "bool_parsing": "yes or no",
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "list_type": "a list",
    "tuple_type": "a list",
}
_BOUNDS: Final = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _sentence(fault: dict[str, Any], model: type[BaseModel]) -> str:
    """One fault in the words of the file's writer: what, the value, the rule, the way out."""
    location: Location = fault["loc"]
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        known = _keys(model, location[:-1])
        hint = nearest(str(location[-1]), known) or f"the keys here are {', '.join(known)}"
        return f"unknown key {key!r}; {hint}"
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    if kind in ("literal_error", "enum"):
        allowed = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        rule = f"it can be {', '.join(allowed)}; {nearest(str(value), allowed) or 'choose one of them'}"
    elif kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        rule = f"it must be {words} {context[bound]}; change it"
    else:
        rule = f"it must be {_EXPECTED[kind]}; change it" if kind in _EXPECTED else fault["msg"]
    return f"{key} is {shown(value)}, but {rule}"


def _keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that a model takes at a location, as they are written in a file."""
    inner: type[BaseModel] | None = model
    for part in location:
        if inner is None or isinstance(part, int):
            continue
        field = next((f for name, f in inner.model_fields.items() if part in (name, f.alias)), None)
        inner = _model_in(field.annotation) if field is not None else None
    return [] if inner is None else [field.alias or name for name, field in inner.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation such as `tuple[Source, ...]` or `Link | None` holds, if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _record(node: yaml.Node | None, location: Location, lines: dict[Location, int], path: Path) -> None:
    """Note the line of every entry under `node`; a key written twice is an error."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*location, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                name = ".".join(str(part) for part in inner)
                raise UserError(
                    f"{name} is given twice, on lines {lines[inner]} and {line}; keep one ({_name(path)}, line {line})"
                )
            lines[inner] = line
            _record(value, inner, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[(*location, number)] = value.start_mark.line + 1
            _record(value, (*location, number), lines, path)


def _malformed(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"not valid YAML: {problem}; check quotes, colons and indentation ({_name(path)}{where})"


def _name(path: Path) -> str:
    """The path as a person would type it: relative to the working directory where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
