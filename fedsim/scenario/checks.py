"""Rules that join several sections of a scenario. Rules inside one section are with it, in `schema`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

from fedsim.documents.problems import KeyPath, Problem
from fedsim.errors import unknown
from fedsim.scenario.schema import Churn, Fault, Scenario
from fedsim.scenario.section import File
from fedsim.units import human_seconds


def _timing_only(scenario: Scenario) -> Iterator[Problem]:
    """With `learning: off` no accuracy, loss or perplexity ends the run, since nothing is trained."""
    if scenario.learning:
        return
    for key in ("accuracy", "loss", "perplexity"):
        if getattr(scenario.until, key) is not None:
            sentence = "needs learning: on, since timing only trains nothing; give a fixed count, until.rounds, instead"
            yield Problem(("until", key), sentence)


def _emulation(scenario: Scenario) -> Iterator[Problem]:
    """`mode: emulate` needs `learning: on` and, unless `emulation.shaping` is off, `network.discipline: fifo`."""
    if scenario.mode != "emulate":
        return
    if not scenario.learning:
        yield Problem(("mode",), "emulate does the real work, so it needs learning: on; or set mode: simulate")
    if scenario.emulation.shaping and scenario.network.discipline == "fair":
        yield Problem(
            ("network", "discipline"),
            "fair lets the messages of one connection share it, but an emulation sends them one after the other; "
            "set discipline: fifo, or mode: simulate",
        )


def _selection(scenario: Scenario) -> Iterator[Problem]:
    """A round asks for no more devices than there are."""
    count, over = scenario.selection.count, scenario.selection.over
    if count is None:
        return
    if count > scenario.devices:
        sentence = f"{count} devices a round, but the fleet has {scenario.devices}; give {scenario.devices} or less"
        yield Problem(("selection", "count"), sentence)
    elif over is not None and count + over > scenario.devices:
        asked = f"{count} devices a round and {over} more are {count + over}"
        left = scenario.devices - count
        way = f"give {left} or less" if left else "give a smaller count"
        yield Problem(("selection", "over"), f"{asked}, but the fleet has {scenario.devices}; {way}")


def _faulty_devices(scenario: Scenario) -> Iterator[Problem]:
    """Faults are of devices that the fleet has."""
    last = scenario.devices - 1
    for index, fault in enumerate(scenario.listed_faults):
        if fault.device > last:
            sentence = f"device {fault.device}, but the fleet has devices 0 to {last}; give one of these"
            yield Problem(("faults", index, "device"), sentence)


def _one_fault_at_a_time(scenario: Scenario) -> Iterator[Problem]:
    """A device leaves again only after it has returned."""
    by_device: dict[int, list[tuple[Fault, int]]] = {}
    for index, fault in enumerate(scenario.listed_faults):
        by_device.setdefault(fault.device, []).append((fault, index))
    for faults in by_device.values():
        faults.sort(key=lambda entry: entry[0].leave)
        for (before, _), (after, index) in pairwise(faults):
            if before.return_ is None or after.leave < before.return_:
                gone = f"device {after.device} is already away since {human_seconds(before.leave)}"
                back = f"it is back at {human_seconds(before.return_)}" if before.return_ else "it never returns"
                yield Problem(("faults", index, "leave"), f"{gone}, and {back}; let it return before it leaves again")


def _access_points(scenario: Scenario) -> Iterator[Problem]:
    """Access points that groups name are there, and each is named by a group."""
    for index, group in enumerate(scenario.fleet):
        if group.access is not None and group.access not in scenario.access:
            sentence = unknown("access point", group.access, scenario.access)
            yield Problem(("fleet", index, "access"), f"{sentence}; add it to the scenario's access")
    used = {group.access for group in scenario.fleet}
    for name in scenario.access:
        if name not in used:
            yield Problem(
                ("access", name), f"no group of the fleet is behind it; add access: {name} to one, or remove it"
            )


def _recordings(scenario: Scenario) -> Iterator[Problem]:
    """Recorded availability and `faults` exclude each other, and a recording that begins again needs `until.time`."""
    recorded: dict[KeyPath, File] = {
        ("fleet", index, "availability"): group.availability
        for index, group in enumerate(scenario.fleet)
        if group.availability is not None
    }
    if scenario.faults:
        yield from (Problem(path, "faults are given, too; keep one of them") for path in recorded)
    if isinstance(scenario.faults, Churn):
        recorded["faults", "availability"] = scenario.faults.availability
    for path, file in recorded.items():
        if file.wrap and scenario.until.time is None:
            yield Problem(path, "devices come and go for ever, so the run may never end; add until.time, or wrap: off")


def _rolling_windows(scenario: Scenario) -> Iterator[Problem]:
    """Windows move with rounds that begin anew: what devices keep beyond one would be of other channels."""
    if scenario.pruning is None or scenario.pruning.windows == "fixed":
        return
    place: KeyPath = ("pruning", "windows")
    if not getattr(scenario.scheduler.options, "fresh_rounds", False):
        yield Problem(
            place,
            f"scheduler {scenario.scheduler.name} does not say fresh_rounds, that devices begin every round with "
            "weights of that round and keep none; set windows: fixed, or take a scheduler that does, such as fedavg",
        )
    if scenario.training.optimizer_state == "keep":
        yield Problem(
            place,
            "training.optimizer_state: keep would give the state of some channels to others; set windows: fixed, or "
            "optimizer_state: reset",
        )


RULES: Final[tuple[Callable[[Scenario], Iterator[Problem]], ...]] = (
    _timing_only,
    _emulation,
    _selection,
    _faulty_devices,
    _one_fault_at_a_time,
    _access_points,
    _recordings,
    _rolling_windows,
)


def check(scenario: Scenario) -> list[Problem]:
    """What is wrong with a scenario whose sections are each right."""
    return [problem for rule in RULES for problem in rule(scenario)]
