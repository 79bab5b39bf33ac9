"""What fedsim costs above a bare PyTorch loop: the same FedAvg job, side by side in one process.

    python benchmarks/overhead.py [--pairs 5] [--rounds 20] [--json]

Two jobs: an MLP of about 0.1 M parameters (100 clients, 10 a round) and the CNN of McMahan et al. with 1.66 M
parameters (100 clients, 50 a round); five steps of batch 10 a client, generated 28x28 images. Each pair times the
bare loop, then fedsim; the ratio is the median over pairs, so that the machine's drift cancels out.
Must show: MLP at most 0.9, CNN at most 1.0 with `channels_last`; weights within 1e-5 norm-relative after one round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim import seeds
from fedsim.data import DataSet, Iid, Shards, from_arrays
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
from fedsim.models.options import Mlp, SmallCnn
from fedsim.models.units import UnitList
from fedsim.payload.tensors import FlatTensors
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER
from fedsim.simulation import Inline
from fedsim.simulation.engine import Limits

CLIENTS, STEPS, BATCH, LR, SEED = 100, 5, 10, 0.02, 3
JOBS: dict[str, tuple[str, Any, int]] = {"mlp": ("mlp", Mlp(hidden=[128]), 10), "cnn": ("cnn", SmallCnn(), 50)}
LIMITS = {"mlp": 0.9, "cnn": 1.0}

Weights = OrderedDict[str, Tensor]


def images(count: int) -> DataSet:
    """Generated 28x28 images of ten classes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, count)
    return from_arrays(x, y, x[:100], y[:100], name="generated")


def dealt() -> tuple[DataSet, Shards]:
    """The data of the jobs, and who holds which of them."""
    data = images(CLIENTS * 60)
    return data, Iid().deal(data.train.labels, None, CLIENTS, seeds.generator(SEED, SERVER, "partition"))


def network(job: str) -> UnitList:
    """The job's network with its initial weights."""
    name, options, _ = JOBS[job]
    return build(name, options, input=(1, 28, 28), classes=10, kind="image", device="cpu", seed=SEED)


class Bare:
    """FedAvg as one would write it in an afternoon: one model, one optimizer a client, sums in dictionaries."""

    def __init__(self, job: str, data: DataSet, shards: Shards) -> None:
        self.model = nn.Sequential(OrderedDict(network(job).named_children()))
        self.weights: Weights = OrderedDict((k, v.clone()) for k, v in self.model.state_dict().items())
        self.x = torch.tensor(data.train.inputs)
        self.y = torch.tensor(data.train.labels)
        self.shards = shards
        self.chosen = JOBS[job][2]
        self.rng = seeds.generator(SEED, SERVER, "selection")
        self.streams: dict[int, tuple[int, int, NDArray[np.int64]]] = {}

    def batches(self, client: int) -> list[NDArray[np.int64]]:
        """The client's next five batches, in the order that fedsim gives them."""
        taken = []
        epoch, start, order = self.streams.get(client) or (0, 0, self.order(client, 0))
        for _ in range(STEPS):
            taken.append(order[start : start + BATCH])
            start += len(taken[-1])
            if start == len(order):
                epoch, start, order = epoch + 1, 0, self.order(client, epoch + 1)
        self.streams[client] = (epoch, start, order)
        return taken

    def order(self, client: int, epoch: int) -> NDArray[np.int64]:
        """The client's samples in the order of one of its epochs."""
        shard = self.shards[client]
        return shard[seeds.generator(SEED, client, "batches", epoch).permutation(len(shard))]

    def round(self) -> None:
        """One round of federated averaging."""
        drawn = sorted(self.rng.choice(CLIENTS, size=self.chosen, replace=False).tolist())
        total: Weights | None = None
        for client in drawn:
            self.model.load_state_dict(self.weights)
            optimizer = torch.optim.SGD(self.model.parameters(), lr=LR)
            for index in self.batches(client):
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(self.x[index]), self.y[index]).backward()
                optimizer.step()
            n = len(self.shards[client])
            state = self.model.state_dict()
            if total is None:
                total = OrderedDict((k, v * n) for k, v in state.items())
            else:
                for k, v in state.items():
                    total[k] += v * n
        assert total is not None
        samples = sum(len(self.shards[c]) for c in drawn)
        self.weights = OrderedDict((k, v / samples) for k, v in total.items())


def fleet_job(job: str, shards: Shards, rounds: int) -> Assembly:
    """The job as a run of fedsim."""
    profile = load_profile("pi-tier-1")
    return Assembly(
        scheduler=FedAvg(local_steps=STEPS),
        model=measure(network(job)),
        cut=None,
        training=Training(batch=BATCH, optimizer=Sgd(lr=LR), channels_last=job == "cnn"),
        fleet=Fleet(
            (Group(machine(profile), load_link("wifi5"), CLIENTS),),
            machine(load_profile("cpu-60g")),
            load_link("ethernet-1g"),
        ),
        samples=shards.sizes(),
        participants=JOBS[job][2],
        rounds=rounds,
        limits=Limits(every=1e9),  # no evaluation: the bare loop has none either
        seed=SEED,
    )


def inline(job: str, data: DataSet, shards: Shards, rounds: int) -> tuple[float, dict[str, Tensor]]:
    """Seconds of the run itself, in this process, and the weights at its end."""
    assembly = fleet_job(job, shards, rounds)
    blocks = assembly.blocks()
    host = Deferring(Host(network(job), blocks, TensorSamples(data, shards, channels_last=job == "cnn"), SEED))
    simulation = assembly.simulation(Inline(_Unmeasured(host)), blocks=blocks)
    start = time.perf_counter()
    simulation.run()
    seconds = time.perf_counter() - start
    assert simulation.published is not None
    value = host.value(simulation.published.model[0])
    assert isinstance(value, FlatTensors)
    return seconds, value.named()


class _Unmeasured:
    """A host that is not asked for accuracy."""

    def __init__(self, host: Deferring) -> None:
        self.run, self.forget = host.run, host.forget

    def evaluate(self, *_: Any) -> Any:
        """Nothing: the bare loop does not evaluate either."""
        from fedsim.script import Quality

        return Quality(0.0, 0.0, 1)


def difference(ours: dict[str, Tensor], theirs: Weights) -> float:
    """Largest norm-relative difference of a tensor."""
    return max(float((ours[k] - v).norm() / v.norm()) for k, v in theirs.items())


def compare(job: str, pairs: int, rounds: int) -> dict[str, Any]:
    """Time pairs of runs of one job."""
    data, shards = dealt()
    bare = Bare(job, data, shards)
    bare.round()
    error = difference(inline(job, data, shards, 1)[1], bare.weights)
    times = []
    for _ in range(pairs):
        loop = Bare(job, data, shards)
        start = time.perf_counter()
        for _ in range(rounds):
            loop.round()
        times.append((time.perf_counter() - start, inline(job, data, shards, rounds)[0]))
    ratio = statistics.median(ours / theirs for theirs, ours in times)
    return {
        "job": job,
        "bare_ms_a_round": 1e3 * statistics.median(t for t, _ in times) / rounds,
        "fedsim_ms_a_round": 1e3 * statistics.median(t for _, t in times) / rounds,
        "ratio": ratio,
        "limit": LIMITS[job],
        "weights_after_one_round": error,
        "passed": ratio <= LIMITS[job] and error <= 1e-5,
    }


def main() -> int:
    """Print a line a job; exit status 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20, help="of the MLP; the CNN takes a tenth of them")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for job, rounds in (("mlp", arguments.rounds), ("cnn", max(1, arguments.rounds // 10))):
        results.append(compare(job, arguments.pairs, rounds))
        if not arguments.json:
            print(
                "{job}: bare {bare_ms_a_round:.1f} ms, fedsim {fedsim_ms_a_round:.1f} ms a round, ratio {ratio:.3f} "
                "(limit {limit}), weights after one round {weights_after_one_round:.1e}".format(**results[-1])
            )
    if arguments.json:
        print(json.dumps(results))
    return 0 if all(result["passed"] for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
