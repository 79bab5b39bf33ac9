"""`fedsim track`: finished runs into the records of trackers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fedsim.errors import UserError
from fedsim.report.tracking import parse
from fedsim.report.tracking.targets import record


def track_command(folders: Sequence[Path], to: Sequence[str], *, as_json: bool) -> int:
    """Record finished runs; returns the exit status."""
    if not to:
        raise UserError("give --to tensorboard:FOLDER or --to mlflow:ADDRESS, where the runs are to be recorded")
    targets = parse(to, "--to")
    for folder in folders:
        record(folder, targets)
    said = [{"run": str(folder), "recorded": [str(target) for target in targets]} for folder in folders]
    if as_json:
        print(json.dumps(said, indent=1))
    else:
        for one in said:
            print(f"{one['run']}: {', '.join(one['recorded'])}")
    return 0
