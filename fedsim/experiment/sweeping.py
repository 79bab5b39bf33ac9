"""A scenario varied along several axes: all cells checked first, then run and put side by side, as in a comparison.

Knows what a sweep is made of; cells, their folder and their table are those of `comparing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fedsim.documents.files import copied
from fedsim.errors import UserError
from fedsim.experiment.cells import Follower
from fedsim.experiment.checking import Findings, check
from fedsim.experiment.collection import SWEEP
from fedsim.experiment.comparing import Comparison, check_targets, compare_contest
from fedsim.experiment.contest import Contest, Variant, contested, variants
from fedsim.experiment.dealing import data_kept
from fedsim.experiment.loading import named
from fedsim.experiment.output import Output
from fedsim.experiment.running import memory_verdict
from fedsim.scenario import Scenario, Sweep
from fedsim.scenario.errors import SCENARIO
from fedsim.scenario.files import opened
from fedsim.scenario.sweeps import SWEEP as KEY
from fedsim.scenario.sweeps import sweep_of, taken

_NONE: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True)
class Plan:
    """A sweep before it is checked: what is varied, and the scenario under every choice."""

    sweep: Sweep
    variants: Sequence[Variant]
    objects: Mapping[str, Any]
    notes: Sequence[str] = ()

    def contest(self) -> Contest:
        """The cells for all seeds.

        Raises:
            UserError: some are wrong; all that is wrong is listed.
        """
        return contested(
            self.variants,
            self.sweep.axes,
            seeds=self.sweep.seeds,
            objects=self.objects,
            notes=self.notes,
            what="the cells of the sweep",
        )


@dataclass(frozen=True)
class Checked:
    """A cell that was checked: what it comes to, or why it cannot be run."""

    variant: Variant
    findings: Findings | None
    wrong: str = ""


def sweep(
    source: str | Path | Mapping[str, Any],
    axes: Mapping[str, Any] | None = None,
    *,
    seeds: int | None = None,
    targets: Sequence[float] | None = None,
    baseline: str | None = None,
    out: str | Path | None = None,
    jobs: int = 1,
    overrides: Sequence[str] = (),
    follower: Follower | None = None,
    **updates: Any,
) -> Comparison:
    """Run a scenario in every combination of the choices on its axes, and put their figures side by side.

    Args:
        source: a name of the catalogue, the path of a file, or the same data as a mapping.
        axes: a section `sweep`, such as `{"model.cut": [1, 2]}`, in the place of the source's.
        seeds: how many, for each cell: the scenario's own and those that follow it; by default those of the section.
        targets: accuracies whose time is compared, in the place of those of the section.
        baseline: the cell that ratios refer to, as the table calls it; by default the first.
        out: the folder of the sweep, with a run folder for each cell. Given again, runs that are done in it are kept.
            Nothing is written without one.
        jobs: processes that share the cells; the figures do not depend on it. With more than one, a program has to
            start under `if __name__ == "__main__":`.
        overrides: `key.path=value` each, as with `--set`; `sweep.PATH=[VALUES]` sets an axis.
        follower: told what happens.
        updates: sections or keys that replace those of the source, such as `until={"rounds": 40}`.

    Raises:
        UserError: the source is no sweep, or something is wrong with a cell or with the folder; nothing was run.
    """
    found = planned(source, axes, overrides=overrides, updates=updates)
    if found is None:
        raise UserError("this scenario is no sweep: it has no section sweep; give axes, or run it by fedsim.run")
    asked = found.sweep
    if seeds is not None:
        if seeds < 1:
            raise UserError(f"{seeds} seeds; sweep with 1 or more")
        asked = replace(asked, seeds=seeds)
    if targets is not None:
        asked = replace(asked, targets=tuple(targets))
    output = None if out is None else Output(Path(out))
    return run_plan(replace(found, sweep=asked), output=output, baseline=baseline, jobs=jobs, follower=follower)


def planned(
    source: str | Path | Mapping[str, Any],
    axes: Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    updates: Mapping[str, Any] = _NONE,
) -> Plan | None:
    """The sweep that a scenario holds; None where it holds none.

    Raises:
        UserError: the source cannot be read, or its section `sweep` is wrong.
    """
    data, places = opened(source)
    if axes is not None:
        data[KEY], places = copied(axes, SCENARIO), places.moved((KEY,), f"{KEY} from Python")
    section, places, left = taken(data, places, overrides)
    if section is None:
        return None
    plain, objects = named(updates)
    found = sweep_of(section, places)
    who = next((axis.name for axis in found.axes if "scheduler" in axis.paths), "")
    named_by = f"the sweep takes them from its axis {who}; --set 'sweep.{who}=[NAME]' gives it one"
    made, notes = variants(source, found.axes, overrides=left, updates=plain, objects=objects, named_by=named_by)
    return Plan(found, made, objects, notes)


def run_plan(
    plan: Plan,
    *,
    output: Output | None = None,
    baseline: str | None = None,
    jobs: int = 1,
    follower: Follower | None = None,
) -> Comparison:
    """Run a sweep; see `sweep`. Without an `output` nothing is written."""
    return compare_contest(
        plan.contest(),
        output=output,
        layout=SWEEP,
        baseline=baseline,
        targets=plan.sweep.targets,
        jobs=jobs,
        follower=follower,
    )


def check_plan(plan: Plan) -> list[Checked]:
    """Every cell of a sweep, checked by itself, for the first seed.

    Raises:
        UserError: its targets are no accuracies, or no cell trains.
    """
    right = [variant.found for variant in plan.variants if isinstance(variant.found, Scenario)]
    if right:
        check_targets(plan.sweep.targets, right)
    with data_kept():
        return [_checked(variant) for variant in plan.variants]


def _checked(variant: Variant) -> Checked:
    if isinstance(variant.found, UserError):
        return Checked(variant, None, str(variant.found))
    try:
        findings = check(variant.found)
    except UserError as error:
        return Checked(variant, None, str(error))
    short = memory_verdict(findings.study)
    return Checked(variant, findings, short or "") if variant.found.on_oom == "refuse" else Checked(variant, findings)
