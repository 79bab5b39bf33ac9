"""Where the numbers of a profile or link come from, and how far each of them is to be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedsim.documents.translate import rule
from fedsim.errors import nearest, shown

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_NO_FIGURES: Final = ("schema", "calibration")


class Confidence(StrEnum):
    """How a number came to be, best first."""

    MEASURED = "measured"
    DERIVED = "derived"
    SPECIFICATION = "specification"
    UNVERIFIED = "unverified"


class Source(BaseModel):
    """The origin of one field of a file, or of everything below it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: Text = Field(examples=["speed"])
    """Dotted name of a number (`power.idle`) or of a group of numbers (`power`)."""
    confidence: Confidence = Field(examples=[Confidence.MEASURED.value])
    ref: Text = Field(examples=["how, and by whom"])
    """Where it can be looked up."""
    note: str = ""
    """How it was computed, or what to beware of."""


def numbers(model: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of the numbers that a file gives, in order; those left to their defaults are not among them.

    A list of numbers counts as one, a switch as none. The version of the format and a calibration, which is its own
    evidence, are left out.
    """
    for name, field in type(model).model_fields.items():
        key = prefix + (field.alias or name)
        if key not in _NO_FIGURES and (name in model.model_fields_set or isinstance(getattr(model, name), BaseModel)):
            yield from _below(getattr(model, name), key)


def _below(value: object, key: str) -> Iterator[str]:
    match value:
        case BaseModel():
            yield from numbers(value, key + ".")
        case Mapping():
            for name, inner in value.items():
                yield from _below(inner, f"{key}.{name}")
        case _ if _numeric(value):
            yield key
        case _:
            pass


def _numeric(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_numeric, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def origin(field: str, sources: Iterable[Source]) -> Source | None:
    """The most specific source that covers a field, or None."""
    covering = [s for s in sources if field == s.field or field.startswith(s.field + ".")]
    return max(covering, key=lambda source: len(source.field), default=None)


def uncovered(model: BaseModel, sources: Sequence[Source]) -> list[str]:
    """The numbers of a file for which it names no source."""
    return [field for field in numbers(model) if origin(field, sources) is None]


def unverified(model: BaseModel, sources: Sequence[Source]) -> list[str]:
    """The numbers of a file that nobody has checked: marked `unverified`, or without any source."""
    found = ((field, origin(field, sources)) for field in numbers(model))
    return [field for field, source in found if source is None or source.confidence is Confidence.UNVERIFIED]


def weakest(fields: Iterable[str], sources: Sequence[Source]) -> Confidence:
    """The least confidence among the sources of some fields; a field without a source is unverified."""
    order = list(Confidence)
    origins = [origin(field, sources) for field in fields]
    found = [Confidence.UNVERIFIED if source is None else source.confidence for source in origins]
    return max(found, key=order.index)


def check_fields(model: BaseModel, sources: Sequence[Source]) -> None:
    """Refuse a source for a field that the file does not have.

    Raises:
        PydanticCustomError: with the field and the nearest one that exists.
    """
    names = list(numbers(model))
    groups = {name[:cut] for name in names for cut in range(len(name)) if name[cut] == "."}
    known = [*names, *sorted(groups)]
    for index, source in enumerate(sources):
        if source.field not in known:
            hint = nearest(source.field, known) or f"there are: {', '.join(known)}"
            raise rule(f"{shown(source.field)} is no number of this file; {hint}", "sources", index, "field")
