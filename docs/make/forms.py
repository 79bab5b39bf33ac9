"""What a key takes, its default and its documentation, of pydantic models and of dataclasses alike.

Knows annotations and docstrings; nothing of pages.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedsim import quantities, units
from fedsim.scenario.section import Identifier, Switch

QUANTITIES: Final = {
    "duration": (units.SECONDS, (quantities.Duration, quantities.Delay)),
    "size": (units.BYTES, (quantities.Size, quantities.Reserve)),
    "rate": (units.RATE, (quantities.Rate,)),
    "speed": (units.SPEED, (quantities.Speed,)),
    "frequency": (units.FREQUENCY, (quantities.Frequency,)),
    "power": (units.WATTS, (quantities.Power,)),
    "fraction": (units.FRACTION, (quantities.Fraction, quantities.Deviation)),
}
"""Words for what is written with a unit: how it is read, and the types that it stands for."""

_NULL: Final = "null"
_PLAIN: Final = {int: "whole number", float: "number", str: "text", Path: "path", bool: "`on` or `off`"}


@dataclass(frozen=True)
class Key:
    """A key of a section, or an option."""

    name: str
    takes: str
    """Its form, with the limits that it has by itself."""
    default: str
    """As a file writes it; `required` where there is none."""
    meaning: str
    annotation: Any
    """What it was declared as."""

    def __post_init__(self) -> None:
        if not self.meaning:
            raise ValueError(f"{self.name} has no docstring; write one below its declaration")


def keys(model: type[Any]) -> list[Key]:
    """The keys that a file may write for `model`, a section or a dataclass of options, in order."""
    hints = get_type_hints(model, include_extras=True)
    if issubclass(model, BaseModel):
        return [
            _key(field.alias or name, hints[name], _default_of(field), field.description or "", field)
            for name, field in model.model_fields.items()
            if not field.exclude
        ]
    documented = docstrings(model)
    return [
        _key(field.name, hints[field.name], _default_in(field), documented.get(field.name, ""), None)
        for field in dataclasses.fields(model)
        if field.init
    ]


def _key(name: str, annotation: Any, default: object, meaning: str, field: FieldInfo | None) -> Key:
    takes = form(annotation, () if field is None else field.metadata)
    written = "**required**" if default is MISSING else f"`{_written(default, annotation)}`"
    return Key(name, takes, written, " ".join(meaning.split()), annotation)


def docstrings(kind: type[Any]) -> dict[str, str]:
    """The strings below the fields of a dataclass and of those that it extends."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if dataclasses.is_dataclass(each):
            found |= _docstrings_of(each)
    return found


@functools.cache
def _docstrings_of(kind: type[Any]) -> dict[str, str]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for declared, below in zip(body.body, body.body[1:], strict=False):
        match declared, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
            case _:
                pass
    return found


# ------------------------------------------------------------------------------------------------- forms


def form(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What an annotation takes, in words, with the limits that `metadata` sets it; null, where it takes that, last."""
    if get_origin(annotation) is Annotated and annotation not in (Switch, Identifier):
        metadata = (*get_args(annotation)[1:], *metadata)
    words = list(dict.fromkeys(_forms(annotation)))
    limits = ", ".join(dict.fromkeys(_limits(metadata)))
    text = " or ".join(word for word in words if word != _NULL) + (f" ({limits})" if limits else "")
    return f"{text} or {_NULL}" if _NULL in words else text


def _forms(annotation: Any) -> Iterator[str]:
    named = _quantity(annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    if named is not None:
        yield f"[{named}](#forms)"
    elif annotation == Switch:
        yield "`on` or `off`"
    elif annotation == Identifier:
        yield "name"
    elif origin is Annotated:
        yield from _forms(parts[0])
    elif origin is Literal:
        yield from (f"`{value}`" for value in parts)
    elif origin in (Union, types.UnionType):
        for part in parts:
            yield _NULL if part is types.NoneType else form(part)
    elif origin in (list, tuple):
        yield f"list of {_plural(form(parts[0]))}"
    elif origin is dict:
        yield f"mapping of names to {_plural(form(parts[1]))}"
    elif isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        yield "section"
    elif annotation in _PLAIN:
        yield _PLAIN[annotation]
    else:
        raise TypeError(f"no words for {annotation}; add them to docs.make.forms")


def _quantity(annotation: Any) -> str | None:
    """The word for it, whatever limits it has beside that."""
    if get_origin(annotation) is not Annotated:
        return None
    _, *metadata = get_args(annotation)
    for name, (_, kinds) in QUANTITIES.items():
        for kind in kinds:
            _, *known = get_args(kind)
            if metadata[: len(known)] == known:
                return name
    return None


def _plural(words: str) -> str:
    return f"{words}s" if words.isalpha() or words == "whole number" else words


def _limits(metadata: Iterable[Any]) -> Iterator[str]:
    for item in metadata:
        match item:
            case FieldInfo():
                yield from _limits(item.metadata)
            case Ge(ge=least):
                yield f"at least {_number(least)}"
            case Gt(gt=least):
                yield f"above {_number(least)}"
            case Le(le=most):
                yield f"at most {_number(most)}"
            case Lt(lt=most):
                yield f"below {_number(most)}"
            case _:
                pass  # how it is read and written; and that no name is empty


def _number(value: Any) -> str:
    powers = {2**63: "2⁶³", 2**20: "1 MiB"}
    return powers.get(value) or f"{value:,}"


# ---------------------------------------------------------------------------------------------- defaults


def _default_of(field: FieldInfo) -> object:
    if field.is_required():
        return MISSING
    value = field.get_default(call_default_factory=True)
    return MISSING if value is PydanticUndefined else value


def _default_in(field: dataclasses.Field[Any]) -> object:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING


def _written(value: object, annotation: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "on" if value else "off"
        case BaseModel() | dict():
            return "{}"
        case list() | tuple():
            return f"[{', '.join(_written(item, None) for item in value)}]"
        case float():
            return _with_unit(value, annotation)
        case _:
            return "{}" if dataclasses.is_dataclass(value) else str(value)


def _with_unit(value: float, annotation: Any) -> str:
    parts = (annotation, *get_args(annotation))
    for named in (_quantity(inner) for part in parts for inner in (part, *get_args(part))):
        if named is not None and QUANTITIES[named][0].canonical:
            return QUANTITIES[named][0].format(value)
    return f"{value:g}"
