"""Machines: profiles as a fleet uses them, in a power mode and at a clock, every figure resolved.

Knows what a price needs of a machine, not how it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedsim.errors import UserError, shown, unknown
from fedsim.hardware.modes import Mode, Watts, clock_ratio, clocked, drawn
from fedsim.hardware.processors import Processor
from fedsim.hardware.profiles import CostModel, Memory, Profile, Thermal, Variation
from fedsim.hardware.sources import Confidence, weakest
from fedsim.units import FREQUENCY, human_count, human_seconds


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A kind of device or server. Compared by identity, so that prices can be kept by it."""

    id: str
    """The profile's, with mode and clock where they are given: `jetson-nano@5w`."""
    profile: Profile
    processor: Processor | None
    """What trains, as mode and clock set it; None where the cost model knows no processor."""
    watts: Watts
    """What it draws, as mode and clock set it."""
    mode: str | None = None
    """The power mode; None is the profile as it stands."""

    @property
    def cost_model(self) -> CostModel:
        """How `pricing` turns a cost into seconds."""
        return self.profile.cost_model

    @property
    def lanes(self) -> int:
        """Works that run at the same time."""
        return self.profile.lanes

    @property
    def memory(self) -> Memory:
        """Bytes that there are, may be used, and are taken."""
        return self.profile.memory

    @property
    def variation(self) -> Variation:
        """How unequal its like and its works are."""
        return self.profile.variation

    @property
    def thermal(self) -> Thermal | None:
        """What heat costs it."""
        return self.profile.thermal

    @property
    def idle_watts(self) -> float:
        """Watts with nothing loaded."""
        return self.watts.idle

    @property
    def busy_watts(self) -> float:
        """Watts while it computes."""
        return self.watts.busy

    @property
    def ready_watts(self) -> float:
        """Watts between two works."""
        return self.watts.ready

    @property
    def power_origins(self) -> list[tuple[str, Confidence]]:
        """The fields that its idle, busy and ready watts come from, and how far each is to be trusted.

        Watts that were scaled to a clock or to another idle are unverified, whatever they were scaled from.
        """
        return [self._origin(level) for level in ("idle", "busy", "ready")]

    def _origin(self, level: str) -> tuple[str, Confidence]:
        power, mode = self.profile.power, Mode() if self.mode is None else self.profile.modes[self.mode]
        said = getattr(mode, f"power_{level}")
        if said is None:
            said = getattr(power, level)
            field = f"power.{level if level in power.model_fields_set else 'idle'}"
        else:
            field = f"modes.{self.mode}.power.{level}"
        if getattr(self.watts, level) != said:
            return f"{field}, scaled", Confidence.UNVERIFIED
        return field, weakest([field], self.profile.sources)

    @property
    def summary(self) -> str:
        """Its speed in a few words, for tables."""
        profile = self.profile
        if self.processor is not None:
            gemm, bandwidth = self.processor.gemm, self.processor.bandwidth
            return f"gemm {human_count(gemm, 'MAC/s')}, {human_count(bandwidth, 'B/s')}"
        if profile.times:
            return f"measured times of {', '.join(profile.times)}"
        if profile.sample_time is not None:
            return f"{human_seconds(profile.sample_time)} a sample"
        assert profile.speed is not None, "a profile has what its cost model needs"
        return human_count(profile.speed, "MAC/s")


def machine(profile: Profile, mode: str | None = None, clock: float | None = None) -> Machine:
    """A profile in a power mode and at a clock.

    Args:
        profile: What it is.
        mode: One of the profile's power modes; None is the profile as it stands.
        clock: Hz of the processor that trains; None leaves what the mode says.

    Raises:
        UserError: there is no such mode, or nothing says what mode or clock would change.
    """
    name = profile.id + (f"@{mode}" if mode is not None else "")
    if profile.processors is None or profile.use is None:
        for key, given in (("power_mode", mode), ("clock", clock)):
            if given is not None:
                raise UserError(
                    f"{key} is given for {profile.id}, whose cost model ({profile.cost_model}) has no clock to change; "
                    f"remove {key}, or take a profile with cost model roofline"
                )
        return Machine(name, profile, None, drawn(profile.power, 1.0))
    chosen = None
    if mode is not None:
        if mode not in profile.modes:
            raise UserError(unknown(f"power mode of {profile.id}", mode, profile.modes) + "; or leave power_mode out")
        chosen = profile.modes[mode]
    use = (chosen.use if chosen is not None else None) or profile.use
    changes = chosen.of(use) if chosen is not None else {}
    processor = profile.processors.named()[use]
    watts = drawn(profile.power, clock_ratio(processor, changes), chosen)
    processor = clocked(processor, changes)
    if clock is not None:
        name += f"@{clock / 1e9:g}GHz"
        processor, watts = _at_clock(profile, use, processor, watts, clock)
    return Machine(name, profile, processor, watts, mode)


def _at_clock(profile: Profile, use: str, processor: Processor, watts: Watts, clock: float) -> tuple[Processor, Watts]:
    if not clock > 0:
        raise UserError(f"clock {shown(clock)} Hz for {profile.id}; a clock is greater than zero, like 1.2 GHz")
    if processor.clock is None:
        raise UserError(
            f"clock {FREQUENCY.format(clock)} for {profile.id}, but the profile does not say the clock of its {use}, "
            f"so there is nothing to compare it with; add processors.{use}.clock to the profile, or remove clock"
        )
    changes: dict[str, Any] = {"clock": clock}
    return clocked(processor, changes), drawn(watts, clock_ratio(processor, changes))
