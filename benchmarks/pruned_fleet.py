"""What pruning each class of devices to its own size does to a federation: time, bytes, energy, accuracy by class.

    python benchmarks/pruned_fleet.py [--scenario pruned-boards] [--seeds 3] [--json]

Runs a scenario as it is and with every group whole, the same seeds side by side. The invariants (a shorter run, fewer
bytes, MACs and joules) decide the exit status. Accuracy is reported with its spread over seeds; whether the pruned
fleet comes within two standard deviations of the whole one is said, not asked for. About five minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

Summary = dict[str, Any]


def run(scenario: str, seed: int, *, pruned: bool) -> Summary:
    """A run's summary."""
    import fedsim
    from fedsim.experiment.loading import load_scenario

    groups = len(load_scenario(scenario).fleet)
    whole = [] if pruned else [f"fleet.{group}.pruning=off" for group in range(groups)]
    summary: Summary = fedsim.run(scenario, overrides=[f"seed={seed}", *whole]).summary
    return summary


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _line(name: str, values: Sequence[float], form: str = "{:.4g}") -> str:
    return f"  {name:34} {form.format(mean(values)):>10} ± {form.format(_spread(values))}"


def report(pruned: Sequence[Summary], whole: Sequence[Summary]) -> tuple[list[str], list[str]]:
    """The table, and what does not hold."""
    lines = [f"{len(pruned)} seeds; pruned against whole"]
    broken: list[str] = []
    ratios: dict[str, Callable[[Summary], float]] = {
        "length of the run": lambda s: s["seconds"],
        "bytes": lambda s: s["bytes"]["total"],
        "device MACs": lambda s: s["devices"]["macs"],
        "device energy": lambda s: s["devices"]["joules"],
    }
    for name, find in ratios.items():
        found = [find(one) / find(other) for one, other in zip(pruned, whole, strict=True)]
        lines.append(_line(name, found))
        if max(found) >= 1:
            broken.append(f"{name} is not less in every seed")
    idle = [(one["devices"]["idle"], other["devices"]["idle"]) for one, other in zip(pruned, whole, strict=True)]
    lines.append(_line("devices idle, pruned", [a for a, _ in idle]))
    lines.append(_line("devices idle, whole", [b for _, b in idle]))
    accuracies = {
        "accuracy of the model, pruned fleet": [one["accuracy"]["final"] for one in pruned],
        "accuracy of the model, whole fleet": [one["accuracy"]["final"] for one in whole],
    }
    for number, variant in enumerate(pruned[0]["pruning"]["variants"]):
        label = f"  of groups {variant['groups']}, {variant['share']:.0%} of it"
        accuracies[label] = [one["pruning"]["variants"][number]["quality"]["accuracy"] for one in pruned]
    for name, values in accuracies.items():
        lines.append(_line(name, values, "{:.3f}"))
    ours, theirs, *_ = accuracies.values()
    margin = 2 * max(_spread(theirs), _spread(ours))
    verdict = "supported" if mean(ours) >= mean(theirs) - margin else "not supported"
    lines.append(f"  accuracy within two standard deviations of the whole fleet's, or above: {verdict}")
    return lines, broken


def main() -> int:
    """Run, print, and say whether the invariants hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenario", default="pruned-boards")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    pairs = []
    for seed in range(arguments.seeds):
        pairs.append((run(arguments.scenario, seed, pruned=True), run(arguments.scenario, seed, pruned=False)))
    pruned, whole = zip(*pairs, strict=True)
    lines, broken = report(pruned, whole)
    if arguments.json:
        print(json.dumps({"pruned": pruned, "whole": whole, "broken": broken}, indent=1))
    else:
        print("\n".join([*lines, *(f"does not hold: {text}" for text in broken)]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
