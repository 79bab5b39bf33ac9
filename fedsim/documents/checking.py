"""Plain data against a pydantic model: the model's object, or what is wrong in sentences.

Knows models and their fields; files and lines come with the error that lists the problems.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fedsim.documents.problems import KeyPath, Problem
from fedsim.documents.translate import problems

M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], data: dict[str, Any]) -> tuple[M | None, list[Problem]]:
    """The object that `model` makes of `data`; None where there are problems."""

    def keys(path: KeyPath) -> dict[str, Any]:
        section = model_at(model, path)
        return keys_of(section) if section is not None else {}

    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, problems(error, data, (), keys)


def keys_of(model: type[BaseModel]) -> dict[str, Any]:  # pydantic's FieldInfo, whose `examples` have any type
    """The keys of a model as a file writes them, with what pydantic knows of each."""
    fields = model.model_fields.items()
    return {field.alias or name: field for name, field in fields if not field.exclude}


def model_at(root: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The model of the section that `path` leads to; None where it leads to a value, or nowhere."""
    annotation: Any = root
    for index, key in enumerate(path):
        if get_origin(annotation) is dict:  # sections by names of the user's own
            annotation = get_args(annotation)[1]
            continue
        model = _model_in(annotation, listed=index > 0 and isinstance(path[index - 1], int))
        if isinstance(key, int):
            continue  # an item of a list of sections
        if model is None or key not in keys_of(model):
            return None
        annotation = keys_of(model)[key].annotation
    return _model_in(annotation, listed=bool(path) and isinstance(path[-1], int))


def _model_in(annotation: Any, *, listed: bool) -> type[BaseModel] | None:
    """The model that an annotation such as `tuple[Source, ...]` or `Link | None` holds, if any.

    Where it holds one in a list and one outside, `listed` says which is meant.
    """
    found = list(_models_in(annotation, inside=False))
    return next((model for model, inside in found if inside == listed), found[0][0] if found else None)


def _models_in(annotation: Any, *, inside: bool) -> Iterator[tuple[type[BaseModel], bool]]:
    """Every model of an annotation, and whether it is that of a list's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, inside
    for part in get_args(annotation):
        yield from _models_in(part, inside=inside or get_origin(annotation) in (tuple, list))
