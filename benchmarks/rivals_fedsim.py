"""A job of `rivals.py` with fedsim: in this process, or on two workers of one thread each.

    python -m benchmarks.rivals_fedsim JOB OUT one|two

A run of all rounds between two of one round, all waited for to the end: what the long one takes beyond the mean of the
short ones are the rounds without start-up. With workers the kernel runs ahead of them, so marks of rounds would tell
nothing. A short run before these takes what this process does for the first time, which would otherwise be subtracted
from the long one, in fedsim's favour. Selection and batches are fedsim's
own, from the same seed as those of the job: the runner checks that the weights agree.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import rivals_job
from benchmarks.overhead import dealt, inline
from benchmarks.workers import WORKERS, pooled


def main() -> None:
    """Run the job of a folder."""
    folder, out, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    job = rivals_job.read(folder)
    data, shards = dealt()

    def run(rounds: int) -> tuple[float, dict[str, Tensor]]:
        if mode == "one":
            return inline(job.name, data, shards, rounds)
        return pooled(job.name, rounds, WORKERS)

    run(1)
    before, first = run(1)
    long, last = run(job.rounds)
    after, _ = run(1)
    short = (before + after) / 2
    rivals_job.finish(
        out,
        seconds=[(long - short) / (job.rounds - 1)] * (job.rounds - 1),
        first={name: first[name].numpy() for name in job.weights},
        last={name: last[name].numpy() for name in job.weights},
        versions={name: version(name) for name in ("ray", "torch", "numpy")},
        extra=f"seconds of the short runs {before:.3f} and {after:.3f}, of the long one {long:.3f}",
    )


if __name__ == "__main__":
    main()
