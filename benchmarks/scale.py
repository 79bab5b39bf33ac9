"""Timing-only runs of large fleets: how fast the virtual clock turns, and what they need, beside a fleet of 100.

    python benchmarks/scale.py [--short] [--json]

Two systems on the whole path of a scenario: FedAvg with 1,000,000 registered devices of which 1,000 take part in a
round, and FedOptima with 100,000 devices that train all the time; VGG-5, links and machines of two kinds, jitter and
TCP windows as ever. The same scenario with 100 devices is timed in the same run, in turns: each a process of its own.
An effect is one await of a script: `compute`, `send`, `recv`.
Must show: at least 0.4 of the rate with 100 devices; a peak (`ru_maxrss`) under 4 GB, summary and accounting identity
included; a run twice as long needs at most 1.25 times as much memory while the clock turns: records go to disk, and
what is left are the devices that were not met before.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

FLOOR, MOST, GROWTH = 0.4, 4e9, 1.25
SAMPLES = 10
"""Of each device: one batch."""
FEDAVG, FEDOPTIMA = "fedavg", "fedoptima"
LARGE = {FEDAVG: 1_000_000, FEDOPTIMA: 100_000}
ROUNDS = {FEDAVG: (200, 60), FEDOPTIMA: (40, 2)}
"""With 100 devices, and with many; FedOptima's are of as many aggregations as there are devices."""


def scenario(system: str, devices: int, rounds: int) -> dict[str, Any]:
    """Of a fleet of two kinds of boards."""
    few = min(devices, 1000)
    return {
        "name": system,
        "learning": "off",
        "model": {"name": "vgg5"} | ({"cut": 2} if system == FEDOPTIMA else {}),
        "data": {"name": "cifar10", "samples": SAMPLES * devices},
        "fleet": [
            {"profile": "raspberry-pi-4b", "count": devices // 2, "link": "wifi5"},
            {"profile": "raspberry-pi-3b", "count": devices // 2, "link": "wifi5"},
        ],
        "server": {"profile": "cpu-60g"},
        "scheduler": system,
        "until": {"rounds": rounds},
    } | ({"selection": {"kind": "uniform", "count": few}} if system == FEDAVG and few < devices else {})


def process(system: str, devices: int, rounds: int) -> dict[str, Any]:
    """One run, with everything a report needs of it."""
    from fedsim.experiment.building import build
    from fedsim.experiment.loading import load_scenario
    from fedsim.report import check_identity, summarise

    began = time.perf_counter()
    simulation = build(load_scenario(scenario(system, devices, rounds))).assembly.simulation(None)
    ready = time.perf_counter()
    effects = 0

    def counted(handle: Any) -> Any:
        def handled(actor: Any, effect: Any) -> Any:
            nonlocal effects
            effects += 1
            return handle(actor, effect)

        return handled

    simulation._effects = {kind: counted(handle) for kind, handle in simulation._effects.items()}
    simulation.run()
    ended, running = time.perf_counter(), peak()
    check_identity(simulation.trace)
    summarise(simulation.trace, status="done", wall_seconds=ended - began)
    return {
        "system": system,
        "devices": devices,
        "rounds": rounds,
        "effects": effects,
        "rate": effects / (ended - ready),
        "seconds_to_build": ready - began,
        "seconds_of_summary": time.perf_counter() - ended,
        "peak_of_run": running,
        "peak": peak(),
    }


def peak() -> int:
    """Of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(system: str, devices: int, rounds: int) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--process", system, str(devices), str(rounds)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def compare(system: str, short: bool) -> dict[str, Any]:
    """Few devices, many, few again; and many for half of the time."""
    few, many = ROUNDS[system]
    large = LARGE[system] // (10 if short else 1)
    before = run(system, 100, few)
    half = run(system, large, many // 2)
    whole = run(system, large, many)
    after = run(system, 100, few)
    base = (before["rate"] + after["rate"]) / 2
    growth = whole["peak_of_run"] / half["peak_of_run"]
    passed = whole["rate"] >= FLOOR * base and whole["peak"] <= MOST and growth <= GROWTH
    return {**whole, "rate_of_100": base, "ratio": whole["rate"] / base, "growth": growth, "passed": passed}


def main() -> int:
    """Print a line a system; exit status 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of the devices")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        system, devices, rounds = arguments.process
        print(json.dumps(process(system, int(devices), int(rounds))))
        return 0
    results = []
    for system in LARGE:
        results.append(compare(system, arguments.short))
        if not arguments.json:
            print(
                "{system}, {devices:,} devices: {effects:,} effects, {rate:,.0f} a second, {ratio:.2f} of that with "
                "100; built in {seconds_to_build:.1f} s, summary {seconds_of_summary:.1f} s; peak".format(**results[-1])
                + f" {results[-1]['peak'] / 1e9:.2f} GB, {results[-1]['growth']:.2f} times that of half the run",
                flush=True,
            )
    if arguments.json:
        print(json.dumps(results))
    return 0 if all(result["passed"] for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
