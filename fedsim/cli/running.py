"""`fedsim run`: a run that can be watched, Ctrl-C that leaves a valid folder, one final table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fedsim.cli import INTERRUPTED
from fedsim.cli.app import complain
from fedsim.cli.watching import Interruptible, interrupts, watching
from fedsim.errors import UserError
from fedsim.experiment.loading import is_sweep, load_scenario
from fedsim.experiment.output import Output
from fedsim.experiment.running import Run, run_scenario
from fedsim.report import show
from fedsim.report.tracking import parse
from fedsim.report.tracking.targets import record
from fedsim.units import human_seconds


def run_command(
    source: str,
    overrides: Sequence[str],
    out: Path | None,
    *,
    ray: str | None = None,
    track: Sequence[str] = (),
    jobs: int | None = None,
    as_json: bool,
) -> int:
    """Run a scenario, or all cells of a sweep, from the command line; returns the exit status."""
    targets = parse(track)
    if is_sweep(source, overrides):
        from fedsim.cli.sweeping import sweep_command

        if targets:
            raise UserError(
                "--track records one run, and this is a sweep; run it, and give its folders to `fedsim track`"
            )
        return sweep_command(source, overrides, out, ray=ray, jobs=jobs or 1, as_json=as_json)
    scenario = load_scenario(source, overrides=overrides)
    if jobs is not None:
        raise UserError(f"--jobs {jobs} shares the runs of a sweep, and {scenario.name} is one run; leave it out")
    if ray is not None and scenario.mode != "emulate" and scenario.workers.kind != "ray":
        raise UserError(
            f"--ray {ray} is for emulations and for pools of workers, and this simulation works in one process; give "
            "--workers N, --mode emulate, or leave --ray out"
        )
    watcher = watching(as_json=as_json)
    with interrupts(watcher.interrupt):
        done = run_scenario(scenario, output=Output(out), watcher=watcher, ray=ray)
    status = ended(done, watcher, as_json=as_json)
    if targets and done.folder is not None:
        record(done.folder, targets)
    return status


def ended(done: Run, watcher: Interruptible, *, as_json: bool) -> int:
    """Print what came of a run, and what a reader of that should know; returns the exit status."""
    if as_json:
        print(json.dumps(done.summary | {"folder": str(done.folder)}, indent=1))
    else:
        show([done.summary])
        print(f"\n{done.folder}/report.html")
    for remark in done.remarks():
        print(f"note: {remark}", file=sys.stderr)
    if done.interrupted:
        complain(f"interrupted at {human_seconds(done.summary['seconds'])}; {done.folder} holds the run up to there")
    elif watcher.pressed:
        complain(f"interrupted after the run had ended; {done.folder} holds all of it")
    return INTERRUPTED if watcher.pressed else 0
