"""`fedsim run` and `fedsim check` of a scenario with a section `sweep`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.cli import WRONG_INPUT
from fedsim.cli.comparing import followed
from fedsim.cli.printing import wide_console
from fedsim.errors import UserError
from fedsim.experiment.cells import Follower
from fedsim.experiment.collection import SWEEP
from fedsim.experiment.comparing import Comparison
from fedsim.experiment.output import Output
from fedsim.experiment.sweeping import Checked, Plan, check_plan, planned, run_plan
from fedsim.units import human_count, human_seconds

_NAMED: Final = 5  # cells that are named beside what is wrong with them


def sweep_command(
    source: str, overrides: Sequence[str], out: Path | None, *, ray: str | None, jobs: int, as_json: bool
) -> int:
    """Run a sweep from the command line; returns the exit status."""
    if ray is not None:
        raise UserError(
            f"--ray {ray} is for one run, and this is a sweep; --jobs N shares its runs, or leave --ray out"
        )
    plan = _plan(source, overrides)

    def run(follower: Follower) -> Comparison:
        return run_plan(plan, output=Output(out), jobs=jobs, follower=follower)

    return followed(run, jobs, SWEEP, as_json=as_json)


def check_sweep_command(source: str, overrides: Sequence[str], *, as_json: bool) -> int:
    """Check every cell of a sweep; the status is that of wrong input where one cannot be run."""
    plan = _plan(source, overrides)
    found = check_plan(plan)
    if as_json:
        print(json.dumps(_document(plan, found), indent=1))
    else:
        _print(plan, found, wide_console())
    return WRONG_INPUT if any(one.wrong for one in found) else 0


def _plan(source: str, overrides: Sequence[str]) -> Plan:
    found = planned(source, overrides=overrides)
    assert found is not None  # whoever calls has looked
    return found


def _document(plan: Plan, found: Sequence[Checked]) -> dict[str, Any]:
    return {
        "axes": {axis.name: {"sets": list(axis.paths), "labels": list(axis.choices)} for axis in plan.sweep.axes},
        "seeds": plan.sweep.seeds,
        "targets": list(plan.sweep.targets),
        "cells": [
            {
                "cell": one.variant.label,
                "at": dict(one.variant.at),
                "wrong": one.wrong or None,
                "findings": None if one.findings is None else one.findings.document(),
            }
            for one in found
        ],
    }


def _print(plan: Plan, found: Sequence[Checked], console: Console) -> None:
    """The axes, a line a cell, and what is wrong."""
    for axis in plan.sweep.axes:
        sets = "" if axis.paths == (axis.name,) else f" ({', '.join(axis.paths)})"
        console.print(Text(f"{axis.name}{sets}: {', '.join(axis.choices)}"), soft_wrap=True)
    seeds = plan.sweep.seeds
    runs = f"{len(found) * seeds} runs" if len(found) * seeds != 1 else "1 run"
    console.print(Text(f"{len(found)} cells, {seeds} seed{'s' if seeds != 1 else ''}: {runs}\n"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "cut", "a batch, slowest device", "weights of a device", "memory of the fullest device", ""):
        table.add_column(head, justify="right" if head else "left", overflow="fold")
    for one in found:
        verdict = Text("wrong", "bold red") if one.wrong else Text("right")
        table.add_row(Text(one.variant.label), *_figures(one), verdict)
    console.print(table)
    for sentence, labels in _reasons(found).items():
        console.print(Text(f"\n{_listed(labels, len(found))}:", "bold"), soft_wrap=True)
        console.print(Text(sentence), soft_wrap=True)
    for note in plan.notes:
        console.print(Text(f"\nnote: {note}"), soft_wrap=True)


def _figures(one: Checked) -> Iterator[str]:
    """What a cell comes to, in four columns."""
    if one.findings is None:
        yield from ("", "", "", "")
        return
    groups = one.findings.groups
    cut = one.findings.study.assembly.cut
    yield "" if cut is None else str(cut)
    yield human_seconds(max(line.step.seconds for line in groups))
    yield human_count(one.findings.weights_bytes, "B")
    yield f"{max(line.need.total / line.need.usable for line in groups):.0%}"


def _listed(labels: Sequence[str], count: int) -> str:
    if len(labels) == count > 1:
        return f"all {count} cells"
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return "; ".join(labels[:_NAMED]) + more


def _reasons(found: Sequence[Checked]) -> dict[str, list[str]]:
    """What is wrong, with the cells that it is wrong with."""
    reasons: dict[str, list[str]] = {}
    for one in found:
        if one.wrong:
            reasons.setdefault(one.wrong, []).append(one.variant.label)
    return reasons
