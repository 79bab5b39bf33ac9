"""One scenario under many schedulers and seeds: every cell checked, run, and put beside the others.

A sweep goes the same way; its cells come from `sweeping`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedsim.errors import UserError, shown, unknown
from fedsim.experiment.building import build
from fedsim.experiment.cells import Follower, Orders, Ran, failure, run_cells
from fedsim.experiment.collection import COMPARISON, Collection, Layout, collection
from fedsim.experiment.contenders import everybody, given
from fedsim.experiment.contest import Cell, Contest, contest
from fedsim.experiment.dealing import data_kept
from fedsim.experiment.loading import named
from fedsim.experiment.output import Output
from fedsim.experiment.running import refuse_shortage
from fedsim.report import Outcome, Table, grids
from fedsim.report.sweeps import overview
from fedsim.scenario import Scenario, resolved

SCHEMA: Final = 1

SIDE_BY_SIDE: Final = 12
"""Runs of a sweep that its report shows in detail."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """A finished comparison or sweep. `summary` is the content of `comparison.json` or `sweep.json`."""

    summary: dict[str, Any]
    table: Table
    folder: Path | None
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know."""
    traces: tuple[str, ...] = ()
    """Where mistakes in somebody's code were made, as Python shows them."""

    @property
    def status(self) -> str:
        """`done`; `failed` where a cell has no result; `stopped` where somebody has stopped it before all were run."""
        return str(self.summary["status"])

    def __repr__(self) -> str:
        """The comparison in a line."""
        count = len(self.table.outcomes)
        return f"Comparison({', '.join(self.table.runs)}; {count} cells, {self.status}, folder {self.folder})"


def compare(
    source: str | Path | Mapping[str, Any],
    schedulers: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    seeds: int = 1,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    out: str | Path | None = None,
    jobs: int = 1,
    overrides: Sequence[str] = (),
    follower: Follower | None = None,
    **updates: Any,
) -> Comparison:
    """Run a scenario under several schedulers and seeds, and put their figures side by side.

    The same seed gives all of them the same data, initial weights and fleet.

    Args:
        source: a name of the catalogue, the path of a file, or the same data as a mapping.
        schedulers: names, mappings such as `{"name": "fedavg", "local_steps": 5}` or objects; or any of these by
            labels of your own. By default all of the catalogue that can run this scenario.
        seeds: how many: the scenario's own and those that follow it.
        baseline: the label that ratios refer to; by default the first.
        targets: accuracies whose time is compared, beside `until.accuracy`.
        out: the folder of the comparison, with a run folder for each cell. Given again, runs that are done in it are
            kept. Nothing is written without one.
        jobs: processes that share the cells; the figures do not depend on it. With more than one, a program has to
            start under `if __name__ == "__main__":`.
        overrides: `key.path=value` each, as with `--set`; `scheduler.key=value` is for all that have this option.
        follower: told what happens.
        updates: sections or keys that replace those of the source, such as `until={"rounds": 40}`.

    Raises:
        UserError: something is wrong for all cells, or with the folder; nothing was run.
    """
    plain, objects = named(updates)
    asked = everybody() if schedulers is None else given(schedulers)
    found = contest(source, asked, seeds=seeds, overrides=overrides, updates=plain, objects=objects)
    return compare_contest(
        found,
        output=None if out is None else Output(Path(out)),
        baseline=baseline,
        targets=targets,
        jobs=jobs,
        follower=follower,
        choosing=schedulers is None,
    )


def compare_contest(
    contest: Contest,
    *,
    output: Output | None = None,
    layout: Layout = COMPARISON,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    jobs: int = 1,
    follower: Follower | None = None,
    choosing: bool = False,
) -> Comparison:
    """Run the cells of a comparison or a sweep; see `compare`. Without an `output` nothing is written.

    Args:
        layout: what the files of its folder are called.
        choosing: leave out schedulers that cannot run the scenario, with a note; else they stand there as refused.
    """
    check_targets(targets, (cell.scenario for cell in contest.cells))
    if jobs < 1:
        raise UserError(f"{jobs} jobs; give 1 or more")
    with data_kept() if jobs == 1 else nullcontext():  # other processes have data of their own
        refused = _refused(contest)
        notes = list(contest.notes)
        if choosing:
            notes += [f"{label} is left out: {ran.outcome.reason}" for label, ran in refused.items()]
            contest, refused = contest.without(list(refused)), {}
        first = contest.labels[0] if baseline is None else baseline
        if first not in contest.labels:
            raise UserError(unknown("baseline", first, contest.labels))
        with nullcontext() if output is None else collection(output.out, contest, layout) as place:
            return _compared(contest, refused, place, first, targets, jobs, follower or Follower(), notes)


def check_targets(targets: Sequence[float], scenarios: Iterable[Scenario]) -> None:
    """Raise unless these are accuracies, and at least one of the scenarios can reach them.

    Raises:
        UserError: one is no accuracy, or nothing is trained.
    """
    for target in targets:
        if not 0 < target <= 1:
            raise UserError(f"target accuracy {shown(target)}; give a share above 0, at most 1, as in '90 %'")
    if targets and not any(scenario.learning for scenario in scenarios):
        raise UserError("a target accuracy needs learning: on, since timing only trains nothing; leave the target out")


def _refused(contest: Contest) -> dict[str, Ran]:
    """Of the first seed, the cells whose scenario cannot be run.

    Raises:
        UserError: none of them can.
    """
    found: dict[str, Ran] = {}
    with data_kept():
        for cell in contest.cells[: len(contest.labels)]:
            try:
                refuse_shortage(build(cell.scenario, contest.objects))
            except UserError as error:
                found[cell.label] = failure(cell, error)
    if len(found) < len(contest.labels):
        return found
    reasons = {ran.outcome.reason for ran in found.values()}
    if len(reasons) == 1:
        raise UserError(reasons.pop())
    lines = [f"{label}: {ran.outcome.reason}" for label, ran in found.items()]
    them = "schedulers can run this scenario" if contest.compares else "cells of the sweep can run"
    raise UserError("\n  ".join([f"none of the {them}:", *lines]))


def _compared(
    contest: Contest,
    refused: Mapping[str, Ran],
    place: Collection | None,
    baseline: str,
    targets: Sequence[float],
    jobs: int,
    follower: Follower,
    notes: Sequence[str],
) -> Comparison:
    ran: dict[tuple[str, int], Ran] = {(label, contest.seeds[0]): one for label, one in refused.items()}
    if place is not None:
        ran |= _kept(contest, place, targets, but=ran.keys())
    left = [cell for cell in contest.cells if (cell.label, cell.seed) not in ran]
    if place is not None:
        place.write(_document(contest, _table(contest, ran, baseline), targets, "running"))
    follower.ready(contest.cells, left)
    orders = Orders(None if place is None else place.folder, tuple(targets), contest.objects)
    for one in run_cells(left, orders, jobs, follower):
        ran[one.outcome.label, one.outcome.seed] = one
        follower.outcome(one.outcome)
    table = _table(contest, ran, baseline)
    document = _document(contest, table, targets, _status(table))
    if place is not None:
        place.write(document)
        place.table(table.rows())
        pairs = zip(contest.cells, table.outcomes, strict=True)
        done = [(cell, one.summary) for cell, one in pairs if one.status == "done" and one.summary]
        _report(contest, table, place, done)
    notes = [*notes, *_seen(contest, targets)]
    notes += [f"{one.outcome.label}, seed {one.outcome.seed}: {said}" for one in ran.values() for said in one.remarks]
    traces = tuple(dict.fromkeys(one.trace for one in ran.values() if one.trace))
    return Comparison(document, table, orders.folder, tuple(notes), traces)


def _report(contest: Contest, table: Table, place: Collection, done: Sequence[tuple[Cell, Mapping[str, Any]]]) -> None:
    """Write the report; of a sweep's runs, it shows no more side by side than fit on a page."""
    if contest.compares:
        place.report(done, grids(table))
        return
    shown = [pair for pair in done if pair[0].seed == contest.seeds[0]][:SIDE_BY_SIDE]
    left = len(done) - len(shown)
    note = f"Below, {len(shown)} of {len(done)} runs side by side; each has a report in its own folder." if left else ""
    place.report(shown, grids(table), overview(table, f"{contest.name}: a sweep of {len(contest.labels)} cells", note))


def _kept(
    contest: Contest, place: Collection, targets: Sequence[float], but: Set[tuple[str, int]]
) -> dict[tuple[str, int], Ran]:
    """The cells that are done already; those in `but` are not looked for."""
    found: dict[tuple[str, int], Ran] = {}
    with data_kept():
        for cell in contest.cells:
            key = cell.label, cell.seed
            summary = None if key in but else place.kept(cell, targets, contest.objects)
            if summary is not None:
                found[key] = Ran(Outcome(*key, "done", summary, at=cell.at))
    return found


def _table(contest: Contest, ran: Mapping[tuple[str, int], Ran], baseline: str) -> Table:
    return Table(
        [
            ran[cell.label, cell.seed].outcome
            if (cell.label, cell.seed) in ran
            else Outcome(cell.label, cell.seed, "pending", at=cell.at)
            for cell in contest.cells
        ],
        baseline,
    )


def _status(table: Table) -> str:
    states = {one.status for one in table.outcomes}
    if states & {"stopped", "pending"}:
        return "stopped"
    return "done" if states == {"done"} else "failed"


def _seen(contest: Contest, targets: Sequence[float]) -> list[str]:
    """A note where times to an accuracy depend on how often a system has a new model."""
    scenario = contest.cells[0].scenario
    asked = targets or scenario.until.accuracy is not None
    if not asked or scenario.evaluate.every is not None or scenario.until.time is not None:
        return []
    return ["accuracy is looked at with each new model, so not equally often; evaluate.every looks at equal intervals"]


def _document(contest: Contest, table: Table, targets: Sequence[float], status: str) -> dict[str, Any]:
    """The content of `comparison.json`, or of `sweep.json`."""
    schedulers = {cell.label: resolved(cell.scenario)["scheduler"] for cell in contest.cells}
    shape = {"schedulers": schedulers} if contest.compares else {"axes": contest.shape()}
    return {
        "schema": SCHEMA,
        "name": contest.name,
        "status": status,
        "baseline": table.baseline,
        "seeds": contest.seeds,
        "targets": list(targets),
        **shape,
        "scenario": contest.common(),
        "cells": [
            {
                **({"scheduler": cell.label} if contest.compares else {"cell": cell.label, "at": dict(cell.at)}),
                "seed": cell.seed,
                "folder": cell.name,
                "status": one.status,
                "reason": one.reason or None,
                "summary": one.summary,
            }
            for cell, one in zip(contest.cells, table.outcomes, strict=True)
        ],
        **table.document(),
    }
