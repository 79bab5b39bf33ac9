"""What all sections of a scenario have in common: frozen, strict, and the types that several of them use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from fedsim.errors import shown

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _no_switch(value: object) -> object:
    if isinstance(value, bool):  # pydantic would take true as 1
        raise PydanticCustomError("int_type", "not a number")
    return value


def _identifier(value: object) -> object:
    if isinstance(value, str) and not _NAME.fullmatch(value):
        rules = "letters, digits, '-', '_' and '.', and begin with a letter or digit, at most 100 of them"
        raise ValueError(f"{shown(value)} does not fit a folder's name; use {rules}")
    return value


Whole = Annotated[int, BeforeValidator(_no_switch)]
Number = Annotated[float, BeforeValidator(_no_switch), Field(allow_inf_nan=False)]
Identifier = Annotated[str, BeforeValidator(_identifier)]
Name = Annotated[str, Field(min_length=1)]
Switch = Annotated[bool, PlainSerializer(lambda value: "on" if value else "off", return_type=str)]
Options = Annotated[Any, Field(exclude=True)]  # an instance of a type that the registry names; `dump` writes it


class Section(BaseModel):
    """A mapping of a scenario: frozen, and no other keys than these."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def written_out(value: object) -> object:
    """A path as the mapping that it is short for."""
    return {"path": value} if isinstance(value, str | Path) else value


class File(Section):
    """A file of recorded figures. Short form: its path."""

    path: Path = Field(examples=["trace.csv"])
    """The file, relative to the scenario's."""
    reader: Name | None = None
    """How it is written; null guesses from the file."""
    wrap: Switch = True
    """Whether it begins again when it ends."""


Recorded = Annotated[File, BeforeValidator(written_out)]
