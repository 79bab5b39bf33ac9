"""fedsim beside Flower and pfl-research on the very same job, on the CPU, one thread a process.

    python -m benchmarks.rivals [--pairs 5] [--rounds 6] [--only cnn|mlp] [--environments DIR] [--json]

The jobs are those of `overhead.py`: FedAvg of 100 clients with 60 generated images each, five steps of batch 10, a CNN
of 1.66 M parameters (50 clients a round) and an MLP of 0.1 M (10). They are written down as files: initial weights,
images, and for each round the clients and the samples of each batch. Every system runs in processes of its own: fedsim
in one process and on two workers; pfl-research in one process and in two (`torchrun`, gloo), the better of which
counts; Flower's simulation engine with two actors of one CPU. All with images in memory, channels innermost for the
CNN, no evaluation, no telemetry. What counts is wall time of a round without start-up and without the first round: of
the rivals by time stamps inside, of fedsim, whose kernel runs ahead, by the difference of runs of two lengths. Each
pair runs all systems one after another; times and ratios are medians over pairs.
Refused where, after one round, the weights of a system are more than 1e-5 norm-relative from those of a bare loop, or
after the last one more than 5e-3: then it was another job.
Must show: the CNN on two workers of fedsim faster than pfl-research in its better mode and than Flower; the MLP with
fedsim, in its better mode, at least 5 times as fast as Flower, and faster than pfl-research in its better mode.

DIR holds the rivals' virtual environments, `flower` and `pfl`, and they are made where they are not there, with pip as
it is configured and with the torch of this environment (the index has to have that very build). Without DIR, in a
temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machines import machine
from benchmarks.overhead import BATCH, CLIENTS, LR, STEPS, Bare, dealt

ROOT: Final = Path(__file__).parent.parent
PINNED: Final = {"flower": "flwr[simulation]==1.42.0", "pfl": "pfl[pytorch]==0.6.0"}
"""The newest ones when this was written."""
QUIET: Final = {
    **{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    **{"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"},
}
TOLERANCE: Final = {"first": 1e-5, "last": 5e-3}
"""Largest norm-relative difference of a tensor. Rounding grows from round to round, in the CNN to 5e-4 in five; other
batches in the last round alone make 1e-2."""
PATIENCE: Final = 1800
"""Seconds that a run may take."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class System:
    """How one of the systems is run."""

    name: str
    environment: str | None
    """Of a rival; None: this one."""
    command: tuple[str, ...]
    """Arguments of Python before the folders of the job and of the result."""
    mode: tuple[str, ...] = ()
    """Arguments behind these."""


FLOWER: Final = "from benchmarks.rivals_flower import main; main()"
TORCHRUN: Final = ("-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc-per-node=2")
SYSTEMS: Final = (
    System("fedsim, one process", None, ("-m", "benchmarks.rivals_fedsim"), ("one",)),
    System("fedsim, two workers", None, ("-m", "benchmarks.rivals_fedsim"), ("two",)),
    System("pfl-research, one process", "pfl", ("-m", "benchmarks.rivals_pfl")),
    System("pfl-research, two processes", "pfl", (*TORCHRUN, "-m", "benchmarks.rivals_pfl")),
    System("Flower, two actors", "flower", ("-c", FLOWER)),
)
OURS: Final = {"cnn": ("fedsim, two workers",), "mlp": ("fedsim, one process", "fedsim, two workers")}
"""Those of fedsim that count, the better one of them."""
PFL: Final = ("pfl-research, one process", "pfl-research, two processes")
CLAIMS: Final = {
    "cnn": {"pfl-research": (PFL, 1.0), "Flower": (("Flower, two actors",), 1.0)},
    "mlp": {"pfl-research": (PFL, 1.0), "Flower": (("Flower, two actors",), 5.0)},
}
"""By job and rival: its modes, and how many times as fast fedsim must be."""


def environment(folder: Path, name: str) -> Path:
    """The Python of a rival's environment, which is made where there is none."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        print(f"making an environment for {PINNED[name]}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        wanted = ("numpy", f"torch=={torch.__version__}", PINNED[name])
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def write(folder: Path, job: str, rounds: int) -> dict[str, Arrays]:
    """Write a job down; gives the weights that a bare loop has after the first round and after the last."""
    data, shards = dealt()
    bare = _Noting(Bare(job, data, shards))
    weights = {name: tensor.numpy() for name, tensor in bare.loop.weights.items()}
    found: dict[str, Arrays] = {}
    for round in range(rounds):
        bare.loop.round()
        found.setdefault("first", {name: tensor.numpy() for name, tensor in bare.loop.weights.items()})
        assert len(bare.batches) == (round + 1) * bare.loop.chosen
    found["last"] = {name: tensor.numpy() for name, tensor in bare.loop.weights.items()}
    about = {"name": job, "samples": [len(shards[client]) for client in range(CLIENTS)], "lr": LR}
    shape = (rounds, bare.loop.chosen)
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(about))
    np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]  # taken for its option
    np.savez(folder / "data.npz", x=data.train.inputs, y=data.train.labels)
    batches = np.array(bare.batches).reshape(*shape, STEPS, BATCH)
    np.savez(folder / "rounds.npz", chosen=np.array(bare.clients).reshape(shape), batches=batches)
    return found


class _Noting:
    """Notes which batches a bare loop gives to whom."""

    def __init__(self, loop: Bare) -> None:
        self.loop = loop
        self.clients: list[int] = []
        self.batches: list[list[NDArray[np.int64]]] = []
        self._taken: Callable[[int], list[NDArray[np.int64]]] = loop.batches
        loop.batches = self._noted  # type: ignore[method-assign]

    def _noted(self, client: int) -> list[NDArray[np.int64]]:
        taken = self._taken(client)
        self.clients.append(client)
        self.batches.append(taken)
        return taken


class Failed(Exception):
    """A system did not do the job."""


def run(system: System, python: Path, job: Path, out: Path) -> dict[str, Any]:
    """Run a job on a system; what it has written down, and its weights.

    Raises:
        Failed: it has not done it.
    """
    command = [str(python), *system.command, str(job), str(out), *system.mode]
    settings = {**os.environ, **QUIET, "FLWR_HOME": str(out / "flower")}
    done = subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    if done.returncode or not (out / "result.json").exists():
        raise Failed(f"{system.name} failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    for moment in TOLERANCE:
        with np.load(out / f"{moment}.npz") as arrays:
            found[moment] = dict(arrays)
    return found


def difference(found: Arrays, wanted: Arrays) -> float:
    """Largest norm-relative difference of a tensor."""
    assert found.keys() == wanted.keys()
    return max(float(np.linalg.norm(found[k] - v) / np.linalg.norm(v)) for k, v in wanted.items())


def compare(job: str, pairs: int, rounds: int, pythons: Mapping[str | None, Path]) -> dict[str, Any]:
    """Run all systems on a job, in turns."""
    milliseconds: dict[str, list[float]] = {system.name: [] for system in SYSTEMS}
    apart: dict[str, dict[str, float]] = {system.name: dict.fromkeys(TOLERANCE, 0.0) for system in SYSTEMS}
    versions: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = write(folder / "job", job, rounds + 1)
        failed: list[str] = []
        for pair in range(pairs):
            times = {}
            for number, system in enumerate(SYSTEMS):
                try:
                    found = run(system, pythons[system.environment], folder / "job", folder / f"{pair}-{number}")
                except Failed as error:
                    failed.append(str(error))
                    break
                times[system.name] = 1e3 * statistics.fmean(found["seconds"])
                told = f"{job} {pair + 1}: {system.name} {times[system.name]:.1f} ms ({found['extra']})"
                print(told, file=sys.stderr, flush=True)
                versions[system.name] = found["versions"]
                for moment, most in apart[system.name].items():
                    apart[system.name][moment] = max(most, difference(found[moment], wanted[moment]))
            if failed:
                break  # what the pairs before have shown is still told
            for system_name, value in times.items():
                milliseconds[system_name].append(value)
    if not milliseconds[SYSTEMS[0].name]:
        raise SystemExit("\n".join(failed))
    middle = {name: statistics.median(times) for name, times in milliseconds.items()}
    ours = min(OURS[job], key=middle.__getitem__)
    ratios: dict[str, dict[str, Any]] = {}
    for rival, (modes, floor) in CLAIMS[job].items():
        theirs = min(modes, key=middle.__getitem__)
        each = [slow / fast for slow, fast in zip(milliseconds[theirs], milliseconds[ours], strict=True)]
        ratio = statistics.median(each)
        ratios[rival] = {"ours": ours, "theirs": theirs, "ratio": ratio, "floor": floor, "each": each}
    refused = failed + [
        f"{name}: {moment} round {value:.1e} from the bare loop, limit {TOLERANCE[moment]:.0e}"
        for name, moments in apart.items()
        for moment, value in moments.items()
        if not value <= TOLERANCE[moment]
    ]
    return {
        "job": job,
        "rounds": rounds,
        "milliseconds": milliseconds,
        "median": middle,
        "apart": apart,
        "ratios": ratios,
        "versions": versions,
        "refused": refused,
        "passed": not refused and all(found["ratio"] > found["floor"] for found in ratios.values()),
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the table of a job."""
    print(f"{result['job']}: {result['rounds']} rounds after the first, milliseconds a round")
    print(f"  {'':28} {'median':>8}   {'weights, first / last':23} single figures")
    for name, times in result["milliseconds"].items():
        apart = "{first:.0e} / {last:.0e}".format(**result["apart"][name])
        print(f"  {name:28} {result['median'][name]:8.1f}   {apart:23} {' '.join(f'{each:.1f}' for each in times)}")
    for rival, found in result["ratios"].items():
        word = "ok" if found["ratio"] > found["floor"] else "NOT SHOWN"
        print(
            f"  {found['ours']}: {found['ratio']:.2f} times as fast as {found['theirs']} "
            f"(must be above {found['floor']:g}, {rival}): {word}"
        )
    for line in result["refused"]:
        print(f"  REFUSED: {line}")
    sys.stdout.flush()


def checked(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Versions of all systems.

    Raises:
        SystemExit: they are not the pinned ones, or do not all have the same torch.
    """
    versions: dict[str, Any] = results[0]["versions"]
    for system in SYSTEMS:
        found = versions[system.name]
        pinned = {"torch": str(torch.__version__)}
        if system.environment is not None:
            package, wanted = PINNED[system.environment].split("==")
            pinned[package.partition("[")[0]] = wanted
        for package, wanted in pinned.items():
            if found[package] != wanted:
                raise SystemExit(
                    f"{system.name} has {package} {found[package]}, but {wanted} is asked for; remove its environment"
                )
    return versions


def main() -> int:
    """Print a table a job; exit status 1 where a claim does not hold or a system did another job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6, help="of the CNN; the MLP has ten times as many")
    parser.add_argument("--only", choices=("cnn", "mlp"))
    parser.add_argument("--environments", type=Path, help="where the rivals' environments are, or are to be made")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    with ExitStack() as stack:
        folder = arguments.environments
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.absolute()
        pythons: dict[str | None, Path] = {None: Path(sys.executable)}
        pythons.update({name: environment(folder, name) for name in PINNED})
        for job, rounds in (("cnn", arguments.rounds), ("mlp", 10 * arguments.rounds)):
            if arguments.only in (None, job):
                results.append(compare(job, arguments.pairs, rounds, pythons))
                if not arguments.json:
                    show(results[-1])
    versions = checked(results)
    if arguments.json:
        print(json.dumps({"machine": machine("torch"), "versions": versions, "jobs": results}))
    else:
        for name, found in versions.items():
            print(f"{name}: {', '.join(f'{package} {version}' for package, version in found.items())}")
        print(machine("torch"))
    return 0 if all(result["passed"] for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
