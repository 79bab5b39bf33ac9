"""All of the speed and memory claims in one table: `python -m benchmarks [NAME ...] [--json]`.

Each program runs in a process of its own, one after the other (half an hour in all, on a machine that has nothing else
to do). Ratios are of things measured side by side in one run; seconds of different runs do not compare.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from benchmarks.machines import machine

PACKAGES: Final = ("torch", "ray", "numpy")
Row = tuple[str, str, str]
"""A claim, what was measured, and the limit."""


def _overhead(found: Any) -> Iterator[Row]:
    for job in found:
        yield f"{job['job']}: a round over a bare loop's", f"{job['ratio']:.2f}", f"<= {job['limit']}"


def _kernel(found: Any) -> Iterator[Row]:
    yield "effects a second over SimPy's", f"{found['few']['ratio']:.2f}", f">= {found['floor']}"
    for devices, share in found["scaling"].items():
        yield f"the same with {int(devices):,} devices, over 100", f"{share:.2f}", ""


def _network(found: Any) -> Iterator[Row]:
    yield "lazy over solving anew", f"{found['lazy_over_solved_anew']:.0f}", ""
    for name, rate in found["changes_a_second"].items():
        yield f"changes a second, {name}", f"{rate:,.0f}", ""


def _wire(found: Any) -> Iterator[Row]:
    for row in found["speed"]:
        limit = "" if row["least"] is None else f">= {row['least']}"
        yield f"{row['way']}, {row['message'] / 2**20:.0f} MiB, over a plain stream", f"{row['share']:.2f}", limit
    for side in ("sender", "receiver"):
        most = f"<= {found['memory']['least'] / 1e6:.0f} MB"
        yield f"{side} of a gigabyte, beyond it", f"{found['memory'][side] / 1e6:.0f} MB", most


def _workers(found: Any) -> Iterator[Row]:
    for job in found:
        limit = ">= 1.6" if job["job"] == "cnn" else ""
        yield f"{job['job']}: two workers over one process", f"{job['ratio']:.2f}", limit


def _scale(found: Any) -> Iterator[Row]:
    for run in found:
        what = f"{run['system']}, {run['devices']:,} devices"
        yield f"{what}: effects a second over 100 devices'", f"{run['ratio']:.2f}", ">= 0.4"
        yield f"{what}: peak", f"{run['peak'] / 1e9:.2f} GB", "<= 4 GB"


def _memory(found: Any) -> Iterator[Row]:
    yield "10,000 devices over 100, beyond the data", f"{found['ratio']:.2f}", f"<= {found['limit']}"


def _streaming(found: Any) -> Iterator[Row]:
    yield "a pool's processes, 5,000 devices over 50", f"{max(found['growth']['few']):.2f}", "<= 1.1"


def _startup(found: Any) -> Iterator[Row]:
    yield "seconds before the first step, beyond imports", f"{found['added_s']:.2f}", f"<= {found['limit_s']}"


PROGRAMS: Final[dict[str, tuple[list[str], Callable[[Any], Iterator[Row]]]]] = {
    "overhead": (["benchmarks.overhead"], _overhead),
    "kernel": (["benchmarks.kernel"], _kernel),
    "network": (["benchmarks.network"], _network),
    "wire": (["benchmarks.wire"], _wire),
    "workers": (["benchmarks.workers"], _workers),
    "timing-only": (["benchmarks.scale"], _scale),
    "memory": (["benchmarks.memory"], _memory),
    "streaming": (["benchmarks.streaming"], _streaming),
    "startup": (["benchmarks.startup"], _startup),
    "startup-pool": (["benchmarks.startup", "--workers", "2"], _startup),
}


def main() -> int:
    """Print a row a claim; exit status 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROGRAMS)}; all unless given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    unknown = set(given.names) - set(PROGRAMS)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(PROGRAMS)}")
    table: list[dict[str, Any]] = []
    for name in given.names or PROGRAMS:
        arguments, rows = PROGRAMS[name]
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
        passed = done.returncode == 0
        found = list(rows(json.loads(done.stdout))) if done.stdout else [("did not run to its end", "", "")]
        for claim, measured, limit in found:
            row = {"benchmark": name, "claim": claim, "measured": measured, "limit": limit, "passed": passed}
            table.append(row | {"command": f"python -m {' '.join(arguments)}"})
            if not given.json:
                print(f"{name:<13} {claim:<62} {measured:>12} {limit:>9}  {'' if passed else 'FAILED'}", flush=True)
    if given.json:
        print(json.dumps({"machine": machine(*PACKAGES), "claims": table}, indent=1))
    else:
        print(machine(*PACKAGES))
    return 0 if all(row["passed"] for row in table) else 1


if __name__ == "__main__":
    raise SystemExit(main())
