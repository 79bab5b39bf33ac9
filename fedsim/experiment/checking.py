"""What a scenario comes to before it runs: units, cut, fleet, data, and what is taken on trust."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fedsim.experiment.building import Study, build
from fedsim.hardware.sources import unverified
from fedsim.learning.plan import DEVICE, MODEL
from fedsim.scenario import Scenario, resolved


@dataclass(frozen=True, slots=True)
class UnitLine:
    """A unit of the model: cost a sample, and what would be sent if the model were cut behind it."""

    index: int
    name: str
    macs: int
    parameters: int
    output: tuple[int, ...]
    activation_bytes: int


@dataclass(frozen=True)
class Findings:
    """The result of a check."""

    study: Study
    units: tuple[UnitLine, ...]

    def document(self) -> dict[str, Any]:
        """Everything as plain data."""
        study, assembly = self.study, self.study.assembly
        sizes = assembly.samples
        return {
            "scenario": resolved(study.scenario),
            "model": {
                "macs": assembly.model.macs,
                "parameters": assembly.model.parameters,
                "cut": assembly.cut,
                "units": [asdict(unit) for unit in self.units],
                "message_bytes": {"weights": self.weights_bytes, "activations_each": self.activations_each},
            },
            "data": {
                "name": study.info.name,
                "train": study.info.train,
                "test": study.info.test,
                "devices": {"min": int(sizes.min()), "max": int(sizes.max()), "mean": float(sizes.mean())},
            },
            "fleet": [{"profile": g.machine.id, "link": g.link.id, "count": g.count} for g in assembly.fleet.groups],
            "assumptions": self.assumptions(),
        }

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights a device receives and sends back: the device block or the whole model."""
        blocks = self.study.assembly.blocks()
        return (blocks[DEVICE] if DEVICE in blocks else blocks[MODEL]).weights.nbytes

    @property
    def activations_each(self) -> int | None:
        """Bytes of activations a sample at the cut; None where the scheduler does not cut."""
        cut = self.study.assembly.cut
        return None if cut is None else self.units[cut - 1].activation_bytes

    def assumptions(self) -> dict[str, list[str]]:
        """The figures of the fleet's profiles and links that nobody has checked against a source."""
        fleet = self.study.assembly.fleet
        found: dict[str, list[str]] = {}
        for profile in [*(g.machine.profile for g in fleet.groups), fleet.server.profile]:
            found[profile.id] = unverified(profile, profile.sources)
        for link in [*(g.link for g in fleet.groups), fleet.server_link]:
            if link.sources:
                found[link.id] = unverified(link, link.sources)
        return {name: fields for name, fields in found.items() if fields}


def check(scenario: Scenario) -> Findings:
    """Put a scenario together without running it.

    Raises:
        UserError: something in it does not fit.
    """
    study = build(scenario)
    model = study.assembly.model
    units = tuple(
        UnitLine(index, unit.name, unit.macs, unit.trainable, unit.output, model.activation_bytes(index))
        for index, unit in enumerate(model.units, start=1)
    )
    return Findings(study, units)
