"""Makes the golden traces again: `python tests/golden/make.py`. A change that alters them says which and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedsim.schedulers.ampere import Ampere
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.fedoptima import FedOptima
from fedsim.schedulers.oafl import Oafl
from fedsim.schedulers.pipar import PiPar
from fedsim.schedulers.splitfed import SplitFed
from fedsim.simulation import Fault
from fedsim.testing import simulate, toy

RUNS: dict[str, Any] = {
    "fedavg": lambda: toy(FedAvg(local_steps=2), devices=3, rounds=2, participants=2),
    "splitfed": lambda: toy(SplitFed(local_steps=2), devices=2, rounds=1, faults=[Fault(device=1, leave=0.006)]),
    "pipar": lambda: toy(PiPar(micro_batches=3, local_steps=1), devices=2, rounds=1),
    "oafl": lambda: toy(Oafl(local_steps=1, concurrency=2), devices=3, rounds=1),
    "ampere": lambda: toy(Ampere(local_steps=1, server_epochs=1, transfer="stream"), devices=2, rounds=1),
    "fedoptima": lambda: toy(FedOptima(local_steps=2, activation_cap=2), devices=2, rounds=3),
}


def golden(name: str) -> dict[str, Any]:
    """The trace of a toy run, timing only."""
    trace = simulate(RUNS[name](), learning=False).simulation.trace
    return {
        "end": trace.end,
        "spans": [list(row) for row in trace.spans],
        "transfers": [list(row) for row in trace.transfers],
        "waits": [list(row) for row in trace.waits],
        "marks": [list(row) for row in trace.marks],
    }


def text(found: dict[str, Any]) -> str:
    """As JSON, a record a line."""
    parts = []
    for key, rows in found.items():
        body = json.dumps(rows) if key == "end" else "[\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n ]"
        parts.append(f' "{key}": {body}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    for name in RUNS:
        Path(__file__).with_name(f"{name}.json").write_text(text(golden(name)), encoding="utf-8")
