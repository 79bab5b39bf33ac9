"""`fedsim report`: the HTML report again, or one of several runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fedsim.errors import UserError
from fedsim.report import read_run, show, write_comparison


def report_command(folders: Sequence[Path], out: Path | None, *, as_json: bool) -> int:
    """Write the report of the runs and print their figures."""
    runs = [read_run(folder) for folder in folders]
    default = folders[0] / "report.html" if len(runs) == 1 else Path("comparison.html")
    path = out or default
    try:
        write_comparison(path, runs)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; name another file with --out") from error
    if as_json:
        print(json.dumps({"report": str(path), "runs": [run.summary for run in runs]}, indent=1))
    else:
        show([run.summary for run in runs])
        print(f"\n{path}")
    return 0
