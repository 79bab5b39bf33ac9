"""What a pool of two processes gains over one: the jobs of `overhead.py`, one thread each, side by side.

    python -m benchmarks.workers [--pairs 5] [--rounds 10] [--json]

Each pair times the job in this process, then with two workers, which are there before the clock starts; the ratio is
the median over pairs. No evaluation in either.
Must show: the CNN of 1.66 M parameters (50 clients a round, 5 steps of batch 10) at least 1.6 times as fast, and the
same weights to the bit. The MLP of 0.1 M parameters, whose client takes 5 ms, is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.overhead import SEED, dealt, fleet_job, inline, network
from fedsim.experiment.working import loads
from fedsim.learning.host import Host
from fedsim.learning.samples import TensorSamples
from fedsim.learning.shares.keeper import Keeper
from fedsim.simulation.pool import Pool
from fedsim.simulation.rays import crew

FLOOR = 1.6
WORKERS = 2
STORE = 512 * 2**20


def keeper(job: str) -> Keeper:
    """A share of a job, in a process of its own."""
    torch.set_num_threads(1)
    data, shards = dealt()
    assembly = fleet_job(job, shards, 1)
    samples = TensorSamples(data, shards, channels_last=assembly.training.channels_last)
    return Keeper(Host(network(job), assembly.blocks(), samples, SEED))


def pooled(job: str, rounds: int, workers: int) -> tuple[float, dict[str, Tensor]]:
    """Seconds of the run itself, and the weights at its end."""
    _, shards = dealt()
    assembly = fleet_job(job, shards, rounds)
    with crew(partial(keeper, job), workers, threads=1, address=None, store=STORE) as found:
        for lane in found.lanes:
            lane.wait()
        pool = Pool(found.lanes, loads(assembly))
        simulation = assembly.simulation(pool)
        start = time.perf_counter()
        simulation.run()
        pool.close()
        seconds = time.perf_counter() - start
        assert simulation.published is not None
        return seconds, pool.model_tensors(simulation.published.model)


def compare(job: str, pairs: int, rounds: int) -> dict[str, Any]:
    """Time pairs of runs of one job."""
    data, shards = dealt()
    times, same = [], True
    for _ in range(pairs):
        alone, weights = inline(job, data, shards, rounds)
        together, others = pooled(job, rounds, WORKERS)
        times.append((alone, together))
        same = same and all(tensor.equal(others[name]) for name, tensor in weights.items())
    ratio = statistics.median(alone / together for alone, together in times)
    return {
        "job": job,
        "inline_ms_a_round": 1e3 * statistics.median(t for t, _ in times) / rounds,
        "pool_ms_a_round": 1e3 * statistics.median(t for _, t in times) / rounds,
        "ratio": ratio,
        "same_weights": same,
        "passed": same and (job != "cnn" or ratio >= FLOOR),
    }


def main() -> int:
    """Print a line a job; exit status 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10, help="of the CNN; the MLP has ten times as many")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for job, rounds in (("cnn", arguments.rounds), ("mlp", 10 * arguments.rounds)):
        results.append(compare(job, arguments.pairs, rounds))
        if not arguments.json:
            print(
                "{job}: one process {inline_ms_a_round:.1f} ms, two workers {pool_ms_a_round:.1f} ms a round, "
                "{ratio:.2f} times as fast; same weights: {same_weights}".format(**results[-1]),
                flush=True,
            )
    if arguments.json:
        print(json.dumps(results))
    return 0 if all(result["passed"] for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
