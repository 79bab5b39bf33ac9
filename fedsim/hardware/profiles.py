"""Profiles: what a device or a server is. Speed, memory, power and the link it usually has, each with its source.

A profile is a YAML file of the catalogue or of the user. Knows neither costs (`pricing`) nor who uses a profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fedsim.documents.problems import DocumentKind, Problem
from fedsim.documents.translate import rule
from fedsim.errors import nearest, shown
from fedsim.hardware import entries, sources
from fedsim.hardware.entries import Identifier
from fedsim.hardware.sources import Source, Text
from fedsim.quantities import Power, Size, Speed
from fedsim.units import WATTS, human_count

PROFILE: Final = DocumentKind("profile", "speed: 2.2 GMAC/s")

COST_MODELS: Final = ("scalar",)
"""Ways of turning a cost into seconds that `pricing` knows."""

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Kind(StrEnum):
    """What sort of machine a profile describes; `abstract` is none in particular."""

    BOARD = "board"
    JETSON = "jetson"
    PHONE = "phone"
    LAPTOP = "laptop"
    SERVER = "server"
    ABSTRACT = "abstract"


class Memory(BaseModel):
    """Bytes a machine has, bytes of them a run may use, bytes of those its process takes before any model."""

    model_config = _STRICT

    capacity: Size = Field(examples=["4 GB"])
    usable: Size = Field(examples=["3.4 GB"])
    runtime: Size = Field(examples=["250 MB"])

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.usable > self.capacity:
            raise rule(
                f"{human_count(self.usable, 'B')}, but capacity is only {human_count(self.capacity, 'B')}; "
                "usable must not exceed capacity",
                "usable",
            )
        if self.runtime >= self.usable:
            raise rule(
                f"takes {human_count(self.runtime, 'B')} of {human_count(self.usable, 'B')} usable, which "
                "leaves nothing for a model; lower runtime or raise usable",
                "runtime",
            )
        return self


class Draw(BaseModel):
    """Watts that a machine draws: empty, computing, and between two works with everything loaded."""

    model_config = _STRICT

    idle: Power = Field(examples=["2.7 W"])
    busy: Power = Field(examples=["6.4 W"])
    ready: Power = Field(default=None, validate_default=True)
    """Between two works; `idle` where the file does not say."""

    @field_validator("ready", mode="before")
    @classmethod
    def _ready_is_idle(cls, value: Any, info: ValidationInfo) -> Any:  # whatever stands in the file; `Power` checks it
        return WATTS.format(info.data.get("idle", 0.0)) if value is None else value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.busy < self.idle:
            raise rule(f"{self.busy:g} W, less than idle, {self.idle:g} W; exchange or correct them", "busy")
        if not self.idle <= self.ready <= self.busy:
            raise rule(f"{self.ready:g} W, outside idle to busy, {self.idle:g} to {self.busy:g} W; correct it", "ready")
        return self


class Profile(BaseModel):
    """One device or server, as its file describes it. Immutable."""

    model_config = _STRICT

    version: Literal[1] = Field(alias="schema", examples=[1])
    """Of the file format."""
    id: Identifier = Field(examples=["my-board"])
    """Lower case words joined by hyphens; the file is called `ID.yaml`."""
    name: Text = Field(examples=["Raspberry Pi 4B, 4 GB"])
    """For people."""
    kind: Kind = Field(examples=[Kind.BOARD.value])
    cost_model: Literal["scalar"] = Field(examples=["scalar"])
    """How `pricing` turns a cost into seconds."""
    speed: Speed = Field(examples=["2.2 GMAC/s"])
    """MAC/s of a forward pass."""
    backward_ratio: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] = 2.0
    """Seconds of a backward pass over those of the forward pass it belongs to."""
    lanes: Annotated[int, Field(ge=1, strict=True)] = 1
    """Works that run at the same time."""
    memory: Memory = Field(examples=["{capacity: 4 GB, usable: 3.4 GB, runtime: 250 MB}"])
    power: Draw = Field(examples=["{idle: 2.7 W, busy: 6.4 W}"])
    default_link: Text | None = None
    """Link of the catalogue that a fleet group gets if it names none."""
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _sources_exist(self) -> Self:
        sources.check_fields(self, self.sources)
        return self


def load_profile(name: str, relative_to: Path | None = None) -> Profile:
    """The profile of a name in the catalogue, or of a path (relative to the folder `relative_to`).

    Raises:
        UserError: there is no such profile, or its file breaks a rule; with file, line and the way out.
    """
    return entries.load(Profile, PROFILE, name, relative_to, first=_unknown_cost_model)


def _unknown_cost_model(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A file for another cost model has other keys too: the one thing that matters."""
    model = data.get("cost_model")
    if isinstance(model, str) and model not in COST_MODELS:
        hint = nearest(model, COST_MODELS) or f"there are: {', '.join(COST_MODELS)}"
        sentence = f"{shown(model)} is not one that this version of fedsim can price; {hint}"
        yield Problem(("cost_model",), sentence)
