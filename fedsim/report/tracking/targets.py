"""Where a run is to be recorded: `tensorboard:FOLDER` or `mlflow:ADDRESS`, checked before anything runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fedsim.errors import FedsimError, RunError, UserError, shown, unknown
from fedsim.report.folder import read_run
from fedsim.report.tracking.account import Account, account

_KINDS: Final = ("tensorboard", "mlflow")
_EXAMPLES: Final = "tensorboard:FOLDER or mlflow:ADDRESS, as in tensorboard:tb or mlflow:sqlite:///mlflow.db"


@dataclass(frozen=True, slots=True)
class Target:
    """A tracker, and where it is."""

    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}"

    def record(self, told: Account) -> None:
        """Record a run.

        Raises:
            UserError: the run is there already.
        """
        module = importlib.import_module(f"fedsim.report.tracking.{self.kind}_records")
        write: Callable[[Account, str], None] = module.write
        write(told, self.where)


def parse(texts: Sequence[str], option: str = "--track") -> list[Target]:
    """The targets that these texts name, each of which can be written to as far as is known beforehand.

    Raises:
        UserError: one is none, or its tracker is not installed.
    """
    found = []
    for text in texts:
        kind, _, where = text.partition(":")
        if kind not in _KINDS:
            raise UserError(f"{option} {text}: {unknown('tracker', kind, set(_KINDS))}; give {_EXAMPLES}")
        if not where:
            raise UserError(f"{option} {text} does not say where; give {_EXAMPLES}")
        if find_spec(kind) is None:
            raise UserError(
                f"{option} {text} needs {kind}, which is not installed; install it with "
                f"pip install 'fedsim-edge[track]', or leave {option} out"
            )
        found.append(Target(kind, where))
    return found


def record(folder: Path, targets: Sequence[Target]) -> None:
    """Record the finished run of a folder with every target; one that fails does not cost the others.

    Raises:
        UserError: the folder holds no finished run, or it is there already.
        RunError: a tracker could not be written to.
    """
    if not targets:
        return
    told = account(read_run(folder))
    failed: list[tuple[Target, Exception]] = []
    for target in targets:
        try:
            target.record(told)
        except Exception as error:  # trackers raise anything, and the run itself is safe
            failed.append((target, error))
    if len(failed) == 1 and isinstance(failed[0][1], UserError):
        raise failed[0][1]
    if failed:
        reasons = "; ".join(
            f"{target}: {error if isinstance(error, FedsimError) else f'{type(error).__name__}: {error}'}"
            for target, error in failed
        )
        again = " ".join(f"--to {shown(str(target))}" for target, _ in failed)
        raise RunError(
            f"{folder} is complete but was not recorded: {reasons}; `fedsim track {folder} {again}` tries again"
        )
