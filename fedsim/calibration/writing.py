"""The profile of a calibrated machine, with its evidence, as a file that scenarios can name."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from fedsim.calibration import surroundings
from fedsim.calibration.observations import Observation, Part
from fedsim.calibration.running import Outcome
from fedsim.errors import UserError
from fedsim.hardware.processors import Processor
from fedsim.hardware.profiles import Kind, Profile
from fedsim.units import WATTS, human_count, human_seconds

WATTS_OF: Final[Mapping[Kind, tuple[float, float]]] = {
    Kind.BOARD: (3.0, 8.0),
    Kind.JETSON: (4.0, 15.0),
    Kind.PHONE: (0.8, 4.0),
    Kind.LAPTOP: (5.0, 35.0),
    Kind.SERVER: (50.0, 250.0),
}
"""Idle and busy watts that are plausible for such a machine; nobody measured them."""

_USABLE: Final[Mapping[Kind, tuple[float, float]]] = {  # share of the capacity, and bytes that are taken besides
    Kind.BOARD: (0.9, 0.2e9),
    Kind.JETSON: (0.9, 0.8e9),
    Kind.PHONE: (0.5, 0.0),
    Kind.LAPTOP: (0.9, 0.8e9),
    Kind.SERVER: (0.95, 0.0),
}
_GPU_USABLE: Final = (0.95, 0.5e9)


@dataclass(frozen=True, slots=True)
class Description:
    """What a profile says that cannot be measured here."""

    path: Path
    """The file; its stem is the profile's id."""
    kind: Kind = Kind.BOARD
    idle: float | None = None
    """Watts; None takes what is plausible for the kind."""
    busy: float | None = None
    name: str | None = None
    """For people; None takes the name of the processor."""

    def check(self, *, force: bool) -> None:
        """Refuse what could not be written, before anything is measured.

        Raises:
            UserError: a name that profiles cannot have, a file that is there, watts that cannot be.
        """
        path = self.path
        stem = path.stem
        if path.suffix != ".yaml" or not all(
            part.isascii() and part.isalnum() and part == part.lower() for part in stem.split("-")
        ):
            raise UserError(
                f"--out {path} is no name of a profile; the file is called after its id, lower case words joined by "
                "hyphens, as in my-board.yaml"
            )
        if not path.parent.is_dir():
            raise UserError(f"--out {path}: there is no folder {path.parent}; make it, or choose another")
        if path.is_dir() or (path.exists() and not force):
            raise UserError(f"--out {path} already exists; choose another name, or replace it with --force")
        idle, busy = self.watts
        if not 0 <= idle <= busy:
            raise UserError(
                f"--idle {idle:g} W and --busy {busy:g} W; a machine draws at least as much busy as idle, so give "
                "both, such as --idle '2.7 W' --busy '6.4 W'"
            )

    @property
    def watts(self) -> tuple[float, float]:
        """Idle and busy."""
        idle, busy = WATTS_OF[self.kind]
        return (idle if self.idle is None else self.idle, busy if self.busy is None else self.busy)


def profile(outcome: Outcome, description: Description, today: datetime.date | None = None) -> dict[str, Any]:
    """The profile as plain data, as its file has it; a valid one."""
    day = (today or datetime.datetime.now(datetime.UTC).date()).isoformat()
    plan = outcome.evidence.plan
    machine = surroundings.cpu_name()
    if plan.processor == "gpu":
        machine = f"{torch.cuda.get_device_name()}, {machine}"
    threads = f"{plan.threads} thread{'s' * (plan.threads != 1)}"
    cores = {"cores": plan.threads} if plan.processor == "cpu" else {}
    idle, busy = description.watts
    data = {
        "schema": 1,
        "id": description.path.stem,
        "name": description.name or f"{machine}, {threads}",
        "kind": description.kind.value,
        "cost_model": "roofline",
        "processors": {plan.processor: cores | _figures(outcome.processor)},
        "use": plan.processor,
        "memory": _memory(outcome, description.kind),
        "power": {"idle": WATTS.format(idle), "busy": WATTS.format(busy)},
        "calibration": _calibration(outcome, machine, day),
        "sources": _sources(outcome, description, f"fedsim calibrate on {day}: {machine}, {threads}"),
    }
    Profile.model_validate(data)
    return data


def write(data: Mapping[str, Any], path: Path) -> None:
    """Write a profile's file.

    Raises:
        UserError: it cannot be written.
    """
    text = yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=None, allow_unicode=True, width=200)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}; choose another place") from error


def versions() -> dict[str, str]:
    """Of the programs whose speed was measured."""
    return {"fedsim": version("fedsim-edge"), "torch": str(torch.__version__), "python": platform.python_version()}


def _figures(processor: Processor) -> dict[str, Any]:
    """A processor's figures as people write them; three digits are all that a fit gives them."""
    plain = processor.model_dump(mode="json", by_alias=True, exclude_unset=True)
    said = {kind: _seconds(seconds) for kind, seconds in processor.overheads if seconds is not None}
    return (
        plain
        | {
            "gemm": human_count(processor.gemm, "MAC/s"),
            "bandwidth": human_count(processor.bandwidth, "B/s"),
            "overhead": _seconds(processor.overhead),
            "efficiency": {kind: _percent(share) for kind, share in plain["efficiency"].items()},
        }
        | ({"overheads": said} if said else {})
    )


def _memory(outcome: Outcome, kind: Kind) -> dict[str, str]:
    gpu = outcome.evidence.plan.processor == "gpu"
    capacity = torch.cuda.get_device_properties(0).total_memory if gpu else surroundings.memory()
    share, taken = _GPU_USABLE if gpu else _USABLE[kind]
    runtime = outcome.evidence.memory
    usable = max(share * capacity - taken, min(1.25 * runtime, capacity))  # whoever measured here fits
    figures = {"capacity": capacity, "usable": usable, "runtime": runtime}
    return {key: human_count(value, "B") for key, value in figures.items()}


def _calibration(outcome: Outcome, machine: str, day: str) -> dict[str, Any]:
    evidence, inside = outcome.evidence, outcome.accuracy()
    return {
        "mape": _percent(inside.mape),
        "bias": _percent(inside.bias),
        "worst": _percent(inside.worst),
        "left_out": _percent(outcome.accuracy(left_out=True).mape),
        "rho": round(inside.rho, 4),
        "machine": machine,
        "threads": evidence.plan.threads,
        "versions": versions(),
        "date": day,
        "load": _percent(evidence.load),
        "scatter": _percent(evidence.scatter),
        "models": [
            {
                "model": name,
                "mape": _percent(outcome.accuracy(network=name).mape),
                "left_out": _percent(outcome.accuracy(network=name, left_out=True).mape),
            }
            for name in evidence.networks
        ],
        "measurements": [
            {
                "model": observation.network,
                "batch": observation.batch,
                "part": part_name(observation),
                "measured": _seconds(observation.seconds),
                "priced": _seconds(priced),
                "left_out": _seconds(left_out),
                "scatter": _percent(observation.scatter),
            }
            for observation, priced, left_out in zip(
                evidence.observations, outcome.priced.tolist(), outcome.left_out.tolist(), strict=True
            )
        ],
    }


def part_name(observation: Observation) -> str:
    """What was timed: the part of a step, and which optimizer's where that matters."""
    return f"{Part.OPTIMIZER} {observation.optimizer}" if observation.part is Part.OPTIMIZER else observation.part.value


def _sources(outcome: Outcome, description: Description, ref: str) -> list[dict[str, str]]:
    plan, rates = outcome.evidence.plan, outcome.evidence.rates
    products = ", ".join(f"{side}: {human_count(rate, 'MAC/s')}" for side, rate in rates.products.items())
    plain = f"matrix products of side {products}; copying 256 MB: {human_count(rates.copy, 'B/s')}"
    chain = f"a chain of operators on one element: {human_seconds(rates.overhead)} each"
    fit = "gemm is the best of the former; the rest is fitted to the measurements under `calibration`"
    kind = description.kind.value
    told = [
        f"--{name}" for name, value in (("idle", description.idle), ("busy", description.busy)) if value is not None
    ]
    power = f"given by {' and '.join(told)}" if told else f"plausible for a {kind}"
    capacity = "CUDA" if plan.processor == "gpu" else "operating system"
    return [
        {
            "field": f"processors.{plan.processor}",
            "confidence": "measured",
            "ref": ref,
            "note": f"{plain}; {chain}; {fit}",
        },
        {"field": "memory.capacity", "confidence": "measured", "ref": f"what the {capacity} says"},
        {
            "field": "memory.usable",
            "confidence": "unverified",
            "ref": "what system and other programs usually leave",
            "note": f"the rule of the catalogue for a {'GPU' if plan.processor == 'gpu' else kind}",
        },
        {
            "field": "memory.runtime",
            "confidence": "measured",
            "ref": ref,
            "note": "private memory of a process with PyTorch loaded, before any model",
        },
        {"field": "power", "confidence": "unverified", "ref": power, "note": "no power was measured"},
    ]


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _seconds(seconds: float) -> str:
    return human_seconds(seconds).replace("µ", "u")
