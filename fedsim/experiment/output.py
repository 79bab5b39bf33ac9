"""Where a run goes: a folder made once, claimed by one run only, with plain words when it cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

from fedsim.errors import RunError, UserError
from fedsim.scenario import Scenario, dump

RUNS: Final = Path("runs")
SCENARIO: Final = "scenario.yaml"


@dataclass(frozen=True, slots=True)
class Output:
    """The folder `out` or, without one, a fresh `runs/NAME-SCHEDULER-UTC`."""

    out: Path | None = None

    def check(self) -> None:
        """Refuse a folder that holds something, before a run costs any time.

        Raises:
            UserError: it does, or it is a file, or nobody may look into it.
        """
        folder = self.out
        if folder is None:
            return
        try:
            taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        except (OSError, ValueError) as error:
            raise UserError(f"--out {folder} cannot be read: {reason(error)}; choose another folder") from error
        if taken:
            raise UserError(f"--out {folder} already exists and is not empty; choose another folder, or remove it")

    def claim(self, scenario: Scenario) -> Path:
        """Make the folder with its `scenario.yaml`. Runs that start at the same moment get folders of their own.

        Raises:
            UserError: it cannot be made, or another run has it.
        """
        text = dump(scenario)
        try:
            if self.out is None:
                folder = fresh(f"{scenario.name}-{short(scenario.scheduler.name)}")
            else:
                folder = self.out
                folder.mkdir(parents=True, exist_ok=True)
            with (folder / SCENARIO).open("x", encoding="utf-8") as file:  # x: only one of two runs gets it
                file.write(text)
        except (OSError, ValueError) as error:
            way_out = "choose another folder" if self.out else "give a folder of your own with --out"
            where = self.out or RUNS
            raise UserError(f"run folder {where} cannot be made: {reason(error)}; {way_out}") from error
        return folder


def reason(error: OSError | ValueError) -> str:
    """The system's words for what it does not do."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def short(scheduler: str) -> str:
    """The name of a scheduler without its module."""
    return scheduler.rpartition(":")[2].rpartition(".")[2]


def fresh(name: str) -> Path:
    """Make a folder `runs/NAME-UTC` that nobody else has.

    Raises:
        OSError: it cannot be made.
    """
    RUNS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in count(1):
        folder = RUNS / f"{name}-{stamp}{'' if number == 1 else f'-{number}'}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("counting ended")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What goes wrong while results are written, such as a full disk, as an error that names the folder.

    Raises:
        RunError: with the system's reason.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"run folder {folder} could not be written: {reason(error)}; make room, or run again with --out elsewhere"
        ) from error
