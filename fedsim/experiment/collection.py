"""The folder of a comparison or a sweep: a run folder for each cell, and what follows from all of them.

One that is started again keeps the runs that are done. Whatever does not belong to it is refused, not touched.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedsim.documents.problems import dotted
from fedsim.documents.reading import Unreadable, read
from fedsim.errors import UserError, shown
from fedsim.experiment.building import build
from fedsim.experiment.contest import Cell, Contest
from fedsim.experiment.output import SCENARIO, fresh, reason, writing
from fedsim.report import RunFolder, read_run, read_summary, summarise, write_comparison, write_summary
from fedsim.report.comparison import Grid
from fedsim.report.folder import SUMMARY, TRACE
from fedsim.report.sweeps import Overview
from fedsim.scenario import Scenario, dump

_ABSENT: Final = object()


@dataclass(frozen=True)
class Layout:
    """What a collection is called, and its files."""

    word: str
    document: str
    table: str
    report: str
    ending: str
    """Of the name of its folder, where nobody gives one."""


COMPARISON: Final = Layout("comparison", "comparison.json", "comparison.csv", "comparison.html", "compare")
SWEEP: Final = Layout("sweep", "sweep.json", "sweep.csv", "report.html", "sweep")


class Collection:
    """The folder `folder` of a comparison or a sweep."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
        self._layout = layout

    def of(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.folder / cell.name

    def kept(self, cell: Cell, targets: Sequence[float], objects: Mapping[str, Any]) -> dict[str, Any] | None:
        """The summary of a cell that is done already; of one that is not, the folder is cleared.

        Targets that the run was not asked for are looked up in its trace.

        Raises:
            UserError: the folder holds something else.
        """
        folder = self.of(cell)
        try:
            if not folder.exists() or not any(folder.iterdir()):
                return None
            _check_same(folder, cell, objects, self._layout.word)
            summary = read_summary(folder) if (folder / SUMMARY).is_file() and (folder / TRACE).is_file() else {}
            if summary.get("status") != "done":
                shutil.rmtree(folder)
                return None
        except OSError as error:
            raise UserError(f"{folder} cannot be used: {reason(error)}; choose another folder with --out") from error
        return _with_targets(folder, summary, targets)

    def write(self, document: Mapping[str, Any]) -> None:
        """Write the document: who reads it sees all of it or none.

        Raises:
            RunError: it cannot be written.
        """
        with writing(self.folder):
            write_summary(self.folder / self._layout.document, document)

    def report(
        self, runs: Sequence[tuple[Cell, Mapping[str, Any]]], grids: Sequence[Grid], overview: Overview | None = None
    ) -> None:
        """Write the report of the runs side by side, with the tables of all; without any run there is none.

        Raises:
            RunError: it cannot be written.
        """
        path = self.folder / self._layout.report
        with writing(self.folder):
            path.unlink(missing_ok=True)
            if runs:
                write_comparison(path, self._read(runs), grids, overview)

    def table(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows, with the columns of the first.

        Raises:
            RunError: they cannot be written.
        """
        with writing(self.folder), (self.folder / self._layout.table).open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            for number, row in enumerate(rows):
                if not number:
                    lines.writerow(row)
                lines.writerow("" if value is None else value for value in row.values())

    def _read(self, runs: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Iterator[RunFolder]:
        """One run after the other, called as the comparison calls it."""
        for cell, summary in runs:
            yield RunFolder(self.of(cell), {**summary, "scheduler": cell.label}, read_run(self.of(cell)).trace)


@contextmanager
def collection(out: Path | None, contest: Contest, layout: Layout) -> Iterator[Collection]:
    """The folder `out`, made or found again, or a fresh `runs/NAME-compare-UTC`; nobody else works in it meanwhile.

    Raises:
        UserError: it cannot be made, holds something else, or somebody else is at work in it.
    """
    try:
        folder = fresh(f"{contest.name}-{layout.ending}") if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in folder.iterdir())
        handle = os.open(folder, os.O_RDONLY)
    except (OSError, ValueError) as error:
        where = "runs" if out is None else out
        way_out = "give a folder of your own with --out" if out is None else "choose another folder"
        raise UserError(f"the {layout.word}'s folder {where} cannot be made: {reason(error)}; {way_out}") from error
    try:
        _lock(handle, folder, layout)
        if found:
            _check_document(folder, contest, layout)
        yield Collection(folder, layout)
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, layout: Layout) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another {layout.word} is at work in {folder}; wait for it, or choose another folder"
        ) from error
    except OSError:  # a file system without locks
        return


def _check_document(folder: Path, contest: Contest, layout: Layout) -> None:
    """Refuse a folder that is not of this scenario's comparison."""
    path, way_out = folder / layout.document, "choose another folder with --out"
    if not path.is_file():
        raise UserError(f"--out {folder} already exists and holds no {layout.document}; {way_out}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["scenario"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read; {way_out}, or remove it") from error
    other = _difference(found, json.loads(json.dumps(contest.common())))
    if other is not None:
        raise UserError(f"--out {folder} holds the {layout.word} of another scenario: {other}; {way_out}")


def _check_same(folder: Path, cell: Cell, objects: Mapping[str, Any], word: str) -> None:
    """Refuse a run folder with another scenario than the cell's, or than what that comes to where it says `auto`."""
    way_out = "choose another folder with --out, or another label"
    try:
        found, _ = read((folder / SCENARIO).read_text(encoding="utf-8"), "scenario")
    except (FileNotFoundError, UnicodeDecodeError, Unreadable) as error:
        raise UserError(f"{folder} is in the way and is no run of this {word}; {way_out}") from error
    other = _difference(found, _plain(cell.scenario))
    if other is not None:
        other = _difference(found, _plain(build(cell.scenario, objects).scenario))
    if other is not None:
        raise UserError(f"{folder} holds another run: {other}; {way_out}")


def _plain(scenario: Scenario) -> Any:
    """A scenario as a run folder has it."""
    return read(dump(scenario), "scenario")[0]


def _difference(found: Any, wanted: Any, path: tuple[str | int, ...] = ()) -> str | None:
    """The first place in which two documents differ, in words; None where they are equal."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            inner = _difference(found.get(key, _ABSENT), wanted.get(key, _ABSENT), (*path, key))
            if inner is not None:
                return inner
        return None
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        inners = (_difference(*both, (*path, index)) for index, both in enumerate(zip(found, wanted, strict=True)))
        return next((inner for inner in inners if inner is not None), None)
    if found == wanted:
        return None
    if isinstance(found, list) and isinstance(wanted, list):
        return f"{dotted(path)} has {len(found)} items there and {len(wanted)} here"
    there, here = ("absent" if value is _ABSENT else shown(value) for value in (found, wanted))
    return f"{dotted(path) or 'the whole'} is {there} there and {here} here"


def _with_targets(folder: Path, summary: dict[str, Any], targets: Sequence[float]) -> dict[str, Any]:
    """The summary of a run with the times to all targets."""
    if all(f"{target:g}" in summary["accuracy"]["time_to"] for target in targets):
        return summary
    run = read_run(folder)
    again = summarise(run.trace, status=summary["status"], wall_seconds=summary["wall_seconds"], targets=targets)
    found = {**summary, "accuracy": again["accuracy"]}
    with writing(folder):
        write_summary(folder / SUMMARY, found)
    return found
