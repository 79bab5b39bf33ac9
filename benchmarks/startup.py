"""What fedsim adds before the first training step, above importing what it needs.

    python benchmarks/startup.py [--pairs 5] [--scenario quickstart] [--workers N] [--json]

One process runs `fedsim run SCENARIO` up to its first training step and lists the modules that it has imported by
then; another imports just these, in that order. The difference is what reading the scenario, opening data, building
and counting the model and starting the clock take. The two alternate, so that the machine's drift cancels out.
Must show: a median of at most 1.0 s, and neither torchvision nor sklearn.datasets among the modules.

With `--workers N` the first step is one that a process of a pool has taken and answered for, and the other process
starts Ray, too: what is left are the workers' own start, import and build. Must show: a median of at most 5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT, POOL_LIMIT = 1.0, 5.0
UNWANTED = ("torchvision", "sklearn.datasets")

RUN = """
import importlib.machinery, json, os, sys, time
from fedsim.cli import main

def stop(*_):
    moment = time.monotonic()
    with open(os.environ["MODULES"], "w") as file:
        json.dump({"moment": moment, "modules": list(sys.modules)}, file)
    os._exit(0)

class Finder:  # lets the import of the operations go its way, and puts `stop` in the place of steps of training
    @staticmethod
    def find_spec(name, path, target=None):
        if name != "fedsim.learning.operations.stepping":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        def executed(module):
            execute(module)
            module.METHODS.update(dict.fromkeys(("train", "forward"), stop))
        spec.loader.exec_module = executed
        return spec

sys.meta_path.insert(0, Finder)
main(["run", *sys.argv[1:]])
raise SystemExit("the run never trained")
"""

POOL = """
import json, os, sys, time
from fedsim.cli import main
from fedsim.simulation.rays import RayLane

call = RayLane.call

def first(lane, method, *args, **options):
    found = call(lane, method, *args, **options)
    if method == "run" and any(b"train" in getattr(order, "command", b"") for order in args[1]):
        lane.answer(found[0])
        with open(os.environ["MODULES"], "w") as file:
            json.dump({"moment": time.monotonic(), "modules": list(sys.modules)}, file)
        trained.append(True)
        raise SystemExit
    return found

trained = []
RayLane.call = first
main(["run", *sys.argv[1:]])
raise SystemExit(0 if trained else "the run never trained")
"""

IMPORT = """
import importlib, json, os, sys, time
for name in json.load(open(os.environ["MODULES"]))["modules"]:
    if name not in sys.modules:
        try:
            importlib.import_module(name)
        except Exception:  # made by another module, such as six.moves or torch.ops
            pass
if sys.argv[1:]:
    from fedsim.runtime.cluster import session
    with session(None, store=256 * 2**20):
        print(time.monotonic())
else:
    print(time.monotonic())
"""


def to_first_step(scenario: str, folder: Path, modules: Path, workers: int) -> tuple[float, list[str]]:
    """Seconds from the command to its first training step, and the modules imported by then."""
    pool = ["--workers", str(workers)] if workers else []
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", POOL if workers else RUN, scenario, "--out", str(folder), *pool],
        env={**os.environ, "MODULES": str(modules)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = json.loads(modules.read_text(encoding="utf-8"))
    return found["moment"] - began, found["modules"]


def to_import(modules: Path, workers: int) -> float:
    """Seconds from the command until a fresh interpreter has imported the same modules, and with a pool has Ray."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *(["ray"] if workers else [])],
        env={**os.environ, "MODULES": str(modules)},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1]) - began


def measure(scenario: str, pairs: int, workers: int) -> dict[str, Any]:
    """Alternating runs and their medians."""
    steps, imports, differences = [], [], []
    names: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        modules = Path(place, "modules.json")
        to_first_step(scenario, Path(place, "warm"), modules, workers)  # fills the caches of files and byte code
        for number in range(pairs):
            step, names = to_first_step(scenario, Path(place, str(number)), modules, workers)
            load = to_import(modules, workers)
            steps.append(step)
            imports.append(load)
            differences.append(step - load)
    found = [name for name in UNWANTED if name in names]
    added, limit = statistics.median(differences), POOL_LIMIT if workers else LIMIT
    return {
        "scenario": scenario,
        "pairs": pairs,
        "first_step_s": statistics.median(steps),
        "imports_s": statistics.median(imports),
        "added_s": added,
        "modules": len(names),
        "unwanted": found,
        "workers": workers,
        "limit_s": limit,
        "passed": added <= limit and not found,
    }


def main() -> int:
    """Print the result; exit status 1 where it is not good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scenario", default="quickstart")
    parser.add_argument("--workers", type=int, default=0, help="of a pool; 0 trains in the process itself")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result = measure(given.scenario, given.pairs, given.workers)
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"first training step after {result['first_step_s']:.2f} s, imports alone {result['imports_s']:.2f} s")
        unwanted = ", ".join(result["unwanted"]) or "none"
        print(f"added: {result['added_s']:.2f} s (limit {result['limit_s']} s); unwanted imports: {unwanted}")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
