"""The run folder: everything that follows from a trace, written and read back.

`summary.json` comes last and at once, so a folder without it did not finish.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedsim.errors import UserError
from fedsim.report.comparison import Grid
from fedsim.report.html import Run, write_report
from fedsim.report.measures import Measures, measure
from fedsim.report.summary import SCHEMA
from fedsim.report.sweeps import Overview
from fedsim.report.tables import write_curves, write_nodes
from fedsim.report.timeline import write_timeline
from fedsim.trace import Trace, read, write

SUMMARY: Final = "summary.json"
TRACE: Final = "trace.parquet"
REPORT: Final = "report.html"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A finished run as its folder holds it."""

    folder: Path
    summary: dict[str, Any]
    trace: Trace


def write_run(folder: Path, trace: Trace, summary: Mapping[str, Any], measures: Measures | None = None) -> None:
    """Write trace, tables, timeline, report and, last, the summary of a run into `folder`, which is made if need be.

    Args:
        measures: those of the trace, where the caller has them already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    found = measure(trace) if measures is None else measures
    write(trace, folder / TRACE)
    write_nodes(folder / "nodes.csv", found)
    write_curves(folder / "curves.csv", found)
    write_timeline(folder / "timeline.json.gz", found.columns)
    write_report(folder / REPORT, [Run(summary, found, trace.scenario, trace.provenance)])
    write_summary(folder / SUMMARY, summary)


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write a summary at once: a reader sees all of it or none."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        UserError: the folder holds no finished run, or one of another version.
    """
    path = folder / SUMMARY
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of a run, like runs/NAME-SCHEDULER-UTC")
    if not path.is_file():
        runs = sorted(found.parent.name for found in folder.glob(f"*/{SUMMARY}"))
        if runs:
            raise UserError(f"{folder} is no run but holds {len(runs)}; give their folders, like {folder / runs[0]}")
        raise UserError(f"{folder} has no {SUMMARY}, so its run did not finish; run its scenario.yaml again")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); run the scenario again") from error
    schema = summary.get("schema") if isinstance(summary, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema}, but this fedsim reads schema {SCHEMA}; run the scenario again")
    found: dict[str, Any] = summary
    return found


def read_run(folder: Path) -> RunFolder:
    """A finished run: its summary and its trace.

    Raises:
        UserError: the folder holds no finished run, its trace is missing, or it is of another version.
    """
    summary = read_summary(folder)
    if not (folder / TRACE).is_file():
        raise UserError(f"{folder} has a {SUMMARY} but no {TRACE}; without it there is nothing to report: run it again")
    return RunFolder(folder, summary, read(folder / TRACE))


def write_comparison(
    path: Path, runs: Iterable[RunFolder], grids: Sequence[Grid] = (), overview: Overview | None = None
) -> None:
    """Write one report of several runs side by side, with the tables of their comparison or sweep if there are any.

    Of runs that come one by one, no more than one trace is held at a time.
    """
    found = (Run(run.summary, measure(run.trace), run.trace.scenario, run.trace.provenance) for run in runs)
    write_report(path, list(found), grids, overview)
