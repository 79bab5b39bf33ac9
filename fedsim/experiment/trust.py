"""What of a fleet is taken on trust: how its profiles came to their figures, and which of these nobody has checked.

`fedsim check` says it before a run; a trace carries it (`provenance`), so that reports need no profile to say it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from fedsim.experiment.fleet import Fleet
from fedsim.hardware.links import Link
from fedsim.hardware.machines import Machine
from fedsim.hardware.profiles import CostModel, Profile
from fedsim.hardware.sources import Confidence, Source, numbers, origin, unverified
from fedsim.units import human_count


def trust(fleet: Fleet) -> dict[str, str]:
    """How far the times of each profile are to be trusted, in a sentence."""
    return {machine.profile.id: _trust(machine.profile) for machine in _machines(fleet)}


def assumptions(fleet: Fleet) -> dict[str, list[str]]:
    """The figures of the profiles and links that nobody has checked against a source.

    Where that is all below a key, the key stands for them.
    """
    found: dict[str, list[str]] = {}
    for machine in _machines(fleet):
        found[machine.id] = _gathered(_figures(machine), unverified(machine.profile, machine.profile.sources))
    for link, used in _links(fleet):
        if link.sources:
            found[link.id] = _gathered(used, unverified(link, link.sources))
    return {name: fields for name, fields in found.items() if fields}


def provenance(fleet: Fleet) -> list[dict[str, Any]]:
    """Of each profile and link: what it is, how far its times go, and every figure's confidence and source.

    A link that the scenario itself describes has no sources, and so no figures here.
    """
    found = []
    for machine in _machines(fleet):
        profile = machine.profile
        speed = {"of": machine.id, "kind": "profile", "speed": machine.summary, "trust": _trust(profile)}
        found.append({**speed, "figures": _sourced(profile, _figures(machine), profile.sources)})
    for link, used in _links(fleet):
        rates = f"up {human_count(8 * link.up, 'bit/s')}, down {human_count(8 * link.down, 'bit/s')}"
        figures = _sourced(link, used, link.sources) if link.sources else []
        found.append({"of": link.id, "kind": "link", "speed": rates, "figures": figures})
    return list({str(entry): entry for entry in found}.values())


def _machines(fleet: Fleet) -> list[Machine]:
    return [*(group.machine for group in fleet.groups), fleet.server]


def _links(fleet: Fleet) -> Iterator[tuple[Link, list[str]]]:
    """Every link, with the figures of it that count here."""
    drawn = {group.link.id for group in fleet.groups if group.population}
    for link in [*(group.link for group in fleet.groups), fleet.server_link]:
        yield link, [f for f in numbers(link) if link.id in drawn or not f.startswith("population.")]


def _figures(machine: Machine) -> list[str]:
    return [field for field in numbers(machine.profile) if _is_used(field, machine)]


def _sourced(model: BaseModel, used: Iterable[str], sources: Sequence[Source]) -> list[dict[str, str]]:
    """Figures that share a source in one entry: their names, the confidence and where it can be looked up."""
    fields = list(used)
    by_source: dict[tuple[str, str], list[str]] = {}
    for field in fields:
        source = origin(field, sources)
        key = (Confidence.UNVERIFIED.value, "no source") if source is None else (source.confidence.value, source.ref)
        by_source.setdefault(key, []).append(field)
    return [
        {"fields": ", ".join(_gathered(fields, names)), "confidence": confidence, "source": source}
        for (confidence, source), names in by_source.items()
    ]


def _trust(profile: Profile) -> str:
    if profile.cost_model is CostModel.ROOFLINE:
        if profile.calibration is None:
            return (
                "not calibrated, so its times may be wrong by a factor of three; `fedsim calibrate` measures a machine"
            )
        error = profile.calibration.left_out
        return f"calibrated; times of models that it was not fitted to were off by {error:.0%} on average"
    if profile.cost_model is CostModel.TABLE:
        return "times as measured"
    return "one speed for all operators: good for comparing schedulers, not for the seconds of a real machine"


def _is_used(field: str, machine: Machine) -> bool:
    """Whether a figure of a profile counts here: not that of another power mode or another processor."""
    section, _, rest = field.partition(".")
    profile = machine.profile
    mode = None if machine.mode is None else profile.modes[machine.mode]
    use = (mode.use if mode is not None else None) or profile.use
    name, _, rest = rest.partition(".")
    if section == "modes":
        return name == machine.mode and rest.partition(".")[0] in (use, "power")
    return section != "processors" or name == use


def _gathered(known: Iterable[str], fields: Iterable[str]) -> list[str]:
    """Dotted names, those that are all there is below a key replaced by that key."""
    everything = list(known)
    wanted = set(fields) & set(everything)
    for name in sorted(wanted):
        for end in (index for index, letter in enumerate(name) if letter == "."):
            group = name[: end + 1]
            below = {other for other in everything if other.startswith(group)}
            if len(below) > 1 and below <= wanted:
                wanted = (wanted - below) | {group[:-1]}
                break
    return [name for name in dict.fromkeys(_shortened(everything, wanted)) if name in wanted]


def _shortened(everything: Iterable[str], wanted: set[str]) -> Iterable[str]:
    """Every name, or the key that stands for it, in the order of the file."""
    for name in everything:
        yield next((key for key in wanted if name == key or name.startswith(f"{key}.")), name)
