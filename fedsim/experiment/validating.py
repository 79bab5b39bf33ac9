"""Validating an emulation: a scenario once on the virtual clock, and once or several times on the wall clock."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from fedsim.errors import UserError
from fedsim.experiment.output import Output, reason, writing
from fedsim.experiment.running import Run, Watcher, run_scenario
from fedsim.report import Agreement, Verdict, agreement, verdict, write_summary
from fedsim.report.agreement import FRAME_BYTES, HEADER_BYTES, SHARE_WITHIN, TOTAL_WITHIN
from fedsim.report.identity import MOST_MISSING
from fedsim.scenario import Scenario

SCHEMA: Final = 1
VALIDATION: Final = "validation.json"
_EMULATING: Final = "fedsim.experiment.emulating"


class Runner(Protocol):
    """Runs a scenario, such as `run_scenario`."""

    def __call__(
        self,
        scenario: Scenario,
        *,
        output: Output | None = None,
        watcher: Watcher | None = None,
        objects: Mapping[str, Any] | None = None,
    ) -> Run:
        """Run it to its end, or until somebody stops it."""
        ...


@dataclass(frozen=True, repr=False)
class Validation:
    """A simulation and its emulations, as far as they were run; `verdict` is None where somebody stopped one."""

    scenario: Scenario
    simulated: Run
    emulated: tuple[Run, ...]
    agreements: tuple[Agreement, ...]
    verdict: Verdict | None
    folder: Path | None

    @property
    def interrupted(self) -> bool:
        """Whether somebody stopped it."""
        return self.verdict is None

    @property
    def typical(self) -> int:
        """The emulation to show of several: whose length is off by the median, the lower one of two."""
        order = sorted(range(len(self.agreements)), key=lambda index: abs(self.agreements[index].seconds.error))
        return order[(len(order) - 1) // 2]

    def remarks(self) -> list[str]:
        """What a reader should know: emulations that this host could not pace, weights that differ."""
        found = []
        for number, (run, one) in enumerate(zip(self.emulated, self.agreements, strict=True), 1):
            who = "the emulation" if len(self.emulated) == 1 else f"emulation {number}"
            fidelity = run.summary.get("fidelity") or {}
            if fidelity.get("faithful") is False:
                found.append(
                    f"{who} is not faithful: {fidelity['overrun_ratio']:.1%} of its works overran and "
                    f"{fidelity['lag_s']:.3g} s were lost, so it says little; give emulation.dilation a higher value"
                )
            error = run.summary["identity"]["time_error_s"]
            if error > MOST_MISSING * run.summary["seconds"]:
                found.append(
                    f"{who}: {error:.3g} s of some node are neither busy nor waiting, or both, and make its shares "
                    f"doubtful; a faithful one has less than {MOST_MISSING:.0%} of the run"
                )
            if one.weights is False and one.determined:
                found.append(
                    f"{who} ended with other weights, though rounds decide what is sent; as it should be only where "
                    "the server learns in the order of arrivals"
                )
        return found

    def document(self) -> dict[str, Any]:
        """All of it as plain data: `validation.json`."""
        decided = self.verdict
        return {
            "schema": SCHEMA,
            "name": self.scenario.name,
            "scheduler": self.scenario.scheduler.name,
            "gate": {
                "total": TOTAL_WITHIN,
                "shares": SHARE_WITHIN,
                "header_bytes": HEADER_BYTES,
                "frame_bytes": FRAME_BYTES,
            },
            "holds": None if decided is None else decided.holds,
            "misses": [] if decided is None else list(decided.misses),
            "total_error": None if decided is None else decided.total,
            "nodes": [] if decided is None else [asdict(node) for node in decided.nodes],
            "remarks": self.remarks(),
            "simulation": self.simulated.summary,
            "emulations": [
                {"summary": run.summary, "agreement": asdict(one)}
                for run, one in zip(self.emulated, self.agreements, strict=True)
            ],
            "folder": None if self.folder is None else str(self.folder),
        }


def validate(
    scenario: Scenario,
    *,
    repeat: int = 1,
    out: Path | None = None,
    watch: Callable[[str], Watcher] = lambda _: Watcher(),
    objects: Mapping[str, Any] | None = None,
    simulate: Runner = run_scenario,
    emulate: Runner | None = None,
) -> Validation:
    """Run a checked scenario on both clocks and compare the runs.

    What the scenario leaves to be chosen is chosen once, by the simulation.

    Args:
        repeat: how many emulations; of several, medians count.
        out: a folder for the run folders `simulate`, `emulate-1`, … and `validation.json`; None keeps nothing.
        watch: makes what follows a run, from what it is: `simulation`, `emulation 1 of 3`.
        simulate, emulate: what runs it on either clock.

    Raises:
        UserError: the scenario is wrong, or `out` holds something already.
        RunError: a run could not be finished.
    """
    if out is not None:
        Output(out).check()
    emulate = emulator() if emulate is None else emulate
    simulated = simulate(
        _in_mode(scenario, "simulate"), output=_below(out, "simulate"), watcher=watch("simulation"), objects=objects
    )
    emulated: list[Run] = []
    found: list[Agreement] = []
    stopped = simulated.interrupted
    while not stopped and len(found) < repeat:
        number = len(found) + 1
        run = emulate(
            _in_mode(simulated.scenario, "emulate"),
            output=_below(out, f"emulate-{number}"),
            watcher=watch("emulation" if repeat == 1 else f"emulation {number} of {repeat}"),
            objects=objects,
        )
        stopped = run.interrupted
        if not stopped:
            emulated.append(run)
            found.append(compared(simulated, run))
    decided = None if stopped else verdict(found)
    done = Validation(simulated.scenario, simulated, tuple(emulated), tuple(found), decided, out)
    if out is not None and not stopped:
        with writing(out):
            write_summary(out / VALIDATION, done.document())
    return done


def compared(simulated: Run, emulated: Run) -> Agreement:
    """How far an emulation is from a simulation."""
    return agreement(
        simulated.trace,
        emulated.trace,
        fidelity=emulated.summary.get("fidelity"),
        same_weights=_same_weights(simulated, emulated),
        measures=simulated.measures,
    )


def emulator() -> Runner:
    """What emulates a scenario, imported when it is asked for."""
    found: Runner = importlib.import_module(_EMULATING).emulate_scenario
    return found


def _same_weights(one: Run, other: Run) -> bool | None:
    if one.weights is None or other.weights is None:
        return None
    mine, theirs = one.weights, other.weights
    return mine.keys() == theirs.keys() and all(tensor.equal(theirs[name]) for name, tensor in mine.items())


def _in_mode(scenario: Scenario, mode: str) -> Scenario:
    return scenario.model_copy(update={"mode": mode})


def _below(out: Path | None, name: str) -> Output | None:
    """A folder inside that of the validation, which is made."""
    if out is None:
        return None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out} cannot be made: {reason(error)}; choose another folder") from error
    return Output(out / name)
