"""Power: the watts that a machine draws, by what it does. Knows nothing of clocks and modes."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fedsim.documents.translate import rule
from fedsim.quantities import Power
from fedsim.units import WATTS


class Draw(BaseModel):
    """Watts that a machine draws: empty, computing, and between two works with everything loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
