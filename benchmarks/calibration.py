"""How far prices are from measured times on this machine, for networks that were left out of the fit.

    python benchmarks/calibration.py [--quick] [--allow-load] [--out PROFILE] [--json]

Measures plain rates and the training steps of twelve networks, one thread, fits a profile, and fits it again without
each network in turn, as `fedsim calibrate --threads 1` does.
Must show: at batch 8 and 32, prices of left-out networks are off by at most 25 % on average, of seven or more of them
and over forward, forward + backward and optimizer alike. A machine that is busy with something else is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fedsim.calibration.networks import BATCHES, NETWORKS, TYPICAL
from fedsim.calibration.running import LEFT_OUT, Plan, calibrate
from fedsim.calibration.timing import QUICK, USUAL
from fedsim.calibration.writing import Description, profile, write
from fedsim.cli.calibrating import document, show
from fedsim.errors import FedsimError

NETS = 7


def main() -> int:
    """Print the table; exit status 1 where prices are too far off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 8 and 32 only, fewer repeats")
    parser.add_argument("--allow-load", action="store_true", help="measure though other processes are busy")
    parser.add_argument("--out", type=Path, help="write the profile, too")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    plan = Plan(
        list(NETWORKS.values()),
        threads=1,
        batches=TYPICAL if given.quick else BATCHES,
        patience=QUICK if given.quick else USUAL,
        allow_load=given.allow_load,
    )
    try:
        outcome = calibrate(plan)
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.out is not None:
        write(profile(outcome, Description(given.out)), given.out)
    timed = {o.network for o in outcome.evidence.observations if o.batch == max(TYPICAL)}
    passed = outcome.typical.mape <= LEFT_OUT and len(timed) >= NETS
    if given.json:
        print(json.dumps(document(outcome) | {"limit": LEFT_OUT, "networks": len(timed), "passed": passed}))
    else:
        show(outcome)
        print(f"{len(timed)} networks (at least {NETS}): {'passed' if passed else 'failed'}")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
