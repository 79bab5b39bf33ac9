"""How far emulations are from simulations, for five systems: `fedsim validate` on `scenarios/validation.yaml`.

    python benchmarks/validation.py [--systems fedavg,ampere] [--repeat 3] [--dilation 4]

A simulation and so many emulations a system, each of 10 seconds or so of the scenario; prints a table that says by how
much they differ, medians of the repeats, and what misses the gate. The exit status is 1 where something does. Two cores
that do nothing else carry it without dilation; four leaves room for others that use them. About 15 minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

ROUNDS: Final = {"fedavg": 2, "splitfed": 2, "pipar": 4, "fedoptima": 10, "ampere": 3}
"""As many as take 10 seconds or so of the scenario."""

OPTIONS: Final = {"ampere": "{name: ampere}", "pipar": "{name: pipar, local_steps: 4, micro_batches: 4}"}
"""What a system runs with, in place of four local steps; works of more micro-batches would be too short to pace."""

HEADS: Final = ("system", "simulated", "emulated", "total", "busy", "idle", "messages", "payload", "weights", "overran")


@dataclass(frozen=True)
class Line:
    """A system's row of the table, and what of it misses the gate."""

    cells: tuple[str, ...]
    misses: tuple[str, ...]
    notes: tuple[str, ...]


def overrides(system: str, dilation: str) -> list[str]:
    """What the scenario is changed by for a system."""
    scheduler = OPTIONS.get(system, f"{{name: {system}, local_steps: 4}}")
    return [f"scheduler={scheduler}", f"until.rounds={ROUNDS[system]}", f"emulation.dilation={dilation}"]


def line(system: str, done: Any) -> Line:
    """The row of a validation: the greatest errors of any node, medians of all emulations."""
    decided = done.verdict
    if decided is None:
        raise KeyboardInterrupt
    shown = done.agreements[done.typical]
    busy, idle = (max(getattr(node, share) for node in decided.nodes) for share in ("busy", "idle"))
    apart = sum(abs(one.count.difference) for one in shown.messages)
    overran = max((run.summary.get("fidelity") or {}).get("overrun_ratio", 0.0) for run in done.emulated)
    weights = {True: "same", False: "differ", None: ""}[shown.weights]
    cells = (
        system,
        f"{shown.seconds.simulated:.2f} s",
        f"{shown.seconds.emulated:.2f} s",
        f"{decided.total:.2%}",
        f"{busy * 100:.2f}",
        f"{idle * 100:.2f}",
        "equal" if not apart else f"{apart:g} apart",
        "equal" if not any(one.wrong_bytes for one in done.agreements) else "WRONG",
        weights if shown.determined else f"({weights})",
        f"{overran:.1%}",
    )
    notes = [*done.remarks()]
    for found in shown.differences[:1]:
        notes.append(
            f"first difference: {found.what}, {found.node} at {found.time:.3f} s, {found.event}: "
            f"{found.simulated} simulated, {found.emulated} emulated"
        )
    return Line(cells, decided.misses, tuple(notes))


def table(lines: Sequence[Line]) -> str:
    """The rows as Markdown."""
    rows = [HEADS, *(one.cells for one in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def measured(systems: Sequence[str], repeat: int, dilation: str, say: Callable[[str], None]) -> list[Line]:
    """Validate each system."""
    from fedsim.experiment.loading import load_scenario
    from fedsim.experiment.validating import validate

    found = []
    for system in systems:
        began = time.monotonic()
        scenario = load_scenario("validation", overrides=overrides(system, dilation))
        found.append(line(system, validate(scenario, repeat=repeat)))
        say(f"{system}: {time.monotonic() - began:.0f} s")
    return found


def main() -> int:
    """Validate and print; 1 where a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(ROUNDS), help="of " + ", ".join(ROUNDS))
    parser.add_argument("--repeat", type=int, default=3, help="emulations a system")
    parser.add_argument("--dilation", default="4", help="of the emulations; auto asks this host")
    args = parser.parse_args()
    systems = args.systems.split(",")
    if strangers := set(systems) - set(ROUNDS):
        parser.error(f"no such system here: {', '.join(sorted(strangers))}; there are {', '.join(ROUNDS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    found = measured(systems, args.repeat, args.dilation, lambda text: print(text, file=sys.stderr))
    print(f"\n{args.repeat} emulations a system; total in % of the simulated length; busy and idle: most points of any")
    print("node; weights in brackets where the order of arrivals decides them\n")
    print(table(found))
    for one in found:
        for text in (*(f"MISSES: {miss}" for miss in one.misses), *one.notes):
            print(f"  {one.cells[0]}: {text}")
    return 1 if any(one.misses for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
