"""Accuracy, time, bytes and work of five training systems on CIFAR-10 under three degrees of label skew.

    python benchmarks/accuracy.py --data FOLDER [--out runs/accuracy] [--jobs 2] [--rounds 12] [--norm gn]

VGG-5 cut after its first unit, 10,000 seeded samples on the twelve boards of `scenarios/twelve-boards.yaml`, Dirichlet
0.1, 0.3 and 1.0, three seeds each: 45 runs with real training, about two and a half hours of one core. During a run
2,000 test samples are looked at every three seconds of virtual time; the final model is measured on all 10,000. Every
run is a folder under `--out`; started again, finished ones are kept. Prints the tables of `docs/accuracy.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

SYSTEMS: Final = ("fedavg", "splitfed", "fedasync", "fedoptima", "ampere")
ALPHAS: Final = (0.1, 0.3, 1.0)
SEEDS: Final = (1, 2, 3)
TARGET: Final = 0.4
MOMENTS: Final = (15.0, 75.0, 150.0)
"""Seconds of virtual time at which the systems are compared; whoever is done by then counts with its last model."""
SAMPLES: Final = 10_000
COSTS: Final = (
    "seconds",
    "batches on devices",
    "GB, both ways",
    "device TMAC",
    "device idle, %",
    "server idle, %",
)


@dataclass(frozen=True)
class Cell:
    """One run."""

    system: str
    alpha: float
    seed: int
    norm: str
    rounds: int
    data: Path
    out: Path

    @property
    def folder(self) -> Path:
        """Where its results are."""
        return self.out / f"{self.norm}-{self.rounds}" / f"{self.system}-alpha{self.alpha:g}-seed{self.seed}"

    def run(self) -> dict[str, Any]:
        """The summary of the run, and its curve; from its folder, if it has been done."""
        import fedsim

        if not (self.folder / "summary.json").exists():
            fedsim.run(
                "twelve-boards",
                out=self.folder,
                scheduler=self.system,
                seed=self.seed,
                norm=self.norm,
                data={
                    "name": "cifar10",
                    "path": str(self.data),
                    "samples": SAMPLES,
                    "partition": {"kind": "dirichlet", "alpha": self.alpha},
                },
                until={"rounds": self.rounds},
                evaluate={"every": "3 s", "samples": 2000},
            )
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        rows = np.genfromtxt(self.folder / "curves.csv", delimiter=",", names=True)
        times, accuracies = np.atleast_1d(rows["time"]), np.atleast_1d(rows["accuracy"])
        reached = times[accuracies >= TARGET]
        found["time_to"] = float(reached[0]) if len(reached) else math.inf
        found["best"] = float(accuracies.max())
        found["at"] = [float(accuracies[times <= moment][-1]) for moment in MOMENTS]
        found["final"] = self._final()
        return found

    def _final(self) -> float:
        """Accuracy of the trained model on the whole test set."""
        import fedsim
        from fedsim.data import load

        kept = self.folder / "final.json"
        if not kept.exists():
            data = load("cifar10", path=self.data)
            assert data.mean is not None
            assert data.std is not None
            mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (data.mean, data.std))
            network, right = fedsim.load_model(self.folder), 0
            with torch.inference_mode():
                for first in range(0, len(data.test.labels), 500):
                    x = torch.tensor(data.test.inputs[first : first + 500], dtype=torch.float32)
                    y = torch.tensor(data.test.labels[first : first + 500])
                    right += int((network((x - mean) / std).argmax(1) == y).sum())
            kept.write_text(json.dumps(right / len(data.test.labels)))
        return float(json.loads(kept.read_text()))


def _run(cell: Cell) -> dict[str, Any]:
    torch.set_num_threads(1)
    return cell.run()


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """All runs, those that belong together beside each other."""
    for seed in SEEDS:
        for alpha in ALPHAS:
            for system in SYSTEMS:
                yield Cell(system, alpha, seed, args.norm, args.rounds, args.data.resolve(), args.out)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 1, scale: float = 100.0) -> str:
    """Mean and standard deviation over seeds; ∞ where any is."""
    if any(math.isinf(value) for value in values):
        reached = [value for value in values if not math.isinf(value)]
        return f"{len(reached)} of {len(values)} reached" if reached else "not reached"
    return f"{np.mean(values) * scale:.{digits}f} ± {np.std(values) * scale:.{digits}f}"


def report(found: dict[tuple[str, float, int], dict[str, Any]]) -> str:
    """The tables."""
    accuracy, best, early, times, costs = [], [], [], [], []
    for system in SYSTEMS:
        final = {a: [found[system, a, s]["final"] for s in SEEDS] for a in ALPHAS}
        over = float(np.std([np.mean(values) for values in final.values()]))
        accuracy.append([system, *(spread(final[a]) for a in ALPHAS), f"{over * 100:.1f}"])
        best.append([system, *(spread([found[system, a, s]["best"] for s in SEEDS]) for a in ALPHAS)])
        moments = [
            [np.mean([found[system, a, s]["at"][i] for s in SEEDS]) for a in ALPHAS] for i in range(len(MOMENTS))
        ]
        early.append([system, *(" / ".join(f"{value * 100:.0f}" for value in each) for each in moments)])
        reached = {a: [found[system, a, s]["time_to"] for s in SEEDS] for a in ALPHAS}
        times.append([system, *(spread(reached[a], 0, 1.0) for a in ALPHAS)])
        every = [found[system, a, s] for a in ALPHAS for s in SEEDS]
        costs.append(
            [
                system,
                f"{np.mean([one['seconds'] for one in every]):,.0f}",
                f"{np.mean([one['contributions']['trained'] for one in every]):,.0f}",
                f"{np.mean([one['bytes']['total'] for one in every]) / 1e9:.2f}",
                f"{np.mean([one['devices']['macs'] for one in every]) / 1e12:.2f}",
                f"{np.mean([one['devices']['idle'] for one in every]) * 100:.0f}",
                f"{np.mean([one['server']['idle'] for one in every]) * 100:.0f}",
            ]
        )
    names = [f"Dirichlet {alpha:g}" for alpha in ALPHAS]
    return "\n\n".join(
        (
            "Final accuracy, %:",
            table(["", *names, "spread over these"], accuracy),
            "Highest accuracy on the way, %, of the 2,000 samples:",
            table(["", *names], best),
            f"Accuracy, %, at the same time, for Dirichlet {' / '.join(f'{alpha:g}' for alpha in ALPHAS)}:",
            table(["", *(f"after {moment:g} s" for moment in MOMENTS)], early),
            f"Seconds of virtual time to {TARGET:.0%} accuracy:",
            table(["", *names], times),
            "Means over all runs of a system:",
            table(
                [
                    "",
                    "seconds",
                    "batches on devices",
                    "GB, both ways",
                    "device TMAC",
                    "device idle, %",
                    "server idle, %",
                ],
                costs,
            ),
        )
    )


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CIFAR-10 files")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--norm", choices=("gn", "bn"), default="gn")
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    todo = list(cells(args))
    found = {}
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for cell, summary in zip(todo, pool.map(_run, todo), strict=True):
            found[cell.system, cell.alpha, cell.seed] = summary
            print(f"{cell.folder.name}: {summary['final']:.3f}", flush=True)
    print(f"\n{report(found)}")


if __name__ == "__main__":
    main()
