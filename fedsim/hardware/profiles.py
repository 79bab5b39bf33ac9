"""Profiles: what a device or a server is. Speed, memory, power and the link it usually has, each with its source.

A profile is a YAML file of the catalogue or of the user. Knows neither costs (`pricing`) nor who uses a profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsim import catalogue
from fedsim.errors import UserError, nearest, shown
from fedsim.hardware import documents, sources
from fedsim.hardware.sources import Identifier, Source, Text
from fedsim.quantities import Power, Size, Speed
from fedsim.units import human_count

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

    capacity: Size
    usable: Size
    runtime: Size

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.usable > self.capacity:
            raise ValueError(
                f"usable is {human_count(self.usable, 'B')}, but capacity is only {human_count(self.capacity, 'B')}; "
                "usable must not exceed capacity"
            )
        if self.runtime >= self.usable:
            raise ValueError(
                f"runtime takes {human_count(self.runtime, 'B')} of {human_count(self.usable, 'B')} usable, which "
                "leaves nothing for a model; lower runtime or raise usable"
            )
        return self


class Draw(BaseModel):
    """Watts that a machine draws: empty, computing, and between two works with everything loaded."""

    model_config = _STRICT

    idle: Power
    busy: Power
    ready: Power
    """Between two works; `idle` where the file does not say."""

    @model_validator(mode="before")
    @classmethod
    def _ready_is_idle(cls, data: Any) -> Any:  # whatever stands in the file; the fields check it
        if isinstance(data, Mapping) and "ready" not in data and "idle" in data:
            return {**data, "ready": data["idle"]}
        return data

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.busy < self.idle:
            raise ValueError(f"busy is {self.busy:g} W, less than idle, {self.idle:g} W; exchange or correct them")
        if not self.idle <= self.ready <= self.busy:
            raise ValueError(
                f"ready is {self.ready:g} W, outside idle to busy, {self.idle:g} to {self.busy:g} W; correct it"
            )
        return self


class Profile(BaseModel):
    """One device or server, as its file describes it. Immutable."""

    model_config = _STRICT

    version: Literal[1] = Field(alias="schema")
    """Of the file format."""
    id: Identifier
    """Lower case words joined by hyphens; the file is called `ID.yaml`."""
    name: Text
    """For people."""
    kind: Kind
    cost_model: Literal["scalar"]
    """How `pricing` turns a cost into seconds."""
    speed: Speed
    """MAC/s of a forward pass."""
    backward_ratio: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] = 2.0
    """Seconds of a backward pass over those of the forward pass it belongs to."""
    lanes: Annotated[int, Field(ge=1, strict=True)] = 1
    """Works that run at the same time."""
    memory: Memory
    power: Draw
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
    document = documents.read(catalogue.find("profile", name, relative_to))
    _known_cost_model(document)
    profile = documents.checked(Profile, document)
    documents.named_by_file(profile.id, document)
    return profile


def _known_cost_model(document: documents.Document) -> None:
    """A file for another cost model has other keys too: say the one thing that matters, first."""
    model = document.data.get("cost_model")
    if isinstance(model, str) and model not in COST_MODELS:
        hint = nearest(model, COST_MODELS) or f"there are: {', '.join(COST_MODELS)}"
        raise UserError(
            f"cost_model {shown(model)} is not one that this version of fedsim can price; {hint} "
            f"({document.place(('cost_model',))})"
        )
