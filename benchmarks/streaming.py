"""Memory of every process of a pool over the number of devices: real training, 50 to 5,000 devices.

    python -m benchmarks.streaming [--rounds 3] [--svg FILE] [--json]

FedAvg of an MLP of 0.1 M parameters on 50,000 generated samples, spread over the devices, one step a device and round,
with two workers; each run starts processes of its own. Peaks (`ru_maxrss`) of the process that runs the clock, of the
worker that has the server, and of the other one; once with 50 devices a round, once with all of them.
Must show: with 50 a round, no process of 5,000 devices needs more than 1.1 times what it needs with 50. With all of
them the clock needs about 12 kB more a device, for its script, and workers a sum for every eight members of a round,
which are added up in one order, whoever has them (one process, which has all of them, needs a single sum).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
import torch

from benchmarks.scale import peak
from fedsim import seeds
from fedsim.data import DataSet, Iid, Shards, from_arrays
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.experiment.working import loads
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.host import Host
from fedsim.learning.optimizers import Sgd, Training
from fedsim.learning.samples import TensorSamples
from fedsim.learning.shares.keeper import Keeper
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import Mlp
from fedsim.models.units import UnitList
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER
from fedsim.simulation.engine import Limits
from fedsim.simulation.pool import Pool
from fedsim.simulation.rays import crew

FLEETS, FEW, SAMPLES, SEED = (50, 200, 1_000, 5_000), 50, 50_000, 3
LIMIT = 1.1
NAMES = ("clock", "server's worker", "other worker")


def data() -> DataSet:
    """Generated samples of 64 values."""
    rng = np.random.default_rng(0)
    x, y = rng.random((SAMPLES, 64), dtype=np.float32), rng.integers(0, 10, SAMPLES)
    return from_arrays(x, y, x[:100], y[:100], name="generated")


def network() -> UnitList:
    """0.1 M parameters."""
    return build("mlp", Mlp(hidden=[1024]), input=(64,), classes=10, kind="tabular", device="cpu", seed=SEED)


def shards(samples: DataSet, devices: int) -> Shards:
    """Everybody has as many."""
    return Iid().deal(samples.train.labels, None, devices, seeds.generator(SEED, SERVER, "partition"))


def job(dealt: Shards, participants: int, rounds: int) -> Assembly:
    """The run."""
    fleet = Fleet(
        (Group(machine(load_profile("pi-tier-1")), load_link("wifi5"), len(dealt)),),
        machine(load_profile("cpu-60g")),
        load_link("ethernet-1g"),
    )
    return Assembly(
        scheduler=FedAvg(local_steps=1),
        model=measure(network()),
        cut=None,
        training=Training(batch=10, optimizer=Sgd(lr=0.02)),
        fleet=fleet,
        samples=dealt.sizes(),
        participants=participants,
        rounds=rounds,
        limits=Limits(every=1e9),
        seed=SEED,
    )


def keeper(devices: int, participants: int, rounds: int) -> Keeper:
    """A share of it, in a process of its own."""
    torch.set_num_threads(1)
    samples = data()
    dealt = shards(samples, devices)
    blocks = job(dealt, participants, rounds).blocks()
    return Keeper(Host(network(), blocks, TensorSamples(samples, dealt, channels_last=False), SEED))


def process(devices: int, participants: int, rounds: int) -> list[int]:
    """Peaks in bytes: of this process, and of both workers."""
    dealt = shards(data(), devices)
    assembly = job(dealt, participants, rounds)
    make = partial(keeper, devices, participants, rounds)
    with crew(make, 2, threads=1, address=None, store=256 * 2**20) as found:
        pool = Pool(found.lanes, loads(assembly))
        assembly.simulation(pool).run()
        pool.close()
        return [peak(), *(lane.ask(lambda _: peak()) for lane in found.lanes)]


def run(devices: int, participants: int, rounds: int) -> list[int]:
    """The same, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--process", *map(str, (devices, participants, rounds))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    found: list[int] = json.loads(done.stdout)
    return found


def graph(found: dict[str, dict[int, list[int]]]) -> str:
    """Peaks over devices, as SVG."""
    width, height, left, bottom = 640, 360, 70, 50
    top = max(value for series in found.values() for peaks in series.values() for value in peaks) * 1.1
    colours = dict(zip(NAMES, ("#1b6ca8", "#c0392b", "#7d8c22"), strict=True))
    low, high = np.log10(FLEETS[0]), np.log10(FLEETS[-1])

    def at(devices: int, value: float) -> str:
        x = left + (np.log10(devices) - low) / (high - low) * (width - left - 150)
        return f"{x:.1f},{height - bottom - value / top * (height - bottom - 20):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="14">peak memory of each process (MB) over devices; dashed: all in every round</text>',
    ]
    for tick in range(0, int(top / 1e6), 200):
        y = at(FLEETS[0], tick * 1e6).split(",")[1]
        parts.append(f'<text x="{left - 8}" y="{y}" text-anchor="end">{tick}</text>')
        parts.append(f'<line x1="{left}" x2="{width - 150}" y1="{y}" y2="{y}" stroke="#ddd"/>')
    for devices in FLEETS:
        x = at(devices, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{height - bottom + 18}" text-anchor="middle">{devices:,}</text>')
    for kind, series in found.items():
        for number, name in enumerate(NAMES):
            points = " ".join(at(devices, peaks[number]) for devices, peaks in series.items())
            dashes = ' stroke-dasharray="5 4"' if kind == "all" else ""
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="2"{dashes}/>')
    for number, name in enumerate(NAMES):
        parts.append(f'<text x="{width - 140}" y="{60 + 20 * number}" fill="{colours[name]}">{escape(name)}</text>')
    return "\n".join((*parts, "</svg>\n"))


def main() -> int:
    """Print a table; exit status 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", nargs=3, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        print(json.dumps(process(*arguments.process)))
        return 0
    found: dict[str, dict[int, list[int]]] = {"few": {}, "all": {}}
    for devices in FLEETS:
        found["few"][devices] = run(devices, FEW, arguments.rounds)
        found["all"][devices] = run(devices, devices, arguments.rounds)
    growth = {kind: [b / a for a, b in zip(s[FLEETS[0]], s[FLEETS[-1]], strict=True)] for kind, s in found.items()}
    passed = max(growth["few"]) <= LIMIT
    if arguments.svg:
        arguments.svg.write_text(graph(found), encoding="utf-8")
    if arguments.json:
        print(json.dumps({"peaks": found, "growth": growth, "passed": passed}))
    else:
        print(f"{'devices':>8} {'a round':>8}  " + "  ".join(f"{name:>16}" for name in NAMES))
        for kind, series in found.items():
            for devices, peaks in series.items():
                cells = "  ".join(f"{value / 1e6:>13.0f} MB" for value in peaks)
                print(f"{devices:>8,} {FEW if kind == 'few' else devices:>8,}  {cells}")
        for kind, ratios in growth.items():
            said = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"5,000 over 50 devices, {'50 a round' if kind == 'few' else 'all of them'}: {said}")
        print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
