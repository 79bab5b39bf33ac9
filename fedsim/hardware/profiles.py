"""Profiles: what a device or a server is. Processors, memory, power, its usual link, each number with its source.

A profile is a YAML file of the catalogue or of the user. Knows neither costs (`pricing`) nor who uses a profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fedsim.documents.problems import DocumentKind, Problem
from fedsim.documents.translate import missing, rule
from fedsim.errors import nearest, shown
from fedsim.hardware import entries, sources
from fedsim.hardware.entries import Identifier
from fedsim.hardware.fits import CalibrationOrNone
from fedsim.hardware.modes import Mode, check_mode
from fedsim.hardware.power import Draw
from fedsim.hardware.processors import Processors
from fedsim.hardware.sources import Source, Text
from fedsim.hardware.times import ModelTimes
from fedsim.quantities import Duration, Fraction, Reserve, Size, Speed
from fedsim.units import human_count

PROFILE: Final = DocumentKind("profile", "id: my-board")

_STRICT = ConfigDict(frozen=True, extra="forbid")


class CostModel(StrEnum):
    """How `pricing` turns a cost into seconds."""

    ROOFLINE = "roofline"
    """Each operator by its MACs and bytes, on the processor in use."""
    SCALAR = "scalar"
    """One speed for everything."""
    TABLE = "table"
    """Measured times, unit by unit."""
    FEDSCALE = "fedscale_scalar"
    """FedScale's rule: a time a sample for whole training steps, and nothing else."""


_NEEDS: Final = {
    CostModel.ROOFLINE: "processors",
    CostModel.SCALAR: "speed",
    CostModel.TABLE: "times",
    CostModel.FEDSCALE: "sample_time",
}
_ALLOWS: Final = {
    CostModel.ROOFLINE: ("use", "modes"),
    CostModel.SCALAR: ("backward_ratio",),
    CostModel.TABLE: ("speed",),
    CostModel.FEDSCALE: (),
}


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
    workspace: Reserve = 0.0
    """Bytes of `usable` that operators need while they compute, as for unfolded convolutions."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.usable > self.capacity:
            raise rule(
                f"{human_count(self.usable, 'B')}, but capacity is only {human_count(self.capacity, 'B')}; "
                "usable must not exceed capacity",
                "usable",
            )
        if self.runtime + self.workspace >= self.usable:
            key = "runtime" if self.runtime >= self.usable else "workspace"
            raise rule(
                f"takes {human_count(getattr(self, key), 'B')} of {human_count(self.usable, 'B')} usable, which "
                f"leaves nothing for a model; lower {key} or raise usable",
                key,
            )
        return self


class Variation(BaseModel):
    """How unequal machines of one profile are, and works on one machine: coefficients of variation."""

    model_config = _STRICT

    jitter: Fraction = 0.0
    """Of the time of a work, from one to the next."""
    spread: Fraction = 0.0
    """Of the speed of a machine, from one to the next."""

    @field_validator("jitter", "spread")
    @classmethod
    def _small(cls, share: float) -> float:
        if share > 1:
            raise ValueError(f"{share:.0%} does not fit; a variation is at most 100 %; write it like 3 %")
        return share


class Thermal(BaseModel):
    """What heat costs a machine that computes for long."""

    model_config = _STRICT

    factor: Fraction = Field(examples=["86 %"])
    """What is left of its speed when it is hot."""
    after: Duration = Field(examples=["300 s"])
    """Seconds of computing that make it hot; as many without make it cool again."""

    @field_validator("factor")
    @classmethod
    def _slower(cls, factor: float) -> float:
        if not 0 < factor <= 1:
            raise ValueError(f"{shown(factor)} does not fit; heat leaves more than 0 and at most 100 % of the speed")
        return factor


class Profile(BaseModel):
    """One device or server, as its file describes it. Immutable.

    Which of the keys between `cost_model` and `lanes` there are depends on the cost model.
    """

    model_config = _STRICT

    version: Literal[1] = Field(alias="schema", examples=[1])
    """Of the file format."""
    id: Identifier = Field(examples=["my-board"])
    """Lower case words joined by hyphens; the file is called `ID.yaml`."""
    name: Text = Field(examples=["Raspberry Pi 4B, 4 GB"])
    """For people."""
    kind: Kind = Field(examples=[Kind.BOARD.value])
    cost_model: CostModel = Field(examples=["roofline"])
    """How `pricing` turns a cost into seconds."""
    processors: Processors | None = Field(
        default=None, examples=["{cpu: {gemm: 28 GFLOP/s, bandwidth: 4.8 GB/s, overhead: 60 us}}"]
    )
    """What computes, for `roofline`."""
    use: Text | None = Field(default=None, validate_default=True)
    """The processor that trains; the only one there is, where the file does not say."""
    modes: dict[Identifier, Mode] = {}
    """What is different in each power mode, for `roofline`."""
    speed: Speed | None = Field(default=None, examples=["2.2 GMAC/s"])
    """MAC/s of a forward pass, for `scalar`; of averaging models, for `table`."""
    backward_ratio: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] | None = Field(
        default=None, validate_default=True
    )
    """Seconds of a backward pass over those of the forward pass it belongs to, for `scalar`; 2 unless given."""
    times: dict[Text, ModelTimes] = Field(
        default={},
        examples=["{vgg5: {batches: [8, 32], units: {conv1: {forward: [6 ms, 22 ms], backward: [13 ms, 48 ms]}}}}"],
    )
    """Measured seconds by model, for `table`."""
    sample_time: Duration | None = Field(default=None, examples=["5 ms"])
    """Seconds of a forward pass of one sample, for `fedscale_scalar`."""
    lanes: Annotated[int, Field(ge=1, strict=True)] = 1
    """Works that run at the same time."""
    memory: Memory = Field(examples=["{capacity: 4 GB, usable: 3.4 GB, runtime: 250 MB}"])
    power: Draw = Field(examples=["{idle: 2.7 W, busy: 6.4 W}"])
    variation: Variation = Variation()
    thermal: Thermal | None = None
    """None: heat costs nothing."""
    default_link: Text | None = None
    """Link of the catalogue that a fleet group gets if it names none."""
    calibration: CalibrationOrNone = None
    """How far the prices are from measured times; None where nobody has compared them."""
    sources: tuple[Source, ...] = ()

    @field_validator("use")
    @classmethod
    def _use_the_only_one(cls, use: str | None, info: ValidationInfo) -> str | None:
        processors: Processors | None = info.data.get("processors")
        there = list(processors.named()) if processors is not None else []
        return there[0] if use is None and len(there) == 1 else use

    @field_validator("backward_ratio")
    @classmethod
    def _two_passes(cls, ratio: float | None, info: ValidationInfo) -> float | None:
        return 2.0 if ratio is None and info.data.get("cost_model") is CostModel.SCALAR else ratio

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_keys()
        if self.processors is not None:
            self._check_processors(self.processors)
        sources.check_fields(self, self.sources)
        return self

    def _check_keys(self) -> None:
        needed, allowed = _NEEDS[self.cost_model], _ALLOWS[self.cost_model]
        if not getattr(self, needed):
            example = (type(self).model_fields[needed].examples or [""])[0]
            raise rule(f"{missing(needed, example)}, or use another cost model than {self.cost_model}", needed)
        for key in _MODEL_KEYS:
            if key != needed and key not in allowed and getattr(self, key):
                others = " or ".join(model for model in CostModel if key in (_NEEDS[model], *_ALLOWS[model]))
                sentence = f"cost model {self.cost_model} does not look at it; remove the key, or use {others}"
                raise rule(sentence, key)

    def _check_processors(self, processors: Processors) -> None:
        there = processors.named()
        if self.use is None:
            raise rule(f"missing; say which of {' and '.join(there)} trains, as in 'use: {next(iter(there))}'", "use")
        if self.use not in there:
            raise rule(f"{shown(self.use)} is no processor of this file; give {' or '.join(there)}", "use")
        for name, mode in self.modes.items():
            check_mode(name, mode, there, self.use, self.power)


_MODEL_KEYS: Final = ("processors", "use", "modes", "speed", "backward_ratio", "times", "sample_time")


def load_profile(name: str, relative_to: Path | None = None) -> Profile:
    """The profile of a name in the catalogue, or of a path (relative to the folder `relative_to`).

    Raises:
        UserError: there is no such profile, or its file breaks a rule; with file, line and the way out.
    """
    return entries.load(Profile, PROFILE, name, relative_to, first=_unknown_cost_model)


def _unknown_cost_model(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A file for another cost model has other keys too: the one thing that matters."""
    model = data.get("cost_model")
    if isinstance(model, str) and model not in tuple(CostModel):
        hint = nearest(model, CostModel) or f"there are: {', '.join(CostModel)}"
        sentence = f"{shown(model)} is not one that this version of fedsim can price; {hint}"
        yield Problem(("cost_model",), sentence)
