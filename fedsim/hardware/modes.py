"""Power modes and clocks: what they change of a machine's processors and of what it draws.

A processor's speeds follow its cores and its clock, the time an operator takes before it computes follows the clock
inversely, memory stays as fast as it is, and the watts above idle follow the square of the clock, unless the mode says
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from fedsim.documents.translate import rule
from fedsim.hardware.power import Draw
from fedsim.hardware.processors import Processor, check_gemm
from fedsim.quantities import Delay, Frequency, Power, Rate, Speed

_FIGURES: Final = ("cores", "clock", "peak", "gemm", "bandwidth", "overhead")
_Cores = Annotated[int, Field(ge=1, strict=True)]


class Mode(BaseModel):
    """What is different in a power mode: keys of the profile as dotted names, their values in this mode."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: str | None = None
    """The processor that trains."""
    cpu_cores: _Cores | None = Field(default=None, alias="cpu.cores")
    cpu_clock: Frequency | None = Field(default=None, alias="cpu.clock")
    cpu_peak: Speed | None = Field(default=None, alias="cpu.peak")
    cpu_gemm: Speed | None = Field(default=None, alias="cpu.gemm")
    cpu_bandwidth: Rate | None = Field(default=None, alias="cpu.bandwidth")
    cpu_overhead: Delay | None = Field(default=None, alias="cpu.overhead")
    gpu_cores: _Cores | None = Field(default=None, alias="gpu.cores")
    gpu_clock: Frequency | None = Field(default=None, alias="gpu.clock")
    gpu_peak: Speed | None = Field(default=None, alias="gpu.peak")
    gpu_gemm: Speed | None = Field(default=None, alias="gpu.gemm")
    gpu_bandwidth: Rate | None = Field(default=None, alias="gpu.bandwidth")
    gpu_overhead: Delay | None = Field(default=None, alias="gpu.overhead")
    power_idle: Power | None = Field(default=None, alias="power.idle")
    power_busy: Power | None = Field(default=None, alias="power.busy")
    power_ready: Power | None = Field(default=None, alias="power.ready")

    def of(self, processor: str) -> dict[str, Any]:  # a count of cores and floats
        """What is different about a processor, by the keys of `Processor`."""
        figures = {key: getattr(self, f"{processor}_{key}") for key in _FIGURES}
        return {key: value for key, value in figures.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Watts:
    """Watts that a machine draws as it is set."""

    idle: float
    busy: float
    ready: float


def clocked(processor: Processor, changes: Mapping[str, Any]) -> Processor:
    """A processor with the figures of a mode, and those that follow from its cores and clock.

    Args:
        processor: As the profile describes it, or as a mode has left it; has what `changes` change.
        changes: New figures by the keys of `Processor`.
    """
    cores = changes["cores"] / processor.cores if "cores" in changes else 1.0
    clock = clock_ratio(processor, changes)
    follow: dict[str, Any] = {
        "gemm": processor.gemm * cores * clock,
        "overhead": processor.overhead / clock,
        "overheads": processor.overheads.scaled(1 / clock),
    }
    if processor.peak is not None:
        follow["peak"] = processor.peak * cores * clock
    return processor.model_copy(update=follow | dict(changes))


def clock_ratio(processor: Processor, changes: Mapping[str, Any]) -> float:
    """The new clock of a processor over its own."""
    return float(changes["clock"] / processor.clock) if "clock" in changes else 1.0


def drawn(power: Draw | Watts, clock: float, mode: Mode | None = None) -> Watts:
    """The watts at another clock, or in a mode.

    Args:
        power: At the clock before.
        clock: The new clock of the processor in use over that before.
        mode: What is said of it.
    """
    said = Mode() if mode is None else mode
    idle = power.idle if said.power_idle is None else said.power_idle

    def follows(level: float) -> float:
        return level if clock == 1 and idle == power.idle else idle + (level - power.idle) * clock**2

    busy = follows(power.busy) if said.power_busy is None else said.power_busy
    # A mode that says what it draws at work draws no more between two works.
    ready = min(follows(power.ready), busy) if said.power_ready is None else said.power_ready
    return Watts(idle, busy, ready)


def check_mode(name: str, mode: Mode, processors: Mapping[str, Processor], use: str, power: Draw) -> None:
    """Refuse a mode of what is not there, or one that cannot be.

    Raises:
        PydanticCustomError: at the key of the profile's section that is wrong.
    """
    there = " and ".join(processors)
    for processor in ("cpu", "gpu"):
        changes = mode.of(processor)
        if not changes:
            continue
        if processor not in processors:
            raise rule(f"there is no {processor}, only {there}", "modes", name, f"{processor}.{next(iter(changes))}")
        for key in ("cores", "clock"):
            if key in changes and getattr(processors[processor], key) is None:
                sentence = f"the profile does not give the {processor}'s {key}; add processors.{processor}.{key}, too"
                raise rule(sentence, "modes", name, f"{processor}.{key}")
    if mode.use is not None and mode.use not in processors:
        raise rule(f"there is no {mode.use}, only {there}", "modes", name, "use")
    for processor, before in processors.items():
        changes = mode.of(processor)
        after = clocked(before, changes)
        check_gemm(after, "modes", name, f"{processor}.{'gemm' if 'gemm' in changes else 'peak'}")
    used = mode.use or use
    watts = drawn(power, clock_ratio(processors[used], mode.of(used)), mode)
    if watts.busy < watts.idle:
        raise rule(f"{watts.busy:g} W, less than idle, {watts.idle:g} W; correct it", "modes", name, "power.busy")
    if not watts.idle <= watts.ready <= watts.busy:
        sentence = f"{watts.ready:g} W, outside idle to busy, {watts.idle:g} to {watts.busy:g} W; correct it"
        raise rule(sentence, "modes", name, "power.ready")
