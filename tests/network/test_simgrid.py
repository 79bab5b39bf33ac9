"""SimGrid as an oracle, where a Python on this machine can import it (Debian's python3-simgrid: the system's own)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.network.test_allocators import FOUR, LATENCIES, MBIT, SIZE, Start, general, run, tree

PYTHONS = (sys.executable, "/usr/bin/python3")
PROGRAM = Path(__file__).with_name("simgrid_flows.py")

Case = dict[str, Any]


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that imports SimGrid."""
    for one in PYTHONS:
        if Path(one).is_file() and not subprocess.call([one, "-c", "import simgrid"], stderr=subprocess.DEVNULL):
            return one
    pytest.skip("no Python here imports simgrid")


def simgrid(python: str, cases: list[Case]) -> list[list[float]]:
    """What SimGrid says of cases."""
    command = [python, str(PROGRAM)]
    done = subprocess.run(command, check=True, input=json.dumps(cases), capture_output=True, text=True, timeout=60)
    found: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(case: Case) -> list[list[float]]:
    """What our allocators say of a case; without caps of their own, flows may cross anything."""
    starts = [Start(start, size, crosses=tuple(way)) for start, size, way in case["flows"]]
    return [run(general, starts, case["links"])]


def tangled(rng: random.Random) -> Case:
    """Up to ten flows over any of six links."""
    links = {name: rng.uniform(1e5, 1e7) for name in "abcdef"}
    flows = [
        (rng.choice([0.0, 1.0, rng.uniform(0, 3)]), rng.randint(1, 10**7), rng.sample(sorted(links), rng.randint(1, 4)))
        for _ in range(rng.randint(1, 10))
    ]
    return {"links": links, "flows": flows}


@pytest.mark.slow
def test_published_figures_are_simgrids(python: str) -> None:
    """To the four digits to which other tests hold them."""
    own = {f"device {k}": c * MBIT for k, c in enumerate((*FOUR, 100, 100))}
    four = {"links": {**own, "in": 100 * MBIT}, "flows": [(0, SIZE, [f"device {k}", "in"]) for k in range(4)]}
    cell = {
        "links": {**own, "cell": 30 * MBIT, "in": 100 * MBIT},
        "flows": [(0, SIZE, [f"device {k}", *(["cell"] if k in (2, 3) else []), "in"]) for k in range(6)],
    }
    late = {
        "links": {"x": 100 * MBIT, "y": 100 * MBIT, "z": 20 * MBIT, "in": 100 * MBIT},
        "flows": [(0, SIZE, ["x", "in"]), (0.25, SIZE, ["y", "in"]), (0.5, SIZE, ["z", "in"])],
    }
    far = {**four, "latencies": {f"device {k}": latency for k, latency in enumerate(LATENCIES)}}
    found = simgrid(python, [four, cell, late, far])
    assert [[round(end, 4) for end in ends] for ends in found] == [
        [10.0, 5.0, 2.8571, 2.8571],
        [10.0, 5.0, 6.6667, 6.6667, 5.0, 5.0],
        [2.0625, 2.375, 5.5],
        [10.05, 5.9122, 1.8822, 2.6037],  # it shares by latency as soon as latencies differ
    ]


@pytest.mark.slow
def test_random_flows_end_as_on_simgrid(python: str) -> None:
    """Forty tangles, a millionth of themselves."""
    cases = [tangled(random.Random(seed)) for seed in range(40)]
    for case, theirs in zip(cases, simgrid(python, cases), strict=True):
        for mine in ours(case):
            assert mine == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
def test_trees_end_as_on_simgrid(python: str) -> None:
    """Thirty devices in four cells under one ingress."""
    rng = random.Random(4)
    own = {f"device {k}": rng.uniform(1e5, 1e7) for k in range(30)}
    shared = {**{f"cell {k}": rng.uniform(5e6, 2e7) for k in range(4)}, "ingress": 4e7}
    flows = [(rng.uniform(0, 1), rng.randint(10**6, 10**7), k) for k in range(30)]
    case = {
        "links": {**own, **shared},
        "flows": [(start, size, [f"device {k}", f"cell {k % 4}", "ingress"]) for start, size, k in flows],
    }
    starts = [Start(start, size, own[f"device {k}"], crosses=(f"cell {k % 4}", "ingress")) for start, size, k in flows]
    (theirs,) = simgrid(python, [case])
    assert run(tree, starts, shared) == pytest.approx(theirs, rel=1e-6)
    assert run(general, starts, shared) == pytest.approx(theirs, rel=1e-6)
