"""Whether memory depends on the number of devices: the same data spread over 100, 1,000 and 10,000 of them.

    python benchmarks/memory.py [--rounds 30] [--repeats 3] [--json]

Each run is a process of its own: FedAvg of a small convolutional network, 10 devices a round, real training on 60,000
generated images. From its peak (`ru_maxrss`) that of a process is taken which imports the same and holds the data
only; of repeats the median counts.
Must show: what is left is within 1.3 times of each other for the three fleets.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from typing import Any

import numpy as np
import torch

from fedsim import seeds
from fedsim.data import DataSet, Iid, from_arrays
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.deferring import Deferring
from fedsim.learning.host import Host
from fedsim.learning.optimizers import Sgd, Training
from fedsim.learning.samples import TensorSamples
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import SmallCnn
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER
from fedsim.simulation import Inline
from fedsim.simulation.engine import Limits

FLEETS, PARTICIPANTS, SEED = (100, 1_000, 10_000), 10, 3
SAMPLES, SHAPE = 60_000, (1, 14, 14)
LIMIT = 1.3


def images() -> DataSet:
    """Generated images, made in place: nothing larger than the data is ever held."""
    rng = np.random.default_rng(0)
    x = rng.random((SAMPLES, *SHAPE), dtype=np.float32)
    y = rng.integers(0, 10, SAMPLES)
    return from_arrays(x, y, x[:1000], y[:1000], name="generated")


def train(data: DataSet, devices: int, rounds: int) -> None:
    """A run of so many devices, its model evaluated every round."""
    model = build("cnn", SmallCnn(hidden=128), input=SHAPE, classes=10, kind="image", device="cpu", seed=SEED)
    shards = Iid().deal(data.train.labels, None, devices, seeds.generator(SEED, SERVER, "partition"))
    fleet = Fleet(
        (Group(machine(load_profile("pi-tier-1")), load_link("wifi5"), devices),),
        machine(load_profile("cpu-60g")),
        load_link("ethernet-1g"),
    )
    assembly = Assembly(
        scheduler=FedAvg(local_steps=4),
        model=measure(model),
        cut=None,
        training=Training(batch=6, optimizer=Sgd(lr=0.02, momentum=0.9)),
        fleet=fleet,
        samples=shards.sizes(),
        participants=PARTICIPANTS,
        rounds=rounds,
        limits=Limits(),
        seed=SEED,
    )
    blocks = assembly.blocks()
    host = Deferring(Host(model, blocks, TensorSamples(data, shards, channels_last=True), SEED))
    simulation = assembly.simulation(Inline(host), blocks=blocks)
    simulation.run()
    assert simulation.published is not None


def peak(devices: int, rounds: int) -> int:
    """Peak bytes of a fresh process; 0 devices only holds the data."""
    command = [sys.executable, __file__, "--process", str(devices), "--rounds", str(rounds)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def process(devices: int, rounds: int) -> int:
    """What a process of its own does: run, and tell its peak in bytes."""
    torch.set_num_threads(1)
    data = images()
    if devices:
        train(data, devices, rounds)
    else:
        float(data.train.inputs.sum())  # every page touched
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> int:
    """Print a line a fleet; exit status 1 where memory depends on its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process is not None:
        print(process(arguments.process, arguments.rounds))
        return 0
    peaks = {
        fleet: statistics.median(peak(fleet, arguments.rounds) for _ in range(arguments.repeats))
        for fleet in (0, *FLEETS)
    }
    extra = {fleet: peaks[fleet] - peaks[0] for fleet in FLEETS}
    ratio = max(extra.values()) / min(extra.values())
    result: dict[str, Any] = {
        "rounds": arguments.rounds,
        "data_only_bytes": peaks[0],
        "peak_bytes": {str(fleet): peaks[fleet] for fleet in FLEETS},
        "beyond_data_bytes": {str(fleet): extra[fleet] for fleet in FLEETS},
        "ratio": ratio,
        "limit": LIMIT,
        "passed": ratio <= LIMIT,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{'devices':>8}  {'peak MB':>8}  {'beyond imports and data, MB':>28}")
        for fleet in FLEETS:
            print(f"{fleet:>8,}  {peaks[fleet] / 1e6:>8.1f}  {extra[fleet] / 1e6:>28.1f}")
        print(f"imports and data: {peaks[0] / 1e6:.1f} MB; ratio {ratio:.2f} (limit {LIMIT})")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
